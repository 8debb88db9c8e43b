"""Serving on spot in the loop's terms: machines and offers become a fleet of pools, a decision becomes launches again.

The decision is `placement.POLICIES`', the one that the backtest measures. What it remembers comes from the ledger and
goes back there as plain values, and only when more has changed than the time: a fleet at rest writes nothing.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from policies import placement, pools
from policies.disruption import Leaving
from policies.lifecycle import LIVE, Status
from policies.placement import POLICIES
from policies.placing_published import Turn, Zones
from policies.serving import ON_DEMAND, Decision, Fleet, Goal, Replica
from policies.snapshot import Instance, Offer

#: Where nothing can be had on demand, an hour of it counts as this many of the dearest pool's.
UNOBTAINABLE = 3.0
#: A daemon that was away for longer did not see how the promise was kept.
UNWATCHED_SECONDS = 3600.0

Plain = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A spot pool: its offer, and what an hour costs there of as much throughput as the best offer's machine has."""

    offer: Offer
    price: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What the policy is told. `machines` are those that count towards the goal, `going` those that pools take back."""

    now: datetime
    sources: tuple[Source, ...]
    on_demand_price: float | None  # None: it is not to be had
    machines: tuple[Instance, ...]  # in the order of their launch
    going: tuple[Instance, ...]
    replaced: bool  # others, of an older spec, serve beside them


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What to launch (an offer, or None: something on demand) and why, who may go, and what to remember (None: what
    is remembered is still true)."""

    launches: tuple[tuple[Offer | None, str], ...] = ()
    waits: int = (
        0  # so many on demand may wait for as many of the spot machines that are asked now, until the next tick
    )
    stops: tuple[Leaving, ...] = ()
    memory: Plain | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What the ledger keeps: the policy's own memory, what it was about, and until when its answer is *nothing*."""

    policy: str = ""
    goal: Goal | None = None  # None: nothing was wanted
    pools: tuple[str, ...] = ()
    seen: tuple[tuple[float | None, float | None], ...] = ()  # by pool: when it took a machine back, when it refused
    quiet_until: float = 0.0
    ranks: tuple[tuple[int, str, int], ...] = ()  # pool, state, how many: while these hold, so does the answer
    own: Any = None


def answer(scene: Scene, goal: Goal, policy: str, remembered: Plain | None) -> Answer:
    """The policy's decision about this fleet. Pure; an unchanged world gives no launches, no stops and no memory."""
    now = scene.now.timestamp()
    names = tuple(source.offer.id for source in scene.sources)
    beyond = dict.fromkeys(one.offer_id for one in (*scene.machines, *scene.going) if _is_spot(one))
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
        lost=happened(names, seen, before, 0),
        refused=happened(names, seen, before, 1),
    )
    ranks = _ranks(fleet)
    starting = any(state == "starting" for _, state, _ in ranks)  # who is late is trusted no more
    if now < known.quiet_until and ranks == known.ranks and not (fleet.lost or fleet.refused or starting):
        return Answer()
    decision = POLICIES[policy](fleet, goal, known.own)
    quiet = not decision.launches and not decision.stops and decision.hold_seconds > 0
    after = _Known(
        policy=policy,
        goal=_wanted(goal),
        pools=names + unknown,
        seen=seen,
        quiet_until=round(now + decision.hold_seconds, 3) if quiet else 0.0,
        ranks=ranks,
        own=decision.memory,
    )
    return Answer(
        launches=_launches(scene, decision, goal, fleet),
        waits=decision.waits,
        stops=_stops(scene, decision, goal, fleet),
        memory=_plain(after) if _gist(after) != _gist(_restored(remembered)) else None,
        notes=_resting(scene, decision.memory, now),
    )


def story(remembered: Plain | None, now: datetime) -> tuple[str, ...]:
    """What is thought of each pool, in words for the person paying."""
    known = _restored(remembered)
    if known is None or not isinstance(known.own, placement.Memory):
        return ()
    at = now.timestamp()
    own = _not_ahead(known.own, at)
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
    known = _restored(remembered)
    if known is None or known.goal is None:
        return None
    own = known.own
    if isinstance(own, placement.Memory):
        own = _not_ahead(own, now.timestamp())
        left = tuple(pools.left(pool, now.timestamp()) for pool in own.pools)
        own = replace(own, at=now.timestamp(), pools=left, reached=False, short=False)
    return _plain(replace(known, goal=None, quiet_until=0.0, ranks=(), own=own))


def _recall(
    remembered: Plain | None, policy: str, names: tuple[str, ...], goal: Goal, scene: Scene, now: float
) -> _Known:
    """What is remembered, for these pools and this goal; another policy starts anew."""
    known = _restored(remembered)
    if known is None or known.policy != policy:
        return _Known(policy=policy)
    if isinstance(known.own, placement.Memory):
        own = placement.reordered(_not_ahead(known.own, now), known.pools, names)
        if known.goal != _wanted(goal):
            own = replace(own, review_at=own.at)
        if (
            known.goal is None
            or goal.replicas > known.goal.replicas
            or scene.replaced
            or now - own.at > UNWATCHED_SECONDS
        ):
            own = replace(own, reached=False)  # that some are still missing is nobody's loss
        if scene.on_demand_price is None:
            own = replace(own, pools=tuple(_asked_sooner(pool, now) for pool in own.pools))
        known = replace(known, own=own)
    elif known.pools != names:
        known = replace(known, own=None)  # theirs are places in a list that is no more
    changed = known.goal != _wanted(goal) or known.pools != names
    return replace(known, quiet_until=0.0) if changed else known


def _wanted(goal: Goal) -> Goal:
    """What makes the next decision another one. How long a start takes is measured anew all the time: it does not."""
    return replace(goal, cold_start_seconds=0.0)


def _asked_sooner(pool: pools.Pool, now: float) -> pools.Pool:
    """Without anything on demand to go on with, a pool that took one back rests no longer than one that refused.

    One that has refused since then rests by its refusals.
    """
    if pool.refusals:
        return pool
    since = now if pool.down_at is None else pool.down_at
    return replace(pool, retry_at=min(pool.retry_at, since + pools.BACKOFF_LONGEST_SECONDS))


def _not_ahead(memory: placement.Memory, now: float) -> placement.Memory:
    """A clock that was set back leaves a memory of the future: all of it is taken to have been so much earlier."""
    ahead = memory.at - now
    if ahead <= 0:
        return memory

    def earlier(at: float | None) -> float | None:
        return None if at is None else at - ahead

    def shifted(pool: pools.Pool) -> pools.Pool:
        pool = replace(pool, at=pool.at - ahead, retry_at=pool.retry_at - ahead)
        return replace(pool, held_since=earlier(pool.held_since), down_at=earlier(pool.down_at))

    known = tuple(shifted(pool) for pool in memory.pools)
    return replace(memory, at=now, review_at=memory.review_at - ahead, pools=known)


def events(offer: Offer) -> tuple[float | None, float | None]:
    """When this pool last took a machine back, and when it last refused one."""
    return (
        None if offer.lost_at is None else offer.lost_at.timestamp(),
        None if offer.refused_at is None else offer.refused_at.timestamp(),
    )


def happened(
    names: Sequence[str],
    seen: Sequence[tuple[float | None, float | None]],
    before: Mapping[str, tuple[float | None, float | None]],
    which: int,
) -> tuple[int, ...]:
    """The pools of which the ledger has something new. What was so before the first look teaches nothing."""
    return tuple(
        at
        for at, name in enumerate(names)
        if name in before and seen[at][which] is not None and seen[at][which] != before[name][which]
    )


def _on_demand_price(scene: Scene) -> float:
    if scene.on_demand_price is not None:
        return scene.on_demand_price
    return UNOBTAINABLE * max((source.price for source in scene.sources), default=1.0)


def _is_spot(machine: Instance) -> bool:
    return machine.purchase == "spot"


def _replicas(scene: Scene, names: Sequence[str], *, noticed: bool) -> tuple[Replica, ...]:
    place = {name: at for at, name in enumerate(names)}
    there = (*scene.machines, *(scene.going if noticed else ()))
    return tuple(
        Replica(
            id=number,
            pool=place[one.offer_id] if _is_spot(one) else ON_DEMAND,
            launched_at=one.requested_at.timestamp(),
            ready=one.status is Status.READY,
            reclaim_at=None if one.reclaim_at is None else one.reclaim_at.timestamp(),
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
    found: list[tuple[Offer | None, str]] = [(sources[one.pool].offer, one.reason) for one in spots]
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


def _stops(scene: Scene, decision: Decision, goal: Goal, fleet: Fleet) -> tuple[Leaving, ...]:
    """Who may go, the base on demand kept whatever the policy says of it."""
    spare = sum(one.pool == ON_DEMAND for one in fleet.replicas) - goal.base_on_demand
    gone = []
    for stop in decision.stops:
        machine = scene.machines[stop.id]
        if not _is_spot(machine):
            spare -= 1
            if spare < 0:
                continue
        gone.append(Leaving(instance=machine, reason=stop.reason))
    return tuple(gone)


def _resting(scene: Scene, own: Any, now: float) -> tuple[str, ...]:
    if not isinstance(own, placement.Memory):
        return ()
    until = {source.offer.id: pool.retry_at for source, pool in zip(scene.sources, own.pools, strict=False)}
    return tuple(
        f"{name} is left alone until {datetime.fromtimestamp(at, scene.now.tzinfo):%H:%M:%S} UTC"
        for name, at in until.items()
        if at > now
    )


def _gist(known: _Known | None) -> Any:
    """What must not be forgotten. The rest of a memory follows from it and from the time that has passed."""
    if known is None or not isinstance(known.own, placement.Memory):
        return known
    own = known.own
    settled = tuple(replace(pool, at=0.0, losses=0.0, partial=0.0, exposure=0.0) for pool in own.pools)
    return replace(known, own=replace(own, at=0.0, hours=0.0, short_hours=0.0, pools=settled))


def _plain(known: _Known) -> Plain:
    own = known.own
    if isinstance(own, Zones):
        own = {"preempting": sorted(own.preempting), "tried": list(own.tried)}
    elif own is not None:
        own = asdict(own)
    return asdict(replace(known, own=None)) | {"own": own}


def _restored(plain: Plain | None) -> _Known | None:
    """What `_plain` gave, also after JSON. None for what another version has written in another shape."""
    try:
        return None if plain is None else _shaped(plain)
    except (KeyError, TypeError, ValueError):
        return None


def _shaped(plain: Plain) -> _Known:
    own, policy = plain["own"], plain["policy"]
    if own is not None and policy == "hazard":
        own = placement.restored(own)
    elif own is not None and policy == "spothedge":
        own = Zones(preempting=frozenset(own["preempting"]), tried=tuple(own["tried"]))
    elif own is not None:
        own = Turn(**own)
    return _Known(
        policy=policy,
        goal=None if plain["goal"] is None else Goal(**plain["goal"]),
        pools=tuple(plain["pools"]),
        seen=tuple((lost_at, refused_at) for lost_at, refused_at in plain["seen"]),
        quiet_until=plain["quiet_until"],
        ranks=tuple((pool, state, count) for pool, state, count in plain["ranks"]),
        own=own,
    )


def returning(instances: Sequence[Instance]) -> tuple[Instance, ...]:
    """Spot machines that their pools are taking back: nothing new is launched there meanwhile."""
    there = (*LIVE, Status.DRAINING)
    return tuple(one for one in instances if one.reclaim_at is not None and one.status in there and _is_spot(one))
