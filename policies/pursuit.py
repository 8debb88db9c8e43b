"""What a batch with a deadline moves, where nobody else asks for replicas: its job, and where it runs."""

from dataclasses import replace

from policies import batch, candidates, disruption, openings, scaling, spot
from policies.candidates import Basket
from policies.plan import Launch, Target
from policies.policy import Policy
from policies.snapshot import JobState, Purchase, Snapshot
from policies.sources import Plain
from policies.stand import Moves, Stand, buy, kept, replicas_of, scaling_of, waiting
from policies.work import Work, overhead_seconds, speed_of


def pursued(snapshot: Snapshot, policy: Policy, stand: Stand) -> Moves | None:
    """The moves of the batch that has least time to spare; None: it goes along with what others ask for."""
    if not policy.takes_spot or not policy.wanted or not stand.bounds.open or stand.capped.stopped:
        return None
    steady, notes = candidates.candidates(snapshot, policy, stand.capped.spot_only)
    ranked = candidates.eligible(snapshot, policy)
    sources = candidates.sources(ranked, snapshot, policy)
    gpu = batch.gpu(sources, stand.current, policy.start_seconds)
    counted = [row for row in ranked if row.offer.purchase is not Purchase.SPOT or row.offer.gpu == gpu]
    work = _work(snapshot, policy, stand, speed_of((*steady, *counted)))
    if work is None or gpu is None or any(row.offer.purchase is Purchase.OWNED for row in steady):
        return None
    price = candidates.on_demand_price(ranked, ranked, snapshot, policy) if steady else None
    answer = batch.step(
        work,
        tuple(one for one in sources if one.offer.gpu == gpu),
        price,
        stand.current,
        stand.room,
        snapshot.now,
        snapshot.memory.get("deadline"),
    )
    basket = Basket.of(snapshot, policy, stand.staying, min(stand.launches_left, stand.room))
    spots = stand.launches_left - stand.bounds.max if steady else stand.launches_left
    missed = buy(basket, answer.launches, snapshot, ranked, steady, spots)
    due = answer.target or Target(replicas=0, reason="")
    replaced = disruption.outdated(stand.staying, due.replicas, policy.surge, stand.outdated)
    slept = spot.asleep(snapshot.now, snapshot.memory.get("placement"))
    return Moves(
        target=replace(due, reason=f"{stand.bounds.reason}; {work.items} items due: {due.reason}"),
        leaving=(*replaced, *answer.stops),
        launches=tuple(Launch(offer=row.offer, reason=reason) for row, reason in basket.chosen),
        notes=(*waiting(snapshot, stand), *(notes if missed else ())),
        memory=kept(deadline=answer.memory, placement=slept),
    )


def without_job(snapshot: Snapshot) -> dict[str, Plain]:
    """What is remembered of the pools when the last job with a deadline is over."""
    if any(job.deadline_at is not None for job in snapshot.jobs):
        return {}
    return kept(deadline=batch.finished(snapshot.memory.get("deadline")))


def _work(snapshot: Snapshot, policy: Policy, stand: Stand, speed: float | None) -> Work | None:
    """The job that has least time to spare, with those before it in the queue; None: others want replicas, or none."""
    due = [job for job in snapshot.jobs if job.deadline_at is not None]
    if not due or not speed:
        return None
    others = tuple(job for job in snapshot.jobs if job.deadline_at is None)
    idle = replace(replicas_of(snapshot, policy, stand.staying), last_target=0)  # what runs, runs for the job
    if scaling.target(snapshot.load, others, idle, stand.bounds, scaling_of(snapshot, policy)).replicas:
        return None
    works = [_of(job, snapshot, policy, stand, speed) for job in due]
    return min(works, key=lambda work: work.seconds - work.earliest_seconds(work.most))


def _of(job: JobState, snapshot: Snapshot, policy: Policy, stand: Stand, speed: float) -> Work:
    until = job.deadline_at or snapshot.now
    start = overhead_seconds(policy.start_seconds)
    work = Work(
        key=f"{job.id}@{until.isoformat()}",
        items=sum(one.items_left for one in snapshot.jobs if one.id <= job.id),
        seconds=openings.open_seconds(policy.schedule, snapshot.now, until, start),
        most=openings.fewest_machines(policy.schedule, snapshot.now, until),
        images_per_second=speed,
        start_seconds=policy.start_seconds,
    )
    late = work.earliest_seconds(work.most) > work.seconds  # then as many as may be while they may
    return replace(work, most=max(work.most, stand.bounds.max)) if late else work
