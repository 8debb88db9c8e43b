"""Whether a deployment can have read so many images by then, and when at the earliest."""

from datetime import datetime

from orchestrator import spec
from orchestrator.deployment import policy_of
from orchestrator.errors import Refused
from orchestrator.ledger import jobs, offers
from orchestrator.ledger.deployments import Deployment
from orchestrator.ledger.store import Ledger
from policies import batch, candidates
from policies.snapshot import Snapshot


def must_be_possible(ledger: Ledger, row: Deployment, items: int, deadline_at: datetime, now: datetime) -> None:
    """Raise Refused for a deadline that cannot be met with certainty, naming the earliest one that can."""
    if deadline_at <= now:
        raise Refused(f"--deadline {deadline_at:%Y-%m-%d %H:%M} UTC has passed already")
    at = earliest(ledger, row, items, now)
    if at is None or at <= deadline_at:
        return
    local = at.astimezone(spec.parse(row.spec, row.source).schedule_for(now).zone)
    raise Refused(
        f"--deadline: {items} images cannot be read with certainty by then; "
        f"the earliest that {row.name} can promise is {local:%Y-%m-%d %H:%M} ({local.tzname()})"
    )


def earliest(ledger: Ledger, row: Deployment, items: int, now: datetime) -> datetime | None:
    """When so many images are read at the latest if all that the spec allows starts to read on demand as soon as it is
    open, after what is in the queue already. None: nobody has measured how fast it reads, or it never opens.
    """
    wanted = spec.parse(row.spec, row.source)
    policy = policy_of(wanted, row, ledger)(now)
    with ledger.read() as tx:
        queued = sum(job.items_left for job in jobs.demand(tx, row.name, now))
        seen = Snapshot(
            now=now,
            deployment=row.name,
            digest="",
            offers=offers.known(tx, policy.providers),
            profiles=offers.profiles(tx, policy.model),
        )
    speeds = [row.profile.images_per_second for row in candidates.eligible(seen, policy) if row.profile is not None]
    if not speeds or not speeds[0]:
        return None
    most = max(1, wanted.replicas.max)
    work = batch.Work(
        key="",
        items=queued + items,
        seconds=0.0,
        most=most,
        images_per_second=speeds[0],
        start_seconds=policy.start_seconds,
    )
    return batch.open_for(policy.schedule, now, work.earliest_seconds(most), work.overhead_seconds)
