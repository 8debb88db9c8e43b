"""For how many minutes a replica was up and nobody looked."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from orchestrator.ledger.reporting import MINUTE, Ready
from policies.windows import Span

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def gap_minutes(ready: Sequence[Ready], evidence: Mapping[str, set[datetime]], period: Span) -> int:
    """Whole minutes of the period with a ready replica but neither a decision nor a load noted for its deployment.

    In such minutes the daemon was away: what was served then, and how well, is not known. Minutes that a replica was
    ready for only in part are no gap; a minute counts once a deployment, however many replicas it had.
    """
    gaps = 0
    for name in {one.deployment for one in ready}:
        looked = evidence.get(name, set())
        counted = _EPOCH
        for one in sorted((r for r in ready if r.deployment == name), key=lambda r: r.started_at):
            minute = max(_next_minute(max(one.started_at, period.opens_at)), counted)
            end = min(one.ended_at or period.closes_at, period.closes_at)
            while minute + MINUTE <= end:
                gaps += minute not in looked
                minute += MINUTE
            counted = max(counted, minute)
    return gaps


def _next_minute(at: datetime) -> datetime:
    past = (at - _EPOCH) % MINUTE
    return at if past == timedelta(0) else at - past + MINUTE
