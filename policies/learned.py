"""The default policy for batch work: hazards learned from the past, played out by dynamic programming.

One zone, or two, are solved as they are. Of more zones the best one (the running one, if any) is the first source of
the program and the rest together the second, with spares behind it; both have the market's typical hazards, and a
zone that is better or worse than typical counts as a typical one of another age: of the age at which it would be
expected to live as long.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

from policies.hazard import (
    AGES_HOURS,
    REVIEW_HOURS,
    Belief,
    Hazards,
    age_hours,
    bucket,
    life_hours,
    next_edge_hours,
    next_review_hours,
    share_up,
)
from policies.horizon import FIRST, NOTHING, SECOND, Atlas, Source, solve
from policies.horizon import ON_DEMAND as FALL_BACK
from policies.market import IDLE, ON_DEMAND, Job, Market, Step

#: Losses to be seen in a market before what followed them counts as much as the odds of its single zones.
SPARE_EVENTS = 20.0
#: In a market of many zones losses come in bunches; a program that takes them for independent spends its slack early.
#: It is told of so many times the losses.
CAUTION = 1.4

_DOWN = len(AGES_HOURS)
_HOUR = 3600


def propose(job: Job, market: Market, belief: Belief) -> Step:
    """The action with the least expected cost to the end of the job, from what the belief says of each zone."""
    zones = range(len(market.zones))
    first = job.running if job.running >= 0 else _best(job, market, belief, zones)
    others = [zone for zone in zones if zone != first]
    second = _best(job, market, belief, others) if others else first
    sources, states = _view(market, belief, first, second, others)
    atlas = solve(
        sources,
        on_demand_price=market.on_demand_price,
        overhead_hours=job.overhead_seconds / _HOUR,
        tick_hours=market.tick_seconds / _HOUR,
        left_hours=_rounded_up(job.left_seconds / _HOUR, job.deadline_seconds / _HOUR),
        slack_hours=max(0, job.deadline_seconds - job.work_seconds) / _HOUR,
    )
    running = {IDLE: NOTHING, ON_DEMAND: FALL_BACK}.get(job.running, FIRST)
    action = atlas.action(job.left_seconds / _HOUR, job.slack_seconds / _HOUR, running, *states)
    # Of many zones the second source is a crowd: who is not yet on spot enters by its best member, which is the first.
    enter = first if len(zones) > 2 and job.running < 0 and market.zones[first].up else second
    run = {NOTHING: IDLE, FALL_BACK: ON_DEMAND, FIRST: first, SECOND: enter}[action]
    return Step(run=run, reason=_reason(run, job, market, belief), hold_ticks=_hold(run, atlas, job, market, belief))


def _best(job: Job, market: Market, belief: Belief, zones: Sequence[int]) -> int:
    """The zone with the cheapest useful hour; one that is up before one that is down."""
    work, overhead = job.work_left_seconds / _HOUR, job.overhead_seconds / _HOUR

    def dearness(index: int) -> tuple[bool, float]:
        zone, seen = market.zones[index], belief.zones[index]
        if not zone.up:
            return True, -share_up(seen.hazards)
        life = life_hours(seen.hazards.losses, age_hours(seen, up=True), work)
        return False, zone.price * life / max(life - overhead, 0.1 * life)

    return zones[0] if len(zones) == 1 else min(zones, key=dearness)


def _view(
    market: Market, belief: Belief, first: int, second: int, others: list[int]
) -> tuple[tuple[Source, ...], tuple[int, ...]]:
    """The market as one source or two, and the state of each."""
    if len(others) < 2:
        seen = [first, *others]
        sources = tuple(Source(hazards=belief.zones[zone].hazards, price=market.zones[zone].price) for zone in seen)
        return sources, tuple(_state(market, belief, zone) for zone in seen)
    typical = _typical(tuple(zone.hazards for zone in belief.zones))
    rest = Hazards(losses=typical.losses, returns=belief.market.hazards.returns)
    shares = sorted(share_up(belief.zones[zone].hazards) for zone in others)[:-1]
    spare = _spare(belief, math.prod(1 - share for share in shares))
    sources = (
        Source(hazards=typical, price=market.zones[first].price),
        Source(hazards=rest, price=market.zones[second].price, spare=round(spare, 2), spares=round(sum(shares))),
    )
    states = [
        _as_typical(belief.zones[zone].hazards, age_hours(belief.zones[zone], up=True), typical)
        if market.zones[zone].up
        else _DOWN + bucket(min(age_hours(belief.zones[other], up=False) for other in group))
        for zone, group in ((first, [first]), (second, others))
    ]
    return sources, tuple(states)


def _state(market: Market, belief: Belief, zone: int) -> int:
    up = market.zones[zone].up
    return bucket(age_hours(belief.zones[zone], up=up)) + (0 if up else _DOWN)


@lru_cache(maxsize=64)
def _typical(zones: tuple[Hazards, ...]) -> Hazards:
    """The hazards of a typical zone, its losses weighted by how often a zone is up, with CAUTION."""
    shares = [share_up(zone) for zone in zones]
    losses, returns = [], []
    for index in range(len(AGES_HOURS)):
        met = sum(share * zone.losses[index] for share, zone in zip(shares, zones, strict=True))
        losses.append(CAUTION * met / sum(shares))
        returns.append(sum(zone.returns[index] for zone in zones) / len(zones))
    return Hazards(losses=tuple(losses), returns=tuple(returns))


def _spare(belief: Belief, none_up: float) -> float:
    """The chance that a loss leaves another zone up: as seen, or as if zones were independent while little was seen."""
    all_gone = sum(belief.market.losses) + SPARE_EVENTS * none_up
    return 1 - all_gone / (sum(sum(zone.losses) for zone in belief.zones) + SPARE_EVENTS)


def _as_typical(hazards: Hazards, age: float, typical: Hazards) -> int:
    """The age bucket at which a typical machine is expected to live as long as this one."""
    life = life_hours(hazards.losses, age)
    lives = _lives(typical)
    return min(range(len(lives)), key=lambda index: abs(math.log(lives[index] / life)))


@lru_cache(maxsize=64)
def _lives(hazards: Hazards) -> tuple[float, ...]:
    return tuple(life_hours(hazards.losses, edge) for edge in AGES_HOURS)


def _rounded_up(left_hours: float, most: float) -> float:
    """A whole number of reviews: one program serves until the next review, and late ones are short."""
    return min(most, math.ceil(left_hours / REVIEW_HOURS) * REVIEW_HOURS)


def _hold(run: int, atlas: Atlas, job: Job, market: Market, belief: Belief) -> int:
    """Ticks until the answer may change by itself: a start or a pause moves the slack, ages and reviews the odds."""
    if run == IDLE or run != job.running or job.overhead_left_seconds > 0:
        return 1
    hours = min(atlas.same_for_hours(job.left_seconds / _HOUR), next_review_hours(belief))
    for zone, seen in zip(market.zones, belief.zones, strict=True):
        hours = min(hours, next_edge_hours(age_hours(seen, up=zone.up)))
    return max(1, math.ceil(hours * _HOUR / market.tick_seconds - 1e-6))


def _reason(run: int, job: Job, market: Market, belief: Belief) -> str:
    slack = f"{job.slack_seconds / _HOUR:.1f} h of slack"
    if run == IDLE:
        return f"waiting for spot is worth more than the time: {slack}"
    if run == ON_DEMAND:
        why = "no spot machine is worth its start" if any(zone.up for zone in market.zones) else "no spot machine"
        return f"on-demand: {why}, {slack}"
    age = age_hours(belief.zones[run], up=True)
    return f"spot in {market.zones[run].name}, there for {age:.1f} h: {slack}"
