"""The only place where the policies meet: snapshot in, plan out."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from policies import batch, budget, candidates, choice, disruption, openings, scaling, spot, windows
from policies.candidates import Basket
from policies.disruption import Leaving
from policies.lifecycle import LIVE, STARTING, Status
from policies.plan import Action, Drain, Hours, Launch, Plan, Target, Terminate
from policies.policy import Policy
from policies.selection import Ranked
from policies.serving import Goal
from policies.snapshot import Instance, Offer, Purchase, Snapshot
from policies.spot import Plain

__all__ = ["Policy", "decide"]

#: an offer, or None: something on demand; and why
Wishes = Sequence[tuple[Offer | None, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stand:
    """Where a deployment stands before anything is bought or given up."""

    bounds: windows.Bounds
    capped: budget.Capped
    staying: tuple[Instance, ...]  # live, and nothing says that they must go
    outdated: frozenset[str]  # of those: they run by an older spec, or are no longer allowed

    @property
    def target(self) -> Target:
        return self.capped.target

    @property
    def current(self) -> tuple[Instance, ...]:
        return tuple(one for one in self.staying if one.id not in self.outdated)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moves:
    """Who leaves, what is launched, and what is to be remembered of it."""

    target: Target | None = None  # None: as it was
    leaving: tuple[Leaving, ...] = ()
    launches: tuple[Launch, ...] = ()
    notes: tuple[str, ...] = ()
    memory: dict[str, Plain] = field(default_factory=dict)


def decide(snapshot: Snapshot, policy: Policy) -> Plan:
    """Compare what is with what should be. An unchanged world gives an empty plan."""
    lost_causes = disruption.doomed(snapshot.instances, policy.patience, snapshot.now, snapshot.unreachable)
    stand = _stand(snapshot, policy, {one.instance.id for one in lost_causes})
    moves = _for_the_deadline(snapshot, policy, stand)
    moves = moves or _on_spot(snapshot, policy, stand) or _by_rank(snapshot, policy, stand)
    actions: list[Action] = []
    most = (stand.bounds.max + policy.surge) if policy.wanted else 0
    crowd = disruption.beyond(stand.staying, moves.leaving, most, stand.outdated)
    for one in (*lost_causes, *moves.leaving, *crowd):
        if one.instance.status is Status.READY:
            actions.append(Drain(instance_id=one.instance.id, reason=one.reason))
        elif not disruption.awaits_reclaim(one.instance, snapshot.now):
            actions.append(Terminate(instance_id=one.instance.id, reason=one.reason))
    for instance in snapshot.instances:
        if reason := disruption.finished(instance, policy.patience, snapshot.now):
            actions.append(Terminate(instance_id=instance.id, reason=reason))
    notes = moves.notes
    if stand.capped.note:
        notes = (stand.capped.note, *notes)
    if away := snapshot.unreachable.intersection(policy.providers):
        notes = (*notes, f"{', '.join(sorted(away))} cannot be reached: held as it is, nothing is launched there")
    if snapshot.strangers:
        notes = (*notes, f"not in this ledger, but ours by their tag: {', '.join(snapshot.strangers)}")
    return Plan(
        target=moves.target or stand.target,
        hours=_hours(policy, stand),
        actions=(*actions, *moves.launches),
        notes=notes,
        memory=moves.memory | _without_job(snapshot),
    )


def _stand(snapshot: Snapshot, policy: Policy, dropped: Collection[str]) -> _Stand:
    bounds = windows.bounds(policy.schedule, snapshot.now)
    staying = tuple(
        one for one in snapshot.instances if one.status in LIVE and one.id not in dropped and not one.terminating
    )
    if policy.wanted:
        target = _target(snapshot, policy, bounds, staying)
    else:
        target = Target(replicas=0, reason="taken down")
    return _Stand(
        bounds=bounds,
        capped=budget.cap(target, bounds.min, snapshot.spend, policy.limit),
        staying=staying,
        outdated=frozenset(one.id for one in staying if one.digest != snapshot.digest or not policy.allows(one)),
    )


def _target(snapshot: Snapshot, policy: Policy, bounds: windows.Bounds, staying: Sequence[Instance]) -> Target:
    """How many: when more are to come, each brings what the machine brings that would be taken next."""
    fleet = _fleet(snapshot, policy, staying)
    target = scaling.target(snapshot.load, snapshot.jobs, fleet, bounds, _scaling(snapshot, policy))
    if target.replicas <= len(staying):
        return target
    rows = _first(candidates.eligible(snapshot, policy), snapshot, policy, bounds, staying)
    return scaling.target(snapshot.load, snapshot.jobs, fleet, bounds, _scaling(snapshot, policy, rows))


def _first(
    rows: Sequence[Ranked],
    snapshot: Snapshot,
    policy: Policy,
    bounds: windows.Bounds,
    staying: Sequence[Instance],
) -> list[Ranked]:
    """In the order in which `halve plan` would have them for the load of now."""
    today = Counter(one.offer_id for one in staying)
    asked = scaling.asked(snapshot.load)
    return choice.first(rows, snapshot.profiles, policy, asked, max(1, bounds.max), today)


def _hours(policy: Policy, stand: _Stand) -> Hours:
    bounds, capped = stand.bounds, stand.capped
    if not policy.wanted or (bounds.open and capped.stopped):
        return Hours(open=False, opens_at=None, reason=capped.target.reason)
    return Hours(open=bounds.open, opens_at=bounds.opens_at, reason=bounds.reason)


def _fleet(snapshot: Snapshot, policy: Policy, up: Sequence[Instance]) -> scaling.Fleet:
    speeds = {gpu: candidates.speed(snapshot, policy, gpu) for gpu in {one.gpu for one in up}}
    raised = None if snapshot.raised_at is None else (snapshot.now - snapshot.raised_at).total_seconds()
    return scaling.Fleet(
        speeds=tuple(speeds[one.gpu] for one in up),
        starting=sum(one.status in STARTING for one in up),
        last_target=snapshot.last_target,
        raised_seconds_ago=raised if raised is None or raised >= 0 else None,  # none of the future
    )


def _scaling(snapshot: Snapshot, policy: Policy, rows: Sequence[Ranked] | None = None) -> scaling.Scaling:
    """What one more replica brings: one of the first of these offers, else of the best there is."""
    rows = candidates.eligible(snapshot, policy) if rows is None else rows
    speeds = (one.profile.images_per_second for one in rows if one.profile is not None)
    return scaling.Scaling(
        images_per_second=next(speeds, None), utilisation=policy.utilisation, start_seconds=policy.start_seconds
    )


def _for_the_deadline(snapshot: Snapshot, policy: Policy, stand: _Stand) -> _Moves | None:
    """What a batch with a deadline needs where nobody else asks for replicas; None: it goes along with the others."""
    if not policy.spot or not policy.wanted or not stand.bounds.open or stand.capped.stopped:
        return None
    steady, notes = candidates.candidates(snapshot, policy, stand.capped.spot_only)
    ranked = candidates.eligible(snapshot, policy)
    work = _work(snapshot, policy, stand, batch.speed((*steady, *ranked)))
    best = next((row.offer.gpu for row in ranked if row.offer.purchase is Purchase.SPOT), None)
    if work is None or best is None or any(row.offer.purchase is Purchase.OWNED for row in steady):
        return None
    sources = tuple(one for one in candidates.sources(ranked, snapshot, policy) if one.offer.gpu == best)
    price = candidates.on_demand_price(ranked, snapshot, policy) if steady else None
    answer = batch.step(work, sources, price, stand.current, snapshot.now, snapshot.memory.get("deadline"))
    target = Target(replicas=answer.replicas, reason=f"{stand.bounds.reason}; {work.items} items due: {answer.reason}")
    allowed, runaway = _allowed(snapshot, policy, stand)
    basket = Basket.of(snapshot, policy, stand.staying, min(allowed, _room(policy, stand)))
    spots = allowed - stand.bounds.max if steady else allowed
    missed = _buy(basket, answer.launches, snapshot, ranked, steady, spots)
    replaced = disruption.outdated(stand.staying, answer.replicas, policy.surge, stand.outdated)
    slept = spot.asleep(snapshot.now, snapshot.memory.get("placement"))
    return _Moves(
        target=target,
        leaving=(*replaced, *answer.stops),
        launches=tuple(Launch(offer=row.offer, reason=reason) for row, reason in basket.chosen),
        notes=(*runaway, *(notes if missed else ())),
        memory=_known(deadline=answer.memory, placement=slept),
    )


def _work(snapshot: Snapshot, policy: Policy, stand: _Stand, speed: float | None) -> batch.Work | None:
    """The job that has least time to spare, with those before it in the queue; None: others want replicas, or none."""
    due = [job for job in snapshot.jobs if job.deadline_at is not None]
    if not due or not speed:
        return None
    others = tuple(job for job in snapshot.jobs if job.deadline_at is None)
    idle = replace(_fleet(snapshot, policy, stand.staying), last_target=0)  # what runs, runs for the job
    if scaling.target(snapshot.load, others, idle, stand.bounds, _scaling(snapshot, policy)).replicas:
        return None
    start = batch.overhead_seconds(policy.start_seconds)
    works = []
    for job in due:
        if job.deadline_at is None:
            continue
        work = batch.Work(
            key=f"{job.id}@{job.deadline_at.isoformat()}",
            items=sum(one.items_left for one in snapshot.jobs if one.id <= job.id),
            seconds=openings.open_seconds(policy.schedule, snapshot.now, job.deadline_at, start),
            most=openings.fewest_machines(policy.schedule, snapshot.now, job.deadline_at),
            images_per_second=speed,
            start_seconds=policy.start_seconds,
        )
        late = work.earliest_seconds(work.most) > work.seconds  # then as many as may be while they may
        works.append(replace(work, most=max(work.most, stand.bounds.max)) if late else work)
    return min(works, key=lambda work: work.seconds - work.earliest_seconds(work.most))


def _without_job(snapshot: Snapshot) -> dict[str, Plain]:
    """What is remembered of the pools when the last job with a deadline is over."""
    if any(job.deadline_at is not None for job in snapshot.jobs):
        return {}
    return _known(deadline=batch.finished(snapshot.memory.get("deadline")))


def _known(**memory: Plain | None) -> dict[str, Plain]:
    return {name: plain for name, plain in memory.items() if plain is not None}


def _by_rank(snapshot: Snapshot, policy: Policy, stand: _Stand) -> _Moves:
    """Machines that nobody takes back: the missing ones of the best offers."""
    target = stand.target
    gone = disruption.leaving(stand.staying, target.replicas, policy.surge, stand.outdated)
    kept = _known(placement=spot.asleep(snapshot.now, snapshot.memory.get("placement")))
    missing = min(target.replicas - len(stand.current), target.replicas + policy.surge - len(stand.staying))
    if missing <= 0:
        return _Moves(leaving=gone, memory=kept)
    allowed, notes = _allowed(snapshot, policy, stand)
    if allowed <= 0:
        return _Moves(leaving=gone, notes=notes, memory=kept)
    found, notes = candidates.candidates(snapshot, policy, stand.capped.spot_only)
    if not found:
        notes = (*notes, f"{missing} replicas are missing and no offer can be taken now")
        return _Moves(leaving=gone, notes=notes, memory=kept)
    basket = Basket.of(snapshot, policy, stand.staying, min(missing, allowed))
    first = _first(found, snapshot, policy, stand.bounds, stand.staying)
    for row in first[: len(first) - len(found)]:
        basket.take([row])
    while basket.take(found) is not None:
        pass
    if basket.left > 0:
        notes = (*notes, "no more offers may be taken: capacity, or one unmeasured at a time")
    return _Moves(leaving=gone, launches=_launched(basket, target), notes=notes, memory=kept)


def _on_spot(snapshot: Snapshot, policy: Policy, stand: _Stand) -> _Moves | None:
    """Machines of one's own where they come first, for the rest what the placement policy says; None: no spot."""
    if stand.target.replicas == 0 or not policy.spot:
        return None
    ranked = candidates.eligible(snapshot, policy)
    steady, notes = candidates.candidates(snapshot, policy, stand.capped.spot_only)
    first = next((at for at, row in enumerate(ranked) if row.offer.purchase is Purchase.SPOT), len(ranked))
    mine = {row.offer.id for row in ranked[:first] if row.offer.purchase is Purchase.OWNED}
    others = [row for row in ranked if row.offer.id not in mine]
    beyond = tuple(one for one in stand.current if one.offer_id not in mine)
    if first == len(ranked) and not any(one.purchase is Purchase.SPOT for one in beyond):
        return None
    allowed, runaway = _allowed(snapshot, policy, stand)
    basket = Basket.of(snapshot, policy, stand.staying, min(allowed, _room(policy, stand)))
    owned = [row for row in steady if row.offer.id in mine]
    rest = stand.target.replicas - (len(stand.current) - len(beyond)) - sum(basket.free(row.offer) for row in owned)
    if rest <= 0:
        return None
    spots = allowed - stand.bounds.max if steady else allowed  # refused launches must not use up the runaway bound
    scene = spot.Scene(
        now=snapshot.now,
        sources=candidates.sources(ranked, snapshot, policy),
        on_demand_price=candidates.on_demand_price(others, snapshot, policy) if steady else None,
        machines=beyond,
        going=spot.returning(snapshot.instances),
        replaced=bool(stand.outdated),
    )
    goal = _goal(policy, stand, round(rest))
    answer = spot.answer(scene, goal, policy.placing, snapshot.memory.get("placement"))
    while basket.take(owned) is not None:
        pass
    if any(offer is None for offer, _ in answer.launches):
        steady = _first(steady, snapshot, policy, stand.bounds, stand.staying)
    missed = _buy(basket, answer.launches, snapshot, ranked, steady, spots, answer.waits)
    replaced = disruption.outdated(stand.staying, stand.target.replicas, policy.surge, stand.outdated)
    return _Moves(
        leaving=(*replaced, *answer.stops),
        launches=_launched(basket, stand.target),
        notes=(*runaway, *(answer.notes if missed or basket.chosen else ()), *(notes if missed else ())),
        memory=_known(placement=answer.memory),
    )


def _goal(policy: Policy, stand: _Stand, replicas: int) -> Goal:
    """So many beyond one's own machines, which are a base that nobody takes back."""
    base = 0 if stand.capped.spot_only else policy.base_on_demand  # the budget's word is the last one
    return Goal(
        replicas=replicas,
        cold_start_seconds=policy.start_seconds,
        availability=policy.availability,
        base_on_demand=max(0, min(base - (stand.target.replicas - replicas), replicas)),
        guard=policy.guard,
    )


def _buy(
    basket: Basket,
    wanted: Wishes,
    snapshot: Snapshot,
    ranked: Sequence[Ranked],
    steady: Sequence[Ranked],
    spots: int,
    waits: int = 0,
) -> bool:
    """Put what is wanted into the basket, at most so many spot machines. Returns whether something could not be had.

    Of what is wanted on demand, `waits` at most wait for as many of the spot machines that are asked for now: whether
    they are given is known at the next tick.
    """
    pools = {row.offer.id: row for row in ranked if row.offer.provider not in snapshot.unreachable}
    missed, asked = False, 0
    for offer, reason in wanted:  # spot comes first
        if offer is None and min(waits, asked) > 0:
            waits, asked = waits - 1, asked - 1
        elif offer is None:
            missed |= basket.take(steady, reason) is None
        elif spots > 0 and offer.id in pools and basket.take([pools[offer.id]], reason) is not None:
            spots, asked = spots - 1, asked + 1
        else:
            missed = True
    return missed


def _room(policy: Policy, stand: _Stand) -> int:
    return max(0, stand.bounds.max + policy.surge - len(stand.staying))


def _allowed(snapshot: Snapshot, policy: Policy, stand: _Stand) -> tuple[int, tuple[str, ...]]:
    """How many launches the runaway bound leaves; a word when there are none."""
    recent = sum(at <= snapshot.now for at in snapshot.recent_launches)  # none of the future: clocks are set back
    allowed = policy.launches_per_hour(stand.bounds.max) - recent
    return (allowed, ()) if allowed > 0 else (0, (f"{recent} launches in the last hour: waiting (runaway bound)",))


def _launched(basket: Basket, target: Target) -> tuple[Launch, ...]:
    return tuple(Launch(offer=row.offer, reason=f"{target.reason}; {reason}") for row, reason in basket.chosen)
