"""For how many minutes a replica was up and nobody looked."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.ledger.reporting import MICROSECONDS_PER_MINUTE, Ready, microseconds
from policies.windows import Span


def gap_minutes(ready: Iterable[Ready], evidence: Mapping[str, Sequence[int]], period: Span) -> int:
    """Whole minutes of the period with a ready replica but neither a decision nor a load noted for its deployment.

    In such minutes the daemon was away: what was served then, and how well, is not known. Minutes that a replica was
    ready for only in part are no gap; a minute counts once a deployment, however many replicas it had. `ready` by
    deployment and start, `evidence` in order.
    """
    start, end = microseconds(period.opens_at), microseconds(period.closes_at)
    gaps, name, counted = 0, "", 0
    for one in ready:
        if one.deployment != name:
            name, counted = one.deployment, 0
        left_at = end if one.ended_at is None else min(one.ended_at, end)
        first = max(-(-max(one.started_at, start) // MICROSECONDS_PER_MINUTE), counted)
        last = left_at // MICROSECONDS_PER_MINUTE
        if first < last:
            looked = evidence.get(name, ())
            gaps += last - first - (bisect_left(looked, last) - bisect_left(looked, first))
            counted = last
    return gaps
