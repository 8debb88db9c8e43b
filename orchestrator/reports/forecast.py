"""What a month will have cost at its end, from what it has cost so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from fractions import Fraction
from math import sqrt
from zoneinfo import ZoneInfo

from orchestrator.reports.days import Day
from orchestrator.reports.terms import Terms
from policies.windows import Schedule, Span, spans

MICROSECOND = timedelta(microseconds=1)
#: of 10 months, so many shall end within the range
RANGE_Z = 1.2816  # the normal distribution's 90th percentile: 10 % above, 10 % below
#: whole days behind us, below which a range would be made up
FEWEST_DAYS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Micro-units at the month's end. `low_micros` to `high_micros` holds 8 of 10; None: too few days to say."""

    micros: int
    low_micros: int | None = None
    high_micros: int | None = None


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


def ranged(
    micros: int, days: Sequence[Day], terms: Sequence[Terms], month: Span, now: datetime, zone: ZoneInfo
) -> Forecast:
    """The forecast with the range that the days so far give it.

    A day's cost lies around (open hours of the day x what an open hour has cost) with the standard deviation s of the
    whole days so far; the sum of m open days to come, foretold from n, with s x sqrt(m + m² / n): their own spread, and
    that of the mean. Nothing is foretold below what is spent.
    """
    today = now.astimezone(zone).date()
    whole = [day for day in days if day.date < today]
    hours = [_open_day(terms, zone, day, month.opens_at, now) for day in whole]
    opened = [(day.cost_micros, open_hours) for day, open_hours in zip(whole, hours, strict=True) if open_hours]
    if now >= month.closes_at or len(opened) < FEWEST_DAYS:
        return Forecast(micros=micros)
    pace = sum(cost for cost, _ in opened) / sum(open_hours for _, open_hours in opened)
    spread = sqrt(sum((cost - pace * open_hours) ** 2 for cost, open_hours in opened) / (len(opened) - 1))
    to_come = _open_days(terms, zone, now, month.closes_at)
    aside = round(RANGE_Z * spread * sqrt(to_come + to_come**2 / len(opened)))
    spent = sum(day.cost_micros for day in days)
    return Forecast(micros=micros, low_micros=min(micros, max(spent, micros - aside)), high_micros=micros + aside)


def _open_day(terms: Sequence[Terms], zone: ZoneInfo, day: Day, start: datetime, end: datetime) -> int:
    """Microseconds that deployments were open on a day, added up."""
    (span,) = spans(Schedule(zone=zone), day.date, day.date)
    total = 0
    for one in terms:
        since = max(start, span.opens_at, one.since or start)
        until = min(end, span.closes_at, one.until or end)
        total += _open(one.opening, since, until) if since < until else 0
    return total


def _open_days(terms: Sequence[Terms], zone: ZoneInfo, start: datetime, end: datetime) -> int:
    """Local days of [start, end) on which something that is still wanted opens."""
    dates: set[date] = set()
    for one in terms:
        for span in one.opening if one.until is None else ():
            first, last = max(span.opens_at, start), min(span.closes_at, end) - MICROSECOND
            if first <= last:
                begins, ends = (at.astimezone(zone).date() for at in (first, last))
                dates |= {begins + timedelta(days=ahead) for ahead in range((ends - begins).days + 1)}
    return len(dates)


def _open(opening: Sequence[Span], start: datetime, end: datetime) -> int:
    """Microseconds open in [start, end)."""
    return sum(
        max(timedelta(0), min(span.closes_at, end) - max(span.opens_at, start)) // MICROSECOND for span in opening
    )
