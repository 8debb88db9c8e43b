"""The default policy for batch work: hazards learned from the past, played out by dynamic programming.

One zone is solved as it is. Of several zones the best one (the running one, if any) is the first source of the program and the
rest together are the second: exact for two zones; for more the rest is one source with spares behind it.
"""

import math

from policies.hazard import (
    AGES_HOURS,
    Belief,
    Hazards,
    ZoneBelief,
    age_hours,
    bucket,
    next_edge_hours,
    next_review_hours,
    share_up,
)
from policies.horizon import FIRST, NOTHING, SECOND, Atlas, Source, solve
from policies.horizon import ON_DEMAND as FALL_BACK
from policies.market import IDLE, ON_DEMAND, Job, Market, Step

_DOWN = len(AGES_HOURS)


def propose(job: Job, market: Market, belief: Belief) -> Step:
    """The action with the least expected cost to the end of the job, from what the belief says of each zone."""
    first = job.running if job.running >= 0 else _best(market, belief, range(len(market.zones)), job)
    others = [zone for zone in range(len(market.zones)) if zone != first]
    second = _best(market, belief, others, job) if others else None
    sources = [Source(hazards=belief.zones[first].hazards, price=market.zones[first].price)]
    states = [_state(market, belief, first)]
    if second is not None:
        sources.append(_rest(market, belief, others))
        states.append(_rest_state(market, belief, others, second))
    hour = 3600.0
    slack = job.deadline_seconds - job.work_seconds
    atlas = solve(
        tuple(sources),
        on_demand_price=market.on_demand_price,
        overhead_hours=job.overhead_seconds / hour,
        tick_hours=market.tick_seconds / hour,
        left_hours=job.deadline_seconds / hour,
        slack_hours=max(0, slack) / hour,
    )
    running = {IDLE: NOTHING, ON_DEMAND: FALL_BACK}.get(job.running, FIRST)
    action = atlas.action(job.left_seconds / hour, job.slack_seconds / hour, running, *states)
    run = {NOTHING: IDLE, FALL_BACK: ON_DEMAND, FIRST: first, SECOND: second}[action]
    assert run is not None
    return Step(run=run, reason=_reason(run, job, market, belief), hold_ticks=_hold(run, atlas, job, market, belief))


def _hold(run: int, atlas: Atlas, job: Job, market: Market, belief: Belief) -> int:
    """Ticks until the answer could change by itself: a start or a pause moves the slack, ages and reviews move the odds."""
    if run == IDLE or run != job.running or job.overhead_left_seconds > 0:
        return 1
    hours = min(atlas.same_for_hours(job.left_seconds / 3600), next_review_hours(belief))
    for zone, seen in zip(market.zones, belief.zones, strict=True):
        hours = min(hours, next_edge_hours(age_hours(seen, up=zone.up)))
    return max(1, math.ceil(hours * 3600 / market.tick_seconds - 1e-6))


def _best(market: Market, belief: Belief, zones: "range | list[int]", job: Job) -> int:
    """The zone with the cheapest useful hour: one that is up before one that is down."""

    def dearness(index: int) -> tuple[bool, float]:
        zone, seen = market.zones[index], belief.zones[index]
        if not zone.up:
            return True, -share_up(seen)
        hours = _expected_hours(seen.hazards, age_hours(seen, up=True), job.work_left_seconds / 3600)
        overhead = job.overhead_seconds / 3600
        return False, zone.price * hours / max(hours - overhead, 0.1 * hours)

    return min(zones, key=dearness)


def _expected_hours(hazards: Hazards, age: float, most: float) -> float:
    """How long a machine of this age is expected to live on, counting at most `most` hours."""
    reach, total, used = 1.0, 0.0, 0.0
    edges = (*AGES_HOURS, math.inf)
    for low, high, rate in zip(edges, edges[1:], hazards.losses, strict=False):
        span = min(high - max(low, age), most - used)
        if span <= 0:
            continue
        survive = math.exp(-rate * span)
        total += reach * (1 - survive) / rate
        reach *= survive
        used += span
    return total


def _state(market: Market, belief: Belief, index: int) -> int:
    up = market.zones[index].up
    return bucket(age_hours(belief.zones[index], up=up)) + (0 if up else _DOWN)


def _rest_state(market: Market, belief: Belief, zones: list[int], best: int) -> int:
    if market.zones[best].up:
        return _state(market, belief, best)
    return _DOWN + bucket(min(age_hours(belief.zones[zone], up=False) for zone in zones))


def _rest(market: Market, belief: Belief, zones: list[int]) -> Source:
    """Several zones as one source: a typical machine of theirs, one of them to come back, one of them as a spare."""
    seen = [belief.zones[zone] for zone in zones]
    if len(zones) == 1:
        return Source(hazards=seen[0].hazards, price=market.zones[zones[0]].price)
    shares = [share_up(zone) for zone in seen]
    total = sum(shares)
    losses = tuple(
        sum(share * zone.hazards.losses[index] for share, zone in zip(shares, seen, strict=True)) / total
        for index in range(len(AGES_HOURS))
    )
    settled = sum(_mean_return(zone) for zone in seen) * (len(zones) - 1) / len(zones)
    returns = tuple(
        sum(zone.hazards.returns[index] for zone in seen) / len(zones) + settled for index in range(len(AGES_HOURS))
    )
    none_up = math.prod(1 - share for share in sorted(shares)[1:])
    price = sum(share * market.zones[zone].price for share, zone in zip(shares, zones, strict=True)) / total
    return Source(hazards=Hazards(losses=losses, returns=returns), price=price, spare=1 - none_up)


def _mean_return(zone: ZoneBelief) -> float:
    """Returns per hour of down time, whatever the age."""
    reach, hours = 1.0, 0.0
    edges = (*AGES_HOURS, math.inf)
    for low, high, rate in zip(edges, edges[1:], zone.hazards.returns, strict=False):
        survive = math.exp(-rate * (high - low))
        hours += reach * (1 - survive) / rate
        reach *= survive
    return 1 / hours


def _reason(run: int, job: Job, market: Market, belief: Belief) -> str:
    slack = f"{job.slack_seconds / 3600:.1f} h of slack"
    if run == IDLE:
        return f"waiting for spot is worth more than the time: {slack}"
    if run == ON_DEMAND:
        near = "no spot machine is worth its start" if any(zone.up for zone in market.zones) else "no spot machine"
        return f"on-demand: {near}, {slack}"
    age = age_hours(belief.zones[run], up=True)
    return f"spot in {market.zones[run].name}, there for {age:.1f} h: {slack}"
