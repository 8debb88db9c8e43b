"""Opening hours at one instant: whether a deployment is open, in its own time zone, and when that changes next."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

from policies.schedule import (
    Extra,
    MakeUp,
    Override,
    Schedule,
    Stretch,
    Window,
    instant,
    joined,
    month_first,
    opened,
)

__all__ = [
    "Bounds",
    "Extra",
    "MakeUp",
    "Override",
    "Schedule",
    "Span",
    "Window",
    "bounds",
    "next_edge",
    "next_opening",
    "spans",
]

#: how many local months, the current one included, are searched for the next change: 400 days and more
HORIZON_MONTHS = 15
_FOREVER = datetime.max.replace(tzinfo=UTC)  # the end of what does not close within the horizon


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
    start, end = instant(schedule.zone, first, 0), instant(schedule.zone, last + timedelta(days=1), 0)
    if _always_open(schedule):
        return (Span(opens_at=start, closes_at=end),) if start < end else ()
    plain, months = _plain(schedule), (last.year - first.year) * 12 + last.month - first.month + 1
    merged: list[Span] = []
    for stretch in opened(plain, first, months):
        opens_at, closes_at = max(stretch.opens_at, start), min(stretch.closes_at, end)
        if opens_at >= closes_at:
            continue
        if merged and merged[-1].closes_at == opens_at:
            opens_at = merged.pop().opens_at
        merged.append(Span(opens_at=opens_at, closes_at=closes_at))
    return tuple(merged)


def _ahead(schedule: Schedule, now: datetime) -> Iterator[Stretch]:
    """What is open from `now` on, the override included: disjoint, in order, each unlike the one that it touches.

    A closing at _FOREVER means none within the horizon.
    """
    stretches = _scheduled(schedule, now)
    override = schedule.override
    if override is not None and now < override.until:
        hold = _held_open if override.state == "open" else _held_closed
        stretches = hold(stretches, schedule, now, _utc(override.until))
    return joined(stretches)


def _scheduled(schedule: Schedule, now: datetime) -> Iterator[Stretch]:
    if _always_open(schedule):
        yield Stretch(opens_at=now, closes_at=_FOREVER, min=schedule.min, max=schedule.max)
        return
    today = now.astimezone(schedule.zone).date()
    horizon = instant(schedule.zone, month_first(today, HORIZON_MONTHS), 0)
    for stretch in opened(_plain(schedule), today, HORIZON_MONTHS):
        if stretch.closes_at > now:
            yield replace(stretch, closes_at=_FOREVER) if stretch.closes_at == horizon else stretch


def _held_closed(stretches: Iterable[Stretch], schedule: Schedule, now: datetime, until: datetime) -> Iterator[Stretch]:
    """Nothing before `until`; what is open then is an opening like any other, and so pre-warmed."""
    for stretch in stretches:
        if stretch.closes_at > until:
            yield replace(stretch, opens_at=max(stretch.opens_at, until))


def _held_open(stretches: Iterable[Stretch], schedule: Schedule, now: datetime, until: datetime) -> Iterator[Stretch]:
    """The gaps before `until` filled with the schedule's own bounds."""
    filled_to = now
    for stretch in stretches:
        if filled_to < min(stretch.opens_at, until):
            gap_end = min(stretch.opens_at, until)
            yield Stretch(opens_at=filled_to, closes_at=gap_end, min=schedule.min, max=schedule.max)
        filled_to = stretch.closes_at
        yield stretch
    if filled_to < until:
        yield Stretch(opens_at=filled_to, closes_at=until, min=schedule.min, max=schedule.max)


def _plain(schedule: Schedule) -> Schedule:
    """What of a schedule decides its openings: the key under which a month is remembered."""
    return replace(schedule, override=None, prewarm_seconds=0.0)


def _always_open(schedule: Schedule) -> bool:
    return not schedule.windows and not schedule.extra


def _warm_from(schedule: Schedule, stretch: Stretch) -> datetime:
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
