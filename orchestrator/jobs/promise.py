"""Whether a deployment can have read so many images by then, and when at the earliest."""

from datetime import datetime

from orchestrator import spec
from orchestrator.deployment import policy_of
from orchestrator.errors import Refused
from orchestrator.ledger import deployments, jobs, offers
from orchestrator.ledger.deployments import Deployment
from orchestrator.ledger.store import Ledger
from policies import candidates, due, openings
from policies.policy import Policy
from policies.snapshot import Snapshot
from policies.work import Work, speed_of


def must_be_possible(ledger: Ledger, row: Deployment, items: int, deadline_at: datetime, now: datetime) -> None:
    """Raise Refused for a deadline that cannot be met with certainty, naming the earliest one that can."""
    if deadline_at <= now:
        raise Refused(f"--deadline {deadline_at:%Y-%m-%d %H:%M} UTC has passed already")
    policy, seen = _seen(ledger, row, now)
    speed = _speed(seen, policy)
    if not speed:
        return  # nothing is promised; who submitted it is told so
    at = _earliest(policy, seen, speed, items)
    if at is None:
        raise Refused(f"--deadline: {row.name} is not open for long enough to read {items} images; see `halve windows`")
    if at <= deadline_at:
        return
    local = at.astimezone(spec.parse(row.spec, row.source).schedule_for(now).zone)
    raise Refused(
        f"--deadline: {items} images cannot be read with certainty by then; "
        f"the earliest that {row.name} can promise is {local:%Y-%m-%d %H:%M} ({local.tzname()})"
    )


def is_unmeasured(ledger: Ledger, name: str, now: datetime) -> bool:
    """Whether nobody has measured how fast a deployment reads: then no deadline is promised, and none refused."""
    with ledger.read() as tx:
        row = deployments.get(tx, name)
    if row is None:
        return True
    policy, seen = _seen(ledger, row, now)
    return not _speed(seen, policy)


def _speed(seen: Snapshot, policy: Policy) -> float | None:
    return due.firm_speed(seen, policy) if due.is_firm(seen, policy) else speed_of(candidates.eligible(seen, policy))


def _seen(ledger: Ledger, row: Deployment, now: datetime) -> tuple[Policy, Snapshot]:
    """What the deployment wants, and what of the world says how fast that reads."""
    policy = policy_of(spec.parse(row.spec, row.source), row, ledger)(now)
    with ledger.read() as tx:
        return policy, Snapshot(
            now=now,
            deployment=row.name,
            digest="",
            offers=offers.known(tx, policy.providers),
            profiles=offers.profiles(tx, policy.model),
            jobs=jobs.demand(tx, row.name, now),
        )


def _earliest(policy: Policy, seen: Snapshot, speed: float, items: int) -> datetime | None:
    """When so many images are read at the latest, after what is in the queue already, if as many machines as are sure
    to be had for it start to read on demand as soon as it is open. None: it is not open for long enough.
    """
    queued = seen.jobs
    work = Work(
        key="",
        items=sum(job.items_left for job in queued) + items,
        seconds=0.0,
        most=1,
        images_per_second=speed,
        start_seconds=policy.start_seconds,
    )
    firm = due.firm_machines(seen, policy) if due.is_firm(seen, policy) else None
    pursued = all(job.deadline_at is not None for job in queued)
    fewest: int | None = None
    at: datetime | None = None
    for bounds, until in openings.stretches(policy.schedule, seen.now):
        sure = openings.most_machines(bounds, pursued=pursued) if firm is None else min(bounds.max, firm)
        machines = max(1, int(sure))
        if fewest is None or machines < fewest:
            fewest = machines
            at = openings.open_for(policy.schedule, seen.now, work.earliest_seconds(fewest), work.overhead_seconds)
        if at is None or until is None or at <= until:
            return at
    return None
