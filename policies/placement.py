"""Serving on spot: where replicas run, and on what terms, so that the promised availability is kept at the least cost.

One number rules every choice: the price of an hour with too few replicas, in on-demand replica hours. It rises when the
promise has been kept worse than promised, and falls when better; with it, a hedge is worth its money or not: a second
pool, a few spare replicas, on-demand ones beside a pool too young to be trusted. On-demand replaces exactly what is
missing, is launched in the moment of the loss (on a notice, when spot machines were refused, if the promise is kept
well), and stops only when the replacement serves. A young pool seasons with one replica before it gets the rest.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from policies import placing_published, pools
from policies.policy import HAZARD, ON_DEMAND_ONLY
from policies.pools import Pool
from policies.serving import FOREVER, ON_DEMAND, Decision, Fleet, Goal, Launch, Placing, Replica, Stop

#: The price of an outage hour at a promise kept exactly, times the share of time that the promise leaves open.
PRICE_OF_OUTAGE = 0.15
#: What so many hours leave open, when it is overdrawn (left over), multiplies (divides) the price by e, within bounds.
DEBT_HOURS = 50.0
DEAREST = 60.0
CHEAPEST = 0.02
#: Aim at this share of the outage that the promise leaves open; how well it was kept is forgotten with this half-life.
MARGIN = 0.7
KEPT_HALF_LIFE_HOURS = 14 * 24.0
#: Nothing changes without an event for so long: the dwell of an allocation.
REVIEW_SECONDS = 600.0
#: It takes so long, beside the cold start, until a lost spare is replaced: pools refuse.
REPAIR_HOURS = 0.2
#: A pool that lost some machines loses more within a repair so much likelier than its hazard says.
AGAIN = 4.0
#: Of each replica asked for, so many spot ones at most, those included that are being replaced.
MOST_SPOT = 3
#: A launch that is not ready after this many cold starts is not counted on.
LATE = 1.5
#: The share of a price for which nobody moves to another pool.
HAIR = 0.05
#: An allocation is judged by the losses of the coming hour.
HORIZON_HOURS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """All that is remembered, as plain numbers: pools in the fleet's order, how the promise was kept, what is due."""

    at: float
    pools: tuple[Pool, ...]
    hours: float = 0.0  # watched since the goal was first reached
    short_hours: float = 0.0  # of them with too few replicas ready
    short: bool = False
    reached: bool = False
    wanted: tuple[int, ...] = ()
    review_at: float = 0.0


def place(fleet: Fleet, goal: Goal, memory: Memory | None = None) -> Decision:
    """What to launch and stop now. Pure: the same fleet, goal and memory give the same decision.

    Promises: at most MOST_SPOT spot replicas for each one asked for, and as many on-demand ones as asked for; none is
    stopped unless enough others serve at the moment in which it would.
    """
    now = fleet.now
    before = memory or Memory(at=now, pools=(Pool(at=now),) * len(fleet.pools))
    memory = _learned(fleet, goal, before)
    price = outage_price(goal, memory)
    staying = [one for one in fleet.replicas if one.reclaim_at is None]
    leaving = {one.pool for one in fleet.replicas if one.reclaim_at is not None}
    spots = Counter(one.pool for one in staying if one.pool != ON_DEMAND)
    open_pools = [at for at, pool in enumerate(memory.pools) if at not in leaving and pool.retry_at <= now]
    healed = spots.total() < goal.replicas and any(before.at < pool.retry_at <= now for pool in memory.pools)
    warned = any(memory.wanted[at] for at in leaving if memory.wanted)
    if fleet.lost or fleet.refused or warned or healed or now >= memory.review_at:
        enough = goal.replicas - goal.base_on_demand  # a pool that gives no more now is kept if it holds as many
        usable = {*open_pools, *(at for at, count in spots.items() if at not in leaving and count >= enough)}
        wanted = _allocation(fleet, goal, memory.pools, usable, spots, price)
        memory = replace(memory, wanted=wanted, review_at=now + REVIEW_SECONDS)
    hazards = [pools.hazard(pool, now) for pool in memory.pools]
    due = {at: count for at, count in enumerate(memory.wanted) if count}
    canaries = _unseasoned(due, goal, hazards, price)
    launches = [
        Launch(pool=at, reason=f"spot: {hazards[at]:.2g} losses per hour expected")
        for at in open_pools
        for _ in range((1 if at in canaries else memory.wanted[at]) - spots[at])
    ][: max(0, MOST_SPOT * goal.replicas - spots.total())]
    overpaid = _overpaid(fleet, spots, memory.wanted)
    trusted = _trusted(staying, overpaid | _unseasoned(spots, goal, hazards, price), goal, now)
    held = sum(one.pool == ON_DEMAND for one in staying)
    missing = _missing(goal, trusted) - held
    asked = min(missing - max(0, goal.base_on_demand - held), sum(one.pool not in canaries for one in launches))
    if not (goal.guard or fleet.refused) and sum(one.ready for one in fleet.replicas) >= goal.replicas:
        # Nothing is short yet: spot may answer first, if the step that a refusal would cost is cheaper than on-demand.
        missing -= asked if price * (1 - pools.SHARE_OF_UNKNOWN) < asked else 0
    waits = 0 if fleet.refused else max(0, min(asked, missing))
    launches += [Launch(pool=ON_DEMAND, reason=_why(goal, trusted, spots, overpaid))] * max(0, missing)
    stops = _stops(fleet, goal, staying, trusted, memory.wanted)
    if not launches and not stops and not any(spots[at] for at in canaries):
        stops = _relieved(goal, staying, memory, now)
    stopped = {one.id for one in stops}
    ready = sum(one.ready for one in fleet.replicas if one.id not in stopped)
    memory = replace(memory, short=ready < goal.replicas, reached=memory.reached or ready >= goal.replicas)
    changing = bool(launches or stops) or (held > goal.base_on_demand and spots.total() > 0)
    return Decision(
        launches=tuple(launches),
        stops=stops,
        memory=memory,
        waits=waits,
        hold_seconds=0.0 if changing else _quiet_until(memory, spots.total() < goal.replicas) - now,
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
    learned = []
    for at, known in enumerate(memory.pools):
        if at in lost:
            pool = pools.lost(known, now, some_left=at in held)
        elif at in held:
            pool = pools.advance(pools.held(known, now), now)
        else:
            pool = pools.left(known, now)
        learned.append(pools.refused(pool, now) if at in refused else pool)
    fade = 0.5 ** (hours / KEPT_HALF_LIFE_HOURS)
    return replace(
        memory,
        at=now,
        pools=tuple(learned),
        hours=memory.hours * fade + (hours if memory.reached else 0.0),
        short_hours=memory.short_hours * fade + (hours if memory.reached and memory.short else 0.0),
    )


def _allocation(
    fleet: Fleet,
    goal: Goal,
    known: Sequence[Pool],
    usable: Collection[int],
    spots: Counter[int],
    price: float,
) -> tuple[int, ...]:
    """How many spot replicas in each pool: the shape with the least cost per hour, its expected outage priced in."""
    need, cold = goal.replicas - goal.base_on_demand, goal.cold_start_seconds / 3600
    outage_price = price * fleet.on_demand_price
    hazards = {at: pools.hazard_ahead(known[at], fleet.now, HORIZON_HOURS) for at in usable}
    prices = _judged(fleet, spots)
    ranked = sorted(usable, key=lambda at: (need * prices[at] + outage_price * hazards[at] * cold, hazards[at], at))
    best: dict[int, int] = {}
    best_cost = need * fleet.on_demand_price if fleet.on_demand else math.inf  # the worst pool is better than nothing
    for shape in _shapes(need, goal.guard):
        if len(shape) > len(ranked):
            continue
        counts = dict(zip(ranked, shape, strict=False))
        cost = sum(count * fleet.pools[at] for at, count in counts.items())
        cost += sum(max(0, count - spots[at]) * fleet.pools[at] * cold for at, count in counts.items())
        if cost < best_cost:
            cost += outage_price * _outage(counts, need, known, hazards, cold)
        if cost < best_cost:
            best, best_cost = counts, cost
    return tuple(best.get(at, 0) for at in range(len(fleet.pools)))


def _judged(fleet: Fleet, spots: Counter[int]) -> list[float]:
    """Prices by which pools are compared: one that is cheaper by a hair than the cheapest we hold counts as that one.

    Prices wander, and a move costs a start in a pool that is not known as well.
    """
    held = min((fleet.pools[at] for at, count in spots.items() if count), default=0.0)
    return [held if (1 - HAIR) * held < price < held else price for price in fleet.pools]


def _shapes(need: int, guard: bool) -> list[tuple[int, ...]]:
    """Ways to spread `need` replicas and spares over pools, the steadiest pool first."""
    if need <= 0:
        return []
    half = -(-need // 2)
    hedged = [(need, need), (half, half, half)]
    if guard:
        return hedged
    return [(need,), (need + 1,), (need + 2,), (need, 1), (need + 1, 1), (need, 2), *hedged]


def _outage(
    counts: Mapping[int, int], need: int, known: Sequence[Pool], hazards: Mapping[int, float], cold: float
) -> float:
    """Expected hours of outage per hour: a loss that leaves too few, or two losses within a repair that do together."""
    total, repair, out = sum(counts.values()), cold + REPAIR_HOURS, 0.0
    for at, count in counts.items():
        some = pools.partial_share(known[at]) if count > 1 else 0.0
        whole, part = hazards[at] * (1 - some), hazards[at] * some
        if total - count < need:
            out += whole * cold
        else:
            beside = (other for other, more in counts.items() if other != at and total - count - more < need)
            out += whole * repair * sum(hazards[other] for other in beside) * cold
        if total - 1 < need:
            out += part * cold
        elif total - count < need:
            out += part * repair * AGAIN * hazards[at] * cold
    return min(out, 1.0)


def _unseasoned(counts: Mapping[int, int], goal: Goal, hazards: Sequence[float], price: float) -> frozenset[int]:
    """Pools that hold so many, whose loss would leave too few, and whose expected outage costs more than on-demand."""
    need, total = goal.replicas - goal.base_on_demand, sum(counts.values())
    cold = goal.cold_start_seconds / 3600
    uncovered = {at: min(count, need - (total - count)) for at, count in counts.items()}
    return frozenset(at for at, count in uncovered.items() if 0 < count <= price * hazards[at] * cold)


def _overpaid(fleet: Fleet, spots: Counter[int], wanted: Sequence[int]) -> frozenset[int]:
    """Pools that hold some, are wanted no more, and have become dearer than on-demand by more than a hair."""
    dear = (1 + HAIR) * fleet.on_demand_price if fleet.on_demand else math.inf
    return frozenset(at for at, count in spots.items() if count and not wanted[at] and fleet.pools[at] > dear)


def _trusted(staying: Sequence[Replica], others: Collection[int], goal: Goal, now: float) -> list[Replica]:
    """Spot replicas that need no on-demand ones beside them: not in these other pools, and ready or not yet late."""
    late = LATE * goal.cold_start_seconds
    return [
        one
        for one in staying
        if one.pool != ON_DEMAND and one.pool not in others and (one.ready or now <= one.launched_at + late)
    ]


def _missing(goal: Goal, trusted: Sequence[Replica]) -> int:
    """How many on-demand replicas there must be; with a guard, also for the loss of the largest pool."""
    counts = Counter(one.pool for one in trusted)
    lost = max(counts.values(), default=0) if goal.guard else 0
    return max(goal.base_on_demand, goal.replicas - len(trusted) + lost)


def _why(goal: Goal, trusted: Sequence[Replica], spots: Counter[int], overpaid: Collection[int]) -> str:
    if dear := sum(spots[at] for at in overpaid):
        return f"on-demand: {dear} spot replicas have become dearer than it"
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
        return fleet.now if one.ready else max(one.launched_at + cold, fleet.now + 1.0)

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


def _relieved(goal: Goal, staying: Sequence[Replica], memory: Memory, now: float) -> tuple[Stop, ...]:
    """Where nothing else moves and none seasons beside them: the youngest of more than are asked for, in a pool that is
    free to hold more and is wanted to hold fewer. MOST_SPOT of them would wait for one that may not come beside them.
    """
    spots = Counter(one.pool for one in staying if one.pool != ON_DEMAND)
    extra = {at for at, count in spots.items() if count > memory.wanted[at] and memory.pools[at].retry_at <= now}
    surplus = [one for one in staying if one.pool in extra]
    if not surplus or any(not one.ready for one in staying) or len(staying) <= goal.replicas:
        return ()
    return (Stop(id=max(surplus, key=lambda one: one.launched_at).id, reason="more than the allocation wants"),)


def _quiet_until(memory: Memory, missing: bool) -> float:
    """When to look again though nothing happens: at the next review, or when a pool may be asked for what lacks."""
    asked_again = (pool.retry_at for pool in memory.pools if missing and pool.retry_at > memory.at)
    return max(memory.at, min(memory.review_at, min(asked_again, default=FOREVER)))


def restored(plain: Mapping[str, Any]) -> Memory:
    """The memory of which `dataclasses.asdict` gave `plain`, also after JSON."""
    known = tuple(Pool(**pool) for pool in plain["pools"])
    return Memory(**{**plain, "pools": known, "wanted": tuple(plain["wanted"])})


def reordered(memory: Memory, before: Sequence[str], now: Sequence[str]) -> Memory:
    """The memory for pools of other names or order: what is known of a name is kept, a new one is untried."""
    known = dict(zip(before, memory.pools, strict=True))
    wanted = dict(zip(before, memory.wanted or (0,) * len(before), strict=True))
    return replace(
        memory,
        pools=tuple(known.get(name, Pool(at=memory.at)) for name in now),
        wanted=tuple(wanted.get(name, 0) for name in now),
        review_at=memory.at if tuple(before) != tuple(now) else memory.review_at,
    )


#: By name, our own first.
POLICIES: dict[str, Placing] = {
    HAZARD: place,
    "spothedge": placing_published.spothedge,
    "round-robin": placing_published.round_robin,
    ON_DEMAND_ONLY: placing_published.on_demand,
}
