"""What each local day cost."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from orchestrator.ledger.tallies import Tally
from policies.windows import Schedule, Span, spans


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """A local date and the known cost of it."""

    date: date
    cost_micros: int


def beginnings(zone: ZoneInfo, period: Span) -> list[tuple[date, datetime]]:
    """Every local date of the period with its first moment; a date that the zone skipped is not there."""
    last = (period.closes_at - timedelta(microseconds=1)).astimezone(zone).date()
    first = period.opens_at.astimezone(zone).date()
    dates = [first + timedelta(days=ahead) for ahead in range((last - first).days + 1)]
    return [(day, span.opens_at) for day in dates for span in spans(Schedule(zone=zone), day, day)]


def days(charged: Iterable[Tally], begun: Sequence[tuple[date, datetime]]) -> tuple[Day, ...]:
    """The known cost of each date; what was charged is cut at their beginnings."""
    starts = [at for _, at in begun]
    costs = [0] * len(starts)
    for one in charged:
        costs[max(bisect_right(starts, one.starts_at) - 1, 0)] += one.micros or 0
    return tuple(Day(date=day, cost_micros=cost) for (day, _), cost in zip(begun, costs, strict=True))


def spent(charged: Iterable[Tally], start: datetime, end: datetime) -> int:
    """What is known to be due in [start, end); what was charged is cut at both."""
    return sum(one.micros or 0 for one in charged if start <= one.starts_at < end)
