"""What is asked of a deployment: by its door now, by the ledger's minutes lately, and by past days soon."""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from orchestrator.ledger import deployments, jobs
from orchestrator.ledger.store import Transaction
from orchestrator.world import DoorLoad
from policies import forecast, windows
from policies.policy import Policy
from policies.snapshot import Load

MINUTE = timedelta(minutes=1)


def load(
    tx: Transaction, deployment: str, door: DoorLoad | None, policy: Policy, since: datetime, now: datetime
) -> Load:
    """Demand now, in the hold-down window (`since`), and one cold start ahead where the fleet may grow."""
    if door is None:
        return Load()
    minutes = deployments.load_minutes(tx, deployment, since)
    batch = jobs.read_lately(tx, deployment, since - 2 * MINUTE)
    expected = None
    bounds = windows.bounds(policy.schedule, now)
    if bounds.min < bounds.max and not batch:
        ahead = policy.start_seconds
        alike = [minute for day in forecast.past(policy.schedule, now, ahead) for minute in day]
        asked = deployments.asked(tx, deployment, alike)
        expected = forecast.expected(asked, policy.schedule, now, ahead)
    return Load(
        images_per_second=_not_of(batch, now, door.images_per_second * 60) / 60,
        peak_images_per_second=max((_not_of(batch, at, n) for at, n in minutes.items() if at <= now), default=0) / 60,
        expected_images_per_second=expected,
        waiting=door.waiting,
        complete=_watched(minutes, since, door.counted_since),
    )


def _not_of(batch: Mapping[datetime, int], at: datetime, images: float) -> float:
    """What of a minute's images nobody but callers at the door asked for: jobs with a deadline have a policy of their
    own. An image is answered a little before its item is settled, so the minutes beside it count too.
    """
    minute = at.replace(second=0, microsecond=0)
    read = max(batch.get(minute + beside * MINUTE, 0) for beside in (-2, -1, 0, 1))
    return max(0.0, images - 1.25 * read)


def _watched(known: Collection[datetime], since: datetime, counted_since: datetime | None) -> bool:
    """Whether all minutes but one are known of those that began after `since` and before the door counted."""
    if counted_since is None:
        return True
    minute, unknown = since.replace(second=0, microsecond=0) + MINUTE, 0
    while minute < counted_since:
        unknown += minute not in known
        minute += MINUTE
    return unknown <= 1
