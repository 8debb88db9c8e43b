"""Opening hours as they are written, and what of each local month they open.

Windows are half-open, [open, close), and belong to the local date that they start on. A wall time that the clocks skip
is the first instant that exists after it. Of one that comes twice, a start is the first and an end the second.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Literal
from zoneinfo import ZoneInfo

_DAY_MINUTES = 24 * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Open on these weekdays (Monday is 0) between two minutes of the local day.

    An end at or before the start lies on the next day; 1440 is midnight at the day's end.
    """

    days: frozenset[int]
    start_minute: int
    end_minute: int
    min: int | None = None  # replicas; None: the schedule's own
    max: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """Open on one date as well, whatever the calendar says."""

    date: date
    start_minute: int
    end_minute: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeUp:
    """A date that takes the windows of another weekday instead of its own."""

    date: date
    weekday: int  # Monday is 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A person's word: held open or closed until then, over everything else."""

    state: Literal["open", "closed"]
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """All that opening hours depend on. With neither windows nor extras it is always open."""

    zone: ZoneInfo
    windows: tuple[Window, ...] = ()
    holidays: frozenset[date] = frozenset()  # no window starts on these
    make_up: frozenset[MakeUp] = frozenset()
    closed: frozenset[date] = frozenset()  # nor on these, make-up or not
    extra: tuple[Extra, ...] = ()
    prewarm_seconds: float = 0.0
    override: Override | None = None
    min: int = 1  # replicas while open, where a window does not say
    max: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Open without a change of the replicas' bounds."""

    opens_at: datetime
    closes_at: datetime
    min: int
    max: int


def opened(plain: Schedule, start: date, count: int) -> Iterator[Stretch]:
    """What is open in so many local months, in order, from the one of `start` on: cut at their ends, not joined there.

    `plain` is a schedule without its override and pre-warming, which do not decide it: months are remembered by it.
    """
    for ahead in range(count):
        first = month_first(start, ahead)
        yield from _month(plain, first.year, first.month)


@lru_cache(maxsize=512)
def _month(plain: Schedule, year: int, month: int) -> tuple[Stretch, ...]:
    """What is open within one local month. Cached: every tick of a month asks for the same one."""
    first = date(year, month, 1)
    following = month_first(first, 1)
    start, end = instant(plain.zone, first, 0), instant(plain.zone, following, 0)
    # A window starts at most a day before the month; one day more covers zones that skip a date.
    dates = (date.fromordinal(day) for day in range(first.toordinal() - 2, following.toordinal() + 1))
    make_up = {day.date: day.weekday for day in plain.make_up}
    openings = [opening for day in dates for opening in _openings(plain, make_up, day)]
    clipped = [replace(o, opens_at=max(o.opens_at, start), closes_at=min(o.closes_at, end)) for o in openings]
    edges = sorted({edge for o in clipped if o.opens_at < o.closes_at for edge in (o.opens_at, o.closes_at)})
    stretches = []
    for opens_at, closes_at in pairwise(edges):
        active = [o for o in clipped if o.opens_at <= opens_at and closes_at <= o.closes_at]
        if active:
            fewest, most = max(o.min for o in active), max(o.max for o in active)
            stretches.append(Stretch(opens_at=opens_at, closes_at=closes_at, min=fewest, max=most))
    return tuple(joined(stretches))


def _openings(plain: Schedule, make_up: dict[date, int], day: date) -> Iterator[Stretch]:
    """The windows and extras that start on one local date, as they are written."""
    extras = (
        Window(days=frozenset(), start_minute=e.start_minute, end_minute=e.end_minute)
        for e in plain.extra
        if e.date == day
    )
    windows: Iterable[Window] = ()
    if day not in plain.closed and day not in plain.holidays:
        weekday = make_up.get(day, day.weekday())
        windows = (window for window in plain.windows if weekday in window.days)
    for window in (*windows, *extras):
        overnight = _DAY_MINUTES if window.end_minute <= window.start_minute else 0
        yield Stretch(
            opens_at=instant(plain.zone, day, window.start_minute),
            closes_at=instant(plain.zone, day, window.end_minute + overnight, is_end=True),
            min=plain.min if window.min is None else window.min,
            max=plain.max if window.max is None else window.max,
        )


def instant(zone: ZoneInfo, day: date, minute: int, *, is_end: bool = False) -> datetime:
    """The UTC instant of a wall time, `minute` minutes past the local midnight of `day`."""
    wall = (datetime.combine(day, time()) + timedelta(minutes=minute)).replace(tzinfo=zone)
    first, second = wall.astimezone(UTC), wall.replace(fold=1).astimezone(UTC)
    if second >= first:
        return second if is_end else first
    # Skipped: by PEP 495 the two readings then lie on either side of the transition. Close in on it.
    before, after = second, first
    while after - before > timedelta(seconds=1):
        middle = before + timedelta(seconds=(after - before) // timedelta(seconds=2))
        if middle.astimezone(zone).utcoffset() == second.astimezone(zone).utcoffset():
            before = middle
        else:
            after = middle
    return after


def month_first(day: date, ahead: int) -> date:
    """The first of the month that comes so many months after that of `day`."""
    months = day.year * 12 + day.month - 1 + ahead
    return date(months // 12, months % 12 + 1, 1)


def joined(stretches: Iterable[Stretch]) -> Iterator[Stretch]:
    """Those that touch and have the same bounds as one."""
    held: Stretch | None = None
    for stretch in stretches:
        if held is None:
            held = stretch
        elif (held.closes_at, held.min, held.max) == (stretch.opens_at, stretch.min, stretch.max):
            held = replace(held, closes_at=stretch.closes_at)
        else:
            yield held
            held = stretch
    if held is not None:
        yield held
