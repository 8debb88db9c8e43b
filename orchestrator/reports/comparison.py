"""This month beside an earlier one, like with like: the same number of days, to the same time of day."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from policies.windows import Schedule, Span, spans


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What the first `days` days of both months cost, as far as it is known; and what the earlier one cost whole."""

    month: str  # the earlier one
    days: int  # begun days that are compared
    micros: int  # of the report's month
    before_micros: int
    whole_micros: int  # of the earlier month


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """Two stretches from the starts of their months that may be compared, and the whole earlier month."""

    month: str
    days: int
    here: Span
    before: Span
    whole: Span


def local_month(zone: ZoneInfo, year: int, number: int) -> Span:
    """A calendar month of the zone in UTC."""
    first = date(year, number, 1)
    last = (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
    (span,) = spans(Schedule(zone=zone), first, last)
    return span


def alike(zone: ZoneInfo, year: int, number: int, until: datetime, months_ago: int) -> Alike | None:
    """The stretches to compare with the month so many months ago; None before 1970 and before the month begins.

    `until` is where the report ends. In a month that is over both are cut to the shorter of the two.
    """
    ago = year * 12 + number - 1 - months_ago
    earlier, earlier_number = divmod(ago, 12)
    if earlier < 1970:
        return None
    here, whole = local_month(zone, year, number), local_month(zone, earlier, earlier_number + 1)
    lengths = [_days(span, zone) for span in (here, whole)]
    if until <= here.opens_at:
        return None
    # by the clock on the wall: both stretches end at the same time of day, whatever the clocks did between
    passed = until.astimezone(zone).replace(tzinfo=UTC) - datetime(year, number, 1, tzinfo=UTC)
    month = f"{earlier}-{earlier_number + 1:02}"
    if passed >= timedelta(days=min(lengths)):
        days = min(lengths)
        cut = [_start_of_day(span, zone, days) for span in (here, whole)]
        return Alike(month=month, days=days, here=_to(here, cut[0]), before=_to(whole, cut[1]), whole=whole)
    then = (datetime(earlier, earlier_number + 1, 1, tzinfo=UTC) + passed).replace(tzinfo=zone).astimezone(UTC)
    before = _to(whole, max(whole.opens_at, min(whole.closes_at, then)))
    days = passed.days + (passed % timedelta(days=1) > timedelta(0))
    return Alike(month=month, days=days, here=_to(here, min(until, here.closes_at)), before=before, whole=whole)


def _to(span: Span, closes_at: datetime) -> Span:
    return Span(opens_at=span.opens_at, closes_at=closes_at)


def _days(span: Span, zone: ZoneInfo) -> int:
    first = span.opens_at.astimezone(zone).date()
    last = (span.closes_at - timedelta(microseconds=1)).astimezone(zone).date()
    return (last - first).days + 1


def _start_of_day(month: Span, zone: ZoneInfo, day: int) -> datetime:
    """The first moment of the local day after `day` days of the month, or the month's end."""
    first = month.opens_at.astimezone(zone).date()
    if day >= _days(month, zone):
        return month.closes_at
    (span,) = spans(Schedule(zone=zone), first + timedelta(days=day), first + timedelta(days=day))
    return span.opens_at
