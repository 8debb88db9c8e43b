"""Serving on spot in the loop's terms: machines and offers become a fleet of pools, a decision becomes launches again.

The decision is `placement.POLICIES`', the one that the backtest measures. What it remembers comes from the ledger and
goes back there as plain values, and only when more has changed than the time: a fleet at rest writes nothing.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from policies import placement, pools, room
from policies.disruption import RECOMMENDED_FOR, Leaving
from policies.lifecycle import LIVE, Status
from policies.placement import POLICIES
from policies.pools import Pool
from policies.serving import ON_DEMAND, Decision, Fleet, Goal, Replica
from policies.snapshot import Instance, Offer
from policies.sources import UNOBTAINABLE, UNWATCHED_SECONDS, Answer, Plain, Source, events, happened, is_spot
from policies.spot_memory import Known, asked_sooner, gist, not_ahead, plain, restored, wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What the policy is told. `machines` are those that count towards the goal, `going` those that pools take back."""

    now: datetime
    sources: tuple[Source, ...]
    on_demand_price: float | None  # None: it is not to be had
    machines: tuple[Instance, ...]  # in the order of their launch
    going: tuple[Instance, ...]  # or are recommended to be left: nothing is launched there meanwhile
    replaced: bool  # others, of an older spec, serve beside them
    full: bool = False  # so many are up as may be: who is to be replaced has to go first


def answer(scene: Scene, goal: Goal, policy: str, remembered: Plain | None) -> Answer:
    """The policy's decision about this fleet. Pure; an unchanged world gives no launches, no stops and no memory."""
    now = scene.now.timestamp()
    names = tuple(source.offer.id for source in scene.sources)
    beyond = dict.fromkeys(one.offer_id for one in (*scene.machines, *scene.going) if is_spot(one))
    unknown = tuple(name for name in beyond if name not in names)  # it runs there, and it is no longer on offer
    known = _recall(remembered, policy, names + unknown, goal, scene, now)
    seen = tuple(events(source.offer) for source in scene.sources) + ((None, None),) * len(unknown)
    before = dict(zip(known.pools, known.seen, strict=True))
    fleet = Fleet(
        now=now,
        on_demand_price=_on_demand_price(scene),
        pools=tuple(source.price for source in scene.sources) + (_on_demand_price(scene),) * len(unknown),
        # published rules know of no notice: they are told of a loss when it is announced
        replicas=_replicas(scene, names + unknown, noticed=POLICIES[policy] is placement.place),
        on_demand=scene.on_demand_price is not None,
        lost=happened(names, seen, before, 0),
        refused=happened(names, seen, before, 1),
    )
    ranks = _ranks(fleet)
    starting = any(state == "starting" for _, state, _ in ranks)  # who is late is trusted no more
    if now < known.quiet_until and ranks == known.ranks and not (fleet.lost or fleet.refused or starting):
        return Answer()
    decision = POLICIES[policy](fleet, goal, known.own)
    quiet = not decision.launches and not decision.stops and decision.hold_seconds > 0
    after = Known(
        policy=policy,
        goal=wanted(goal),
        pools=names + unknown,
        seen=seen,
        quiet_until=round(now + decision.hold_seconds, 3) if quiet else 0.0,
        ranks=ranks,
        own=decision.memory,
    )
    return Answer(
        launches=_launches(scene, decision, goal, fleet),
        waits=decision.waits,
        stops=_stops(scene, decision, goal, fleet) or _room(scene, decision, goal, fleet),
        memory=plain(after) if gist(after) != gist(restored(remembered)) else None,
        notes=_resting(scene, decision.memory, now),
    )


def story(remembered: Plain | None, now: datetime) -> tuple[str, ...]:
    """What is thought of each pool, in words for the person paying."""
    known = restored(remembered)
    if known is None or not isinstance(known.own, placement.Memory):
        return ()
    at = now.timestamp()
    own = not_ahead(known.own, at)
    lines = []
    for place, (name, pool) in enumerate(zip(known.pools, own.pools, strict=True)):
        wanted = own.wanted[place] if own.wanted else 0
        held = "" if pool.held_since is None else f", up for {pools.age_hours(pool, at):.1f} h as far as can be told"
        rests = f", left alone until {datetime.fromtimestamp(pool.retry_at, now.tzinfo):%H:%M:%S} UTC"
        lines.append(
            f"{name}: {wanted} wanted, {pools.hazard(pool, at):.2g} losses per hour expected{held}"
            f"{rests if pool.retry_at > at else ''}"
        )
    kept = 1 - own.short_hours / own.hours if own.hours > 0 else None
    if kept is not None:
        lines.append(f"as many as wanted were ready {kept:.2%} of the last {own.hours:.1f} h that were watched")
    return tuple(lines)


def asleep(now: datetime, remembered: Plain | None) -> Plain | None:
    """What to remember when nothing is to serve: nobody watches, no machine is held. None: it sleeps already."""
    known = restored(remembered)
    if known is None or known.goal is None:
        return None
    own = known.own
    if isinstance(own, placement.Memory):
        own = not_ahead(own, now.timestamp())
        left = tuple(pools.left(pool, now.timestamp()) for pool in own.pools)
        own = replace(own, at=now.timestamp(), pools=left, reached=False, short=False)
    return plain(replace(known, goal=None, quiet_until=0.0, ranks=(), own=own))


def _recall(
    remembered: Plain | None, policy: str, names: tuple[str, ...], goal: Goal, scene: Scene, now: float
) -> Known:
    """What is remembered, for these pools and this goal; another policy starts anew."""
    known = restored(remembered)
    if known is None or known.policy != policy:
        return Known(policy=policy)
    if isinstance(known.own, placement.Memory):
        own = placement.reordered(not_ahead(known.own, now), known.pools, names)
        if known.goal != wanted(goal):
            own = replace(own, review_at=own.at)
        if (
            known.goal is None
            or goal.replicas > known.goal.replicas
            or scene.replaced
            or now - own.at > UNWATCHED_SECONDS
        ):
            own = replace(own, reached=False)  # that some are still missing is nobody's loss
        if scene.on_demand_price is None:
            own = replace(own, pools=tuple(asked_sooner(pool, now) for pool in own.pools))
        known = replace(known, own=replace(own, pools=_rested(own.pools, names, scene)))
    elif known.pools != names:
        known = replace(known, own=None)  # theirs are places in a list that is no more
    changed = known.goal != wanted(goal) or known.pools != names
    return replace(known, quiet_until=0.0) if changed else known


def _rested(known: Sequence[Pool], names: Sequence[str], scene: Scene) -> tuple[Pool, ...]:
    """A pool that is recommended to be left rests as long as that is followed: it is not gone back to meanwhile."""
    until = {
        one.offer_id: (one.rebalance_at + RECOMMENDED_FOR).timestamp()
        for one in scene.going
        if one.reclaim_at is None and one.rebalance_at is not None
    }
    return tuple(
        replace(pool, retry_at=max(pool.retry_at, until.get(name, 0.0)))
        for name, pool in zip(names, known, strict=True)
    )


def _on_demand_price(scene: Scene) -> float:
    if scene.on_demand_price is not None:
        return scene.on_demand_price
    return UNOBTAINABLE * max((source.price for source in scene.sources), default=1.0)


def _replicas(scene: Scene, names: Sequence[str], *, noticed: bool) -> tuple[Replica, ...]:
    place = {name: at for at, name in enumerate(names)}
    there = (*scene.machines, *(scene.going if noticed else ()))
    leaves_at = {one.id: at for one in scene.going if (at := one.reclaim_at or one.rebalance_at) is not None}
    return tuple(
        Replica(
            id=number,
            pool=place[one.offer_id] if is_spot(one) else ON_DEMAND,
            launched_at=one.requested_at.timestamp(),
            ready=one.status is Status.READY,
            reclaim_at=leaves_at[one.id].timestamp() if one.id in leaves_at else None,
        )
        for number, one in enumerate(there)
    )


def _ranks(fleet: Fleet) -> tuple[tuple[int, str, int], ...]:
    """The fleet in a few numbers: replicas of one pool and state are as good as each other."""
    counts = Counter(
        (one.pool, "going" if one.reclaim_at is not None else "ready" if one.ready else "starting")
        for one in fleet.replicas
    )
    return tuple(sorted((pool, state, count) for (pool, state), count in counts.items()))


def _launches(scene: Scene, decision: Decision, goal: Goal, fleet: Fleet) -> tuple[tuple[Offer | None, str], ...]:
    """Launches by offer. Where nothing is to be had on demand, pools that were to season take what they are to hold."""
    sources, wanted = scene.sources, decision.launches
    spots = [one for one in wanted if ON_DEMAND < one.pool < len(sources)]
    found: list[tuple[Offer | None, str]] = [
        (sources[one.pool].offer, one.reason + _beside(sources[one.pool], scene)) for one in spots
    ]
    held = [one.reason for one in wanted if one.pool == ON_DEMAND]
    if scene.on_demand_price is not None:
        base = goal.base_on_demand - len(held) - sum(one.pool == ON_DEMAND for one in fleet.replicas)
        return (*found, *((None, reason) for reason in (*held, *["on-demand: the base"] * base)))
    own = decision.memory
    if not isinstance(own, placement.Memory):
        return tuple(found)
    taken = Counter(one.pool for one in fleet.replicas) + Counter(one.pool for one in spots)
    for at, source in enumerate(sources):
        if own.pools[at].retry_at <= fleet.now:
            more = max(0, min(len(held), own.wanted[at] - taken[at]))
            found += [(source.offer, "spot: nothing is to be had on demand")] * more
            held = held[more:]
    return tuple(found)


def _beside(source: Source, scene: Scene) -> str:
    """What the next best would cost."""
    return f", {source.price / scene.on_demand_price:.0%} of the price on demand" if scene.on_demand_price else ""


def _stops(scene: Scene, decision: Decision, goal: Goal, fleet: Fleet) -> tuple[Leaving, ...]:
    """Who may go, the base on demand kept whatever the policy says of it."""
    spare = sum(one.pool == ON_DEMAND for one in fleet.replicas) - goal.base_on_demand
    gone = []
    for stop in decision.stops:
        machine = scene.machines[stop.id]
        if not is_spot(machine):
            spare -= 1
            if spare < 0:
                continue
        gone.append(Leaving(instance=machine, reason=stop.reason))
    return tuple(gone)


def _room(scene: Scene, decision: Decision, goal: Goal, fleet: Fleet) -> tuple[Leaving, ...]:
    if not scene.full:
        return ()
    to_be_had = {*range(len(scene.sources)), *([ON_DEMAND] if fleet.on_demand else [])}
    asked = {one.pool for one in decision.launches} & to_be_had
    return room.made(scene.machines, fleet, goal, asked, decision.memory)


def _resting(scene: Scene, own: Any, now: float) -> tuple[str, ...]:
    if not isinstance(own, placement.Memory):
        return ()
    until = {source.offer.id: pool.retry_at for source, pool in zip(scene.sources, own.pools, strict=False)}
    return tuple(
        f"{name} is left alone until {datetime.fromtimestamp(at, scene.now.tzinfo):%H:%M:%S} UTC"
        for name, at in until.items()
        if at > now
    )


def returning(instances: Sequence[Instance]) -> tuple[Instance, ...]:
    """Spot machines that their pools are taking back: nothing new is launched there meanwhile."""
    there = (*LIVE, Status.DRAINING)
    return tuple(one for one in instances if one.reclaim_at is not None and one.status in there and is_spot(one))
