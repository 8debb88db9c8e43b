"""Serving on spot: where replicas run, and on what terms, so that the promised availability is kept at the least cost.

One number rules every choice: the price of an hour with too few replicas, in on-demand replica hours. It rises when the promise has
been kept worse than promised, and falls when better; with it, a hedge is worth its money or not: a second pool, a few spare
replicas, on-demand ones beside a pool too young to be trusted. On-demand replaces exactly what is missing, is launched in the moment
of the loss, and stops only when the replacement serves.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from policies import pools
from policies.pools import Pool, Weather
from policies.serving import FOREVER, ON_DEMAND, Decision, Fleet, Goal, Launch, Replica, Stop

#: The price of an outage hour at a promise kept exactly, times the share of time that the promise leaves open.
PRICE_OF_OUTAGE = 0.2
#: So many hours of outage more (less) than promised multiply (divide) the price by e, within these bounds.
DEBT_HOURS = 100.0
DEAREST = 60.0
CHEAPEST = 0.02
#: Aim at this share of the outage that the promise leaves open; how well it was kept is forgotten with this half-life.
MARGIN = 0.85
KEPT_HALF_LIFE_HOURS = 14 * 24.0
#: Nothing changes without an event for so long: the dwell of an allocation.
REVIEW_SECONDS = 600.0
#: It takes so long, beside the cold start, until a lost spare is replaced: pools refuse.
REPAIR_HOURS = 0.2
#: Losses in different pools within a repair are so much likelier than if independent.
TOGETHER = 1.0
#: A pool that lost some machines loses more within a repair so much likelier than its hazard says.
AGAIN = 4.0
MOST_POOLS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """All that is remembered, as plain numbers: pools in the fleet's order, how the promise was kept, what was last wanted."""

    at: float
    pools: tuple[Pool, ...]
    weather: Weather = Weather()
    hours: float = 0.0  # watched since the goal was first reached
    short_hours: float = 0.0  # of them with too few replicas ready
    short: bool = False
    reached: bool = False
    wanted: tuple[int, ...] = ()
    review_at: float = 0.0


def place(fleet: Fleet, goal: Goal, memory: Memory | None = None) -> Decision:
    """What to launch and stop now. Pure: the same fleet, goal and memory give the same decision; it reads nothing of the future.

    Promises: spot replicas never exceed what the allocation wants plus those about to be replaced; no replica is stopped unless, at
    the moment in which it would serve, enough others do.
    """
    now = fleet.now
    before = memory or Memory(at=now, pools=(Pool(at=now),) * len(fleet.pools))
    memory = _learned(fleet, goal, before)
    price = outage_price(goal, memory)
    staying = [one for one in fleet.replicas if one.reclaim_at is None]
    leaving = {one.pool for one in fleet.replicas if one.reclaim_at is not None}
    spots = Counter(one.pool for one in staying if one.pool != ON_DEMAND)
    hazards = [memory.weather.storm * pools.hazard(pool, now) for pool in memory.pools]
    healed = spots.total() < goal.replicas and any(before.at < pool.retry_at <= now for pool in memory.pools)
    if fleet.lost or fleet.refused or leaving or healed or now >= memory.review_at:
        usable = [
            at
            for at, pool in enumerate(memory.pools)
            if at not in leaving and (spots[at] or pool.retry_at <= now)
        ]
        wanted = _allocation(fleet, goal, memory.pools, hazards, usable, spots, price)
        memory = replace(memory, wanted=wanted, review_at=now + REVIEW_SECONDS)
    launches = [
        Launch(pool=at, reason=f"spot: {hazards[at]:.2g} losses per hour expected")
        for at, count in enumerate(memory.wanted)
        if count > spots[at] and memory.pools[at].retry_at <= now and at not in leaving
        for _ in range(count - spots[at])
    ]
    trusted = _trusted(staying, spots, goal, hazards, price, fleet.on_demand_price)
    missing = _missing(goal, trusted)
    held = [one for one in staying if one.pool == ON_DEMAND]
    launches += [Launch(pool=ON_DEMAND, reason=_why(goal, trusted, spots))] * max(0, missing - len(held))
    stops = _stops(fleet, goal, staying, trusted, memory.wanted)
    stopped = {one.id for one in stops}
    ready = sum(one.ready for one in fleet.replicas if one.id not in stopped)
    memory = replace(memory, short=ready < goal.replicas, reached=memory.reached or ready >= goal.replicas)
    calm = not launches and not stops and not held and spots.total() == sum(memory.wanted)
    return Decision(
        launches=tuple(launches),
        stops=stops,
        memory=memory,
        hold_seconds=memory.review_at - now if calm else _until_retry(memory, now) if not spots and not launches else 0.0,
    )


def outage_price(goal: Goal, memory: Memory) -> float:
    """What an hour with too few replicas may cost to avoid, in on-demand replica hours."""
    open_share = max(1e-6, 1.0 - goal.availability)
    debt = memory.short_hours - MARGIN * open_share * memory.hours
    factor = math.exp(max(-20.0, min(20.0, debt / (open_share * DEBT_HOURS))))
    return PRICE_OF_OUTAGE / open_share * max(CHEAPEST, min(DEAREST, factor))


def _learned(fleet: Fleet, goal: Goal, memory: Memory) -> Memory:
    """What happened since the last decision, taken in."""
    now = fleet.now
    hours = (now - memory.at) / 3600
    held = {one.pool for one in fleet.replicas if one.pool != ON_DEMAND}
    lost, refused = set(fleet.lost), set(fleet.refused)
    learned = list(memory.pools)
    expected = 0.0
    for at, pool in enumerate(learned):
        expected += pools.level(pool) * pools.at_risk(pool, now)
        if at in lost:
            pool = pools.lost(pool, now, some_left=at in held)
        elif at in held:
            pool = pools.held(pools.advance(pool, now), now)
        else:
            pool = pools.left(pool, now)
        learned[at] = pools.refused(pool, now) if at in refused else pool
    fade = 0.5 ** (hours / KEPT_HALF_LIFE_HOURS)
    return replace(
        memory,
        at=now,
        pools=tuple(learned),
        weather=pools.weathered(memory.weather, now, losses=len(lost), expected=expected),
        hours=memory.hours * fade + (hours if memory.reached else 0.0),
        short_hours=memory.short_hours * fade + (hours if memory.reached and memory.short else 0.0),
    )


def _allocation(
    fleet: Fleet,
    goal: Goal,
    known: Sequence[Pool],
    hazards: Sequence[float],
    usable: Sequence[int],
    spots: Counter[int],
    price: float,
) -> tuple[int, ...]:
    """How many spot replicas in each pool: the shape with the least cost per hour, its expected outage priced in."""
    need = goal.replicas - goal.base_on_demand
    ranked = sorted(usable, key=lambda at: (hazards[at], fleet.pools[at], at))[:MOST_POOLS]
    cold = goal.cold_start_seconds / 3600
    best, best_cost = (0,) * len(fleet.pools), need * fleet.on_demand_price
    for shape in _shapes(need, goal.guard):
        if len(shape) > len(ranked):
            continue
        chosen = ranked[: len(shape)]
        cost = sum(count * fleet.pools[at] for at, count in zip(chosen, shape, strict=True))
        cost += price * fleet.on_demand_price * _outage(shape, chosen, need, known, hazards, cold)
        cost += sum(
            max(0, count - spots[at]) * fleet.pools[at] * cold for at, count in zip(chosen, shape, strict=True)
        )
        if cost < best_cost:
            counts = dict(zip(chosen, shape, strict=True))
            best, best_cost = tuple(counts.get(at, 0) for at in range(len(fleet.pools))), cost
    return best


def _shapes(need: int, guard: bool) -> list[tuple[int, ...]]:
    """Ways to spread `need` replicas and spares over pools, the steadiest pool first."""
    half = -(-need // 2)
    hedged = [(need, need), (half, half, half)]
    if guard:
        return hedged
    return [(need,), (need + 1,), (need + 2,), (need, 1), (need + 1, 1), (need, 2), *hedged]


def _outage(
    shape: Sequence[int],
    chosen: Sequence[int],
    need: int,
    known: Sequence[Pool],
    hazards: Sequence[float],
    cold: float,
) -> float:
    """Expected hours of outage per hour: a loss that leaves too few, or two losses within a repair that do together."""
    total, repair, out = sum(shape), cold + REPAIR_HOURS, 0.0
    for at, count in zip(chosen, shape, strict=True):
        rate = hazards[at]
        some = pools.partial_share(known[at]) if count > 1 else 0.0
        if total - count < need:
            out += rate * (1 - some) * cold
        else:
            for other, beside in zip(chosen, shape, strict=True):
                if other != at and total - count - beside < need:
                    out += TOGETHER * rate * (1 - some) * repair * hazards[other] * cold
        if total - 1 < need:
            out += rate * some * cold
        elif total - count < need:
            out += AGAIN * rate * some * repair * rate * cold
    return min(out, 1.0)


def _trusted(
    staying: Sequence[Replica],
    spots: Counter[int],
    goal: Goal,
    hazards: Sequence[float],
    price: float,
    on_demand_price: float,
) -> list[Replica]:
    """Spot replicas that need no on-demand ones beside them: their pool is seasoned, or its loss leaves enough."""
    need = goal.replicas - goal.base_on_demand
    cold = goal.cold_start_seconds / 3600
    seasoned = set()
    for at, count in spots.items():
        uncovered = need - (spots.total() - count)
        if uncovered <= 0 or price * hazards[at] * cold < min(uncovered, count):
            seasoned.add(at)
    return [one for one in staying if one.pool in seasoned]


def _missing(goal: Goal, trusted: Sequence[Replica]) -> int:
    """How many on-demand replicas there must be; with a guard, as many as the loss of the largest pool would leave missing."""
    counts = Counter(one.pool for one in trusted)
    lost = max(counts.values(), default=0) if goal.guard else 0
    return max(goal.base_on_demand, goal.replicas - len(trusted) + lost)


def _why(goal: Goal, trusted: Sequence[Replica], spots: Counter[int]) -> str:
    if len(trusted) < spots.total():
        return f"on-demand: {spots.total() - len(trusted)} spot replicas are in pools too young to be trusted"
    if spots.total() + goal.base_on_demand < goal.replicas:
        return f"on-demand: {goal.replicas - goal.base_on_demand - spots.total()} spot replicas are missing"
    return "on-demand: the base, or the guard against losing a whole pool"


def _stops(
    fleet: Fleet, goal: Goal, staying: Sequence[Replica], trusted: Sequence[Replica], wanted: Sequence[int]
) -> tuple[Stop, ...]:
    """Surplus replicas, the latest to serve first, each only if enough others serve at the moment in which it would."""
    cold = goal.cold_start_seconds

    def serves_at(one: Replica) -> float:
        return fleet.now if one.ready else one.launched_at + cold

    kept = {one.id: one for one in staying}
    sure = {one.id for one in trusted}
    stops = []
    for one in sorted((one for one in staying if one.pool == ON_DEMAND), key=serves_at, reverse=True):
        on_demand = sum(other.pool == ON_DEMAND for other in kept.values())
        in_time = sum(
            serves_at(other) <= serves_at(one)
            for other in kept.values()
            if other.id != one.id and (other.pool == ON_DEMAND or other.id in sure)
        )
        if on_demand > _missing(goal, trusted) and in_time >= goal.replicas:
            stops.append(Stop(id=one.id, reason="its replacement serves" if one.ready else "spot replicas are in time"))
            del kept[one.id]
    for one in sorted((one for one in staying if one.pool != ON_DEMAND), key=serves_at, reverse=True):
        surplus = sum(other.pool == one.pool for other in kept.values()) - wanted[one.pool]
        in_time = sum(
            serves_at(other) <= fleet.now
            for other in kept.values()
            if other.id != one.id and (other.pool == ON_DEMAND or wanted[other.pool])
        )
        if surplus > 0 and in_time >= goal.replicas:
            stops.append(Stop(id=one.id, reason="more than the allocation wants"))
            del kept[one.id]
    return tuple(stops)


def _until_retry(memory: Memory, now: float) -> float:
    """How long until a pool may be asked again, with no spot replica and nothing to launch."""
    return min(memory.review_at, min((pool.retry_at for pool in memory.pools), default=FOREVER)) - now
