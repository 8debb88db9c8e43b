"""What a month will have cost at its end, from what it has cost so far."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from fractions import Fraction

from orchestrator.reports.terms import Terms
from policies.windows import Span

MICROSECOND = timedelta(microseconds=1)


def forecast(spent: Mapping[str, int], terms: Sequence[Terms], month: Span, now: datetime) -> int | None:
    """Known micro-units at the month's end: each deployment goes on as it did in its open hours so far this month.

    spent x (1 + open hours to come / open hours so far), rounded down. What is taken down, and what has no spec any
    more, costs no more. None while a deployment has hours to come and none behind it, or before the month begins.
    """
    if now < month.opens_at:
        return None
    by_name = {one.name: one for one in terms}
    total = 0
    for name in spent.keys() | by_name.keys():
        one, cost = by_name.get(name), spent.get(name, 0)
        since = month.opens_at if one is None or one.since is None else max(month.opens_at, one.since)
        to_come = 0 if one is None or one.until is not None else _open(one.opening, now, month.closes_at)
        behind = 0 if one is None else _open(one.opening, since, min(now, month.closes_at))
        if to_come and not behind:
            return None
        total += cost if not to_come else cost + int(cost * Fraction(to_come, behind))
    return total


def _open(opening: Sequence[Span], start: datetime, end: datetime) -> int:
    """Microseconds open in [start, end)."""
    return sum(
        max(timedelta(0), min(span.closes_at, end) - max(span.opens_at, start)) // MICROSECOND for span in opening
    )
