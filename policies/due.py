"""Deadlines that no game on spot is played for: one's own machines first, rented ones when those are too few.

What a machine reads is counted with the margins of `work`, and decided anew at every tick: as time runs out more are
wanted, and machines that read faster than was counted on let the others go.
"""

import math

from policies import candidates, openings, windows
from policies.plan import Target
from policies.policy import Policy
from policies.snapshot import JobState, Purchase, Snapshot
from policies.work import TIME_USED, Work, overhead_seconds


def raised(target: Target, snapshot: Snapshot, policy: Policy, bounds: windows.Bounds, up: int) -> Target:
    """The target, or as many as the batch that needs most of them has to have to be in time. `up`: so many are."""
    due = [job for job in snapshot.jobs if job.deadline_at is not None]
    if not due or not bounds.open or not is_firm(snapshot, policy):
        return target
    speed = firm_speed(snapshot, policy)
    if not speed:
        return target
    works = [_of(job, snapshot, policy, bounds, speed) for job in due]
    most = max(works, key=lambda work: _enough(work, up))
    replicas = min(_enough(most, up), bounds.max)
    if replicas <= target.replicas:
        return target
    return Target(replicas=replicas, reason=f"{bounds.reason}; {most.items} items due: {replicas} machines are in time")


def firm_speed(snapshot: Snapshot, policy: Policy) -> float | None:
    """Images a second that each machine is counted with: the slowest of one's own and of the first that is rented on
    demand. None: none of them is measured.
    """
    rows = [row for row in candidates.eligible(snapshot, policy) if row.offer.purchase is not Purchase.SPOT]
    rented = next((row for row in rows if row.offer.purchase is not Purchase.OWNED and row.profile is not None), None)
    counted = [row for row in rows if row.offer.purchase is Purchase.OWNED] + ([rented] if rented else [])
    speeds = [row.profile.images_per_second for row in counted if row.profile is not None]
    return min((speed for speed in speeds if speed), default=None)


def _enough(work: Work, up: int) -> int:
    """So many are in time with some of it to spare. Who is up has no start before him: nobody is called for that."""
    enough = work.machines()
    return min(up, enough) if up and work.each_seconds(up) <= TIME_USED * work.seconds else enough


def is_firm(snapshot: Snapshot, policy: Policy) -> bool:
    """Whether `pursuit` leaves it alone: there is no spot, or machines of one's own come first."""
    allowed = {offer.purchase for offer in snapshot.offers if policy.allows(offer)}
    return Purchase.OWNED in allowed or Purchase.SPOT not in allowed


def firm_machines(snapshot: Snapshot, policy: Policy) -> float:
    """How many are to be had that nobody takes back."""
    rows = [row for row in candidates.eligible(snapshot, policy) if row.offer.purchase is not Purchase.SPOT]
    return sum(math.inf if row.offer.capacity is None else row.offer.capacity for row in rows)


def _of(job: JobState, snapshot: Snapshot, policy: Policy, bounds: windows.Bounds, speed: float) -> Work:
    until = job.deadline_at or snapshot.now
    start = overhead_seconds(policy.start_seconds)
    return Work(
        key=str(job.id),
        items=sum(one.items_left for one in snapshot.jobs if one.id <= job.id),
        seconds=openings.open_seconds(policy.schedule, snapshot.now, until, start),
        most=max(1, bounds.max),
        images_per_second=speed,
        start_seconds=policy.start_seconds,
    )
