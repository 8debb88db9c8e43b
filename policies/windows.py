"""Opening hours: when a deployment is open, in its own time zone, and when that changes next.

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

#: how many local months, the current one included, are searched for the next change: 400 days and more
HORIZON_MONTHS = 15
_FOREVER = datetime.max.replace(tzinfo=UTC)  # the end of what does not close within the horizon
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
class Bounds:
    """How many replicas may be up at one instant. Closed and not pre-warming: none."""

    open: bool
    prewarm: bool  # closed still, but what will open is being started
    min: int
    max: int
    reason: str
    closes_at: datetime | None = None  # while open; None: not within the horizon
    opens_at: datetime | None = None  # while closed; None: not within the horizon


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Open from one instant to another, UTC."""

    opens_at: datetime
    closes_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stretch:
    """Open without a change of the replicas' bounds."""

    opens_at: datetime
    closes_at: datetime
    min: int
    max: int


def bounds(schedule: Schedule, now: datetime, held_seconds: float = 0.0) -> Bounds:
    """The bounds at `now`. Where windows overlap, the largest of their mins and the largest of their maxes hold.

    What runs already for an opening at most `held_seconds` ahead is pre-warmed, however short the pre-warming is now.
    """
    now = _utc(now)
    ahead = _ahead(schedule, now)
    first = next(ahead, None)
    if first is None:
        return Bounds(open=False, prewarm=False, min=0, max=0, reason=_reason(schedule, now, "closed", None))
    if first.opens_at <= now:
        closes_at = first.closes_at
        for following in ahead:
            if following.opens_at > closes_at:
                break
            closes_at = following.closes_at
        end = None if closes_at == _FOREVER else closes_at
        reason = _reason(schedule, now, "open", end)
        return Bounds(open=True, prewarm=False, min=first.min, max=first.max, reason=reason, closes_at=end)
    opens_at = first.opens_at
    if min(_warm_from(schedule, first), opens_at - timedelta(seconds=held_seconds)) <= now:
        reason = _reason(schedule, now, "pre-warming, closed", opens_at)
        return Bounds(open=False, prewarm=True, min=first.min, max=first.max, reason=reason, opens_at=opens_at)
    reason = _reason(schedule, now, "closed", opens_at)
    return Bounds(open=False, prewarm=False, min=0, max=0, reason=reason, opens_at=opens_at)


def next_edge(schedule: Schedule, now: datetime) -> datetime | None:
    """The next moment after `now` at which open, prewarm, min or max changes; None: not within the horizon."""
    now = _utc(now)
    first = next(_ahead(schedule, now), None)
    if first is None:
        return None
    if first.opens_at <= now:
        return None if first.closes_at == _FOREVER else first.closes_at
    warm_from = _warm_from(schedule, first)
    return warm_from if warm_from > now else first.opens_at


def next_opening(schedule: Schedule, now: datetime) -> datetime | None:
    """The next moment after `now` at which closed turns to open; None: not within the horizon."""
    now = _utc(now)
    closed_from = None
    for stretch in _ahead(schedule, now):
        if stretch.opens_at > now and stretch.opens_at != closed_from:
            return stretch.opens_at
        closed_from = stretch.closes_at
    return None


def spans(schedule: Schedule, first: date, last: date) -> tuple[Span, ...]:
    """When it is open on the local dates `first` to `last`, which are inclusive and clip; merged and in order.

    Pre-warm and the override are not counted: these are the hours that the schedule promises.
    """
    start, end = _instant(schedule.zone, first, 0), _instant(schedule.zone, last + timedelta(days=1), 0)
    if _always_open(schedule):
        return (Span(opens_at=start, closes_at=end),) if start < end else ()
    plain, months = _plain(schedule), (last.year - first.year) * 12 + last.month - first.month + 1
    merged: list[Span] = []
    for stretch in _months(plain, first, months):
        opens_at, closes_at = max(stretch.opens_at, start), min(stretch.closes_at, end)
        if opens_at >= closes_at:
            continue
        if merged and merged[-1].closes_at == opens_at:
            opens_at = merged.pop().opens_at
        merged.append(Span(opens_at=opens_at, closes_at=closes_at))
    return tuple(merged)


def _ahead(schedule: Schedule, now: datetime) -> Iterator[_Stretch]:
    """What is open from `now` on, the override included: disjoint, in order, each unlike the one that it touches.

    A closing at _FOREVER means none within the horizon.
    """
    stretches = _scheduled(schedule, now)
    override = schedule.override
    if override is not None and now < override.until:
        hold = _held_open if override.state == "open" else _held_closed
        stretches = hold(stretches, schedule, now, _utc(override.until))
    return _joined(stretches)


def _joined(stretches: Iterable[_Stretch]) -> Iterator[_Stretch]:
    held: _Stretch | None = None
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


def _scheduled(schedule: Schedule, now: datetime) -> Iterator[_Stretch]:
    if _always_open(schedule):
        yield _Stretch(opens_at=now, closes_at=_FOREVER, min=schedule.min, max=schedule.max)
        return
    today = now.astimezone(schedule.zone).date()
    horizon = _instant(schedule.zone, _month_first(today, HORIZON_MONTHS), 0)
    for stretch in _months(_plain(schedule), today, HORIZON_MONTHS):
        if stretch.closes_at > now:
            yield replace(stretch, closes_at=_FOREVER) if stretch.closes_at == horizon else stretch


def _held_closed(
    stretches: Iterable[_Stretch], schedule: Schedule, now: datetime, until: datetime
) -> Iterator[_Stretch]:
    """Nothing before `until`; what is open then is an opening like any other, and so pre-warmed."""
    for stretch in stretches:
        if stretch.closes_at > until:
            yield replace(stretch, opens_at=max(stretch.opens_at, until))


def _held_open(stretches: Iterable[_Stretch], schedule: Schedule, now: datetime, until: datetime) -> Iterator[_Stretch]:
    """The gaps before `until` filled with the schedule's own bounds."""
    filled_to = now
    for stretch in stretches:
        if filled_to < min(stretch.opens_at, until):
            gap_end = min(stretch.opens_at, until)
            yield _Stretch(opens_at=filled_to, closes_at=gap_end, min=schedule.min, max=schedule.max)
        filled_to = stretch.closes_at
        yield stretch
    if filled_to < until:
        yield _Stretch(opens_at=filled_to, closes_at=until, min=schedule.min, max=schedule.max)


def _months(plain: Schedule, start: date, count: int) -> Iterator[_Stretch]:
    for ahead in range(count):
        first = _month_first(start, ahead)
        yield from _month(plain, first.year, first.month)


@lru_cache(maxsize=512)
def _month(plain: Schedule, year: int, month: int) -> tuple[_Stretch, ...]:
    """What is open within one local month. Cached: every tick of a month asks for the same one."""
    first = date(year, month, 1)
    following = _month_first(first, 1)
    start, end = _instant(plain.zone, first, 0), _instant(plain.zone, following, 0)
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
            stretches.append(_Stretch(opens_at=opens_at, closes_at=closes_at, min=fewest, max=most))
    return tuple(_joined(stretches))


def _openings(plain: Schedule, make_up: dict[date, int], day: date) -> Iterator[_Stretch]:
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
        yield _Stretch(
            opens_at=_instant(plain.zone, day, window.start_minute),
            closes_at=_instant(plain.zone, day, window.end_minute + overnight, is_end=True),
            min=plain.min if window.min is None else window.min,
            max=plain.max if window.max is None else window.max,
        )


def _instant(zone: ZoneInfo, day: date, minute: int, *, is_end: bool = False) -> datetime:
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


def _month_first(day: date, ahead: int) -> date:
    months = day.year * 12 + day.month - 1 + ahead
    return date(months // 12, months % 12 + 1, 1)


def _plain(schedule: Schedule) -> Schedule:
    """What of a schedule decides its openings: the key under which a month is remembered."""
    return replace(schedule, override=None, prewarm_seconds=0.0)


def _always_open(schedule: Schedule) -> bool:
    return not schedule.windows and not schedule.extra


def _warm_from(schedule: Schedule, stretch: _Stretch) -> datetime:
    return stretch.opens_at - timedelta(seconds=schedule.prewarm_seconds)


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"{moment} is naive: opening hours need an aware moment")
    return moment.astimezone(UTC)


def _reason(schedule: Schedule, now: datetime, state: str, until: datetime | None) -> str:
    """For example: closed until Mon 2026-03-02 08:00 Asia/Shanghai (held closed until ...)."""

    def local(moment: datetime) -> str:
        return f"{moment.astimezone(schedule.zone):%a %Y-%m-%d %H:%M} {schedule.zone.key}"

    override, held = schedule.override, ""
    if override is not None and now < override.until:
        held = f" (held {override.state} until {local(override.until)})"
    if until is None:
        return f"{'always open' if state == 'open' else 'closed: no opening in sight'}{held}"
    return f"{state} until {local(until)}{held}"
