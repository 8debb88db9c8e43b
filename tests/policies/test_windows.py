"""Opening hours against a reference that walks the clock minute by minute, and the cases that are easy to get wrong."""

from bisect import bisect_right
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.windows import (
    Extra,
    MakeUp,
    Override,
    Schedule,
    Window,
    bounds,
    next_edge,
    next_opening,
    spans,
)

MON, TUE, WED, THU, FRI, SAT, SUN = range(7)
EPOCH = datetime(2025, 12, 1, tzinfo=UTC)  # minute 0 of the reference
FIRST, LAST = date(2026, 1, 1), date(2027, 12, 31)
MINUTES = 800 * 1440
ZONES = {
    "Asia/Shanghai": "no summer time; Monday morning is Sunday in UTC",
    "Europe/Berlin": "summer time",
    "America/New_York": "summer time, west of UTC",
    "Australia/Lord_Howe": "summer time of 30 minutes, southern",
    "Europe/Dublin": "negative summer time",
    "America/Havana": "clocks change at midnight",
    "Asia/Beirut": "clocks change at midnight",
    "Africa/Cairo": "clocks change at the end of a day",
    "America/Santiago": "clocks change at the end of a day, southern",
    "America/Scoresbysund": "the repeated hour lies on two dates",
    "Africa/Casablanca": "goes back for Ramadan, twice a year at odd dates",
    "Pacific/Apia": "UTC+13",
    "Pacific/Kiritimati": "UTC+14",
    "Asia/Kathmandu": "45 minutes off",
    "UTC": "none",
}


def window(days: str, hours: str, **bounds: int) -> Window:
    names = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
    start, end = (int(text[:2]) * 60 + int(text[3:]) for text in hours.split("-"))
    return Window(
        days=frozenset(names.index(day) for day in days.split()), start_minute=start, end_minute=end, **bounds
    )


WORKDAYS, ALL_WEEK = "Mon Tue Wed Thu Fri", "Mon Tue Wed Thu Fri Sat Sun"
SCHEDULES = {
    "workdays": (window(WORKDAYS, "08:00-20:00"),),
    "to a quarter past": (window(WORKDAYS, "06:30-22:10"), window("Sat", "10:00-16:00")),
    "over the usual change": (window(ALL_WEEK, "22:00-02:30"),),
    "within the usual change": (window(ALL_WEEK, "01:30-01:45"), window(ALL_WEEK, "02:10-02:40")),
    "ends where it starts to change": (window(ALL_WEEK, "00:00-01:00"), window(ALL_WEEK, "01:45-02:00")),
    "starts where it ends to change": (window(ALL_WEEK, "02:00-03:00"), window("Mon", "03:00-03:01")),
    "around midnight": (window("Mon Wed Sat", "23:59-00:01"),),
    "up to midnight, from midnight": (window("Sat", "20:00-24:00"), window("Sun", "00:00-00:30")),
    "the hour before and after midnight": (window(ALL_WEEK, "23:00-23:30"), window(ALL_WEEK, "00:10-00:50")),
    "overlapping, a whole day": (window("Fri Sat Sun Mon", "09:00-17:00"), window("Sun", "12:00-12:00")),
}
HOLIDAYS = frozenset({date(2026, 3, 29), date(2026, 10, 1), date(2027, 1, 1), date(2027, 10, 31)})
MAKE_UP = frozenset({MakeUp(date=date(2026, 10, 10), weekday=WED), MakeUp(date=date(2026, 3, 28), weekday=MON)})
CLOSED = frozenset({date(2026, 12, 24), date(2026, 11, 1), date(2027, 4, 24)})
EXTRA = (
    Extra(date=date(2026, 12, 24), start_minute=540, end_minute=720),
    Extra(date=date(2026, 3, 28), start_minute=1410, end_minute=150),
    Extra(date=date(2026, 11, 1), start_minute=30, end_minute=90),
)


def schedule(zone: str, windows: tuple[Window, ...]) -> Schedule:
    return Schedule(
        zone=ZoneInfo(zone), windows=windows, holidays=HOLIDAYS, make_up=MAKE_UP, closed=CLOSED, extra=EXTRA
    )


@cache
def wall_clock(zone: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """What the clock on the wall shows each UTC minute, as minutes since EPOCH's wall; its highest so far; its lowest
    from now on. Offsets are asked for every quarter of an hour: no zone changes off the quarter in these years."""
    quarters = (EPOCH + timedelta(minutes=15 * n) for n in range(MINUTES // 15))
    zone_info = ZoneInfo(zone)
    offsets = [zone_info.utcoffset(at.astimezone(zone_info)) for at in quarters]
    shown = np.arange(MINUTES) + np.repeat([int(o.total_seconds()) // 60 for o in offsets if o is not None], 15)
    return shown, np.maximum.accumulate(shown), np.minimum.accumulate(shown[::-1])[::-1]


def reference(zone: str, windows: tuple[Window, ...]) -> npt.NDArray[np.bool_]:
    """Open or not, every UTC minute from EPOCH, by looking at the wall clock alone.

    A window has begun once the clock has shown its start or later, and is over when the clock will never again show
    less than its end, nor its end itself. That is all there is to gaps and folds.
    """
    shown, highest, lowest = wall_clock(zone)
    is_open = np.zeros(MINUTES, dtype=bool)
    made_up = {day.date: day.weekday for day in MAKE_UP}
    for number in range(2, MINUTES // 1440 - 4):
        day = EPOCH.date() + timedelta(days=number)
        written = [(w.start_minute, w.end_minute) for w in windows if made_up.get(day, day.weekday()) in w.days]
        if day in HOLIDAYS or day in CLOSED:
            written = []
        written += [(e.start_minute, e.end_minute) for e in EXTRA if e.date == day]
        near = slice((number - 2) * 1440, (number + 4) * 1440)
        for start, end in written:
            start, end = number * 1440 + start, number * 1440 + end + (1440 if end <= start else 0)
            later = lowest[near.start + 1 : near.stop + 1]
            is_open[near] |= (highest[near] >= start) & ((lowest[near] < end) | (later <= end))
    return is_open & within(shown)


def within(shown: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    dates = shown // 1440
    return np.asarray((dates >= (FIRST - EPOCH.date()).days) & (dates <= (LAST - EPOCH.date()).days))


def minute(at: datetime) -> int:
    minutes, rest = divmod(at - EPOCH, timedelta(minutes=1))
    assert not rest, f"{at} is no whole minute"
    return minutes


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("name", SCHEDULES)
def test_spans_agree_with_the_clock_on_the_wall_every_minute_of_two_years(zone: str, name: str) -> None:
    expected = reference(zone, SCHEDULES[name])
    found = spans(schedule(zone, SCHEDULES[name]), FIRST, LAST)
    actual = np.zeros(MINUTES, dtype=bool)
    for span in found:
        actual[minute(span.opens_at) : minute(span.closes_at)] = True
    wrong = np.flatnonzero(expected != actual)
    assert not wrong.size, f"first at {EPOCH + timedelta(minutes=int(wrong[0]))}, {wrong.size} minutes"
    assert all(one.opens_at < one.closes_at < other.opens_at for one, other in pairwise(found))


@pytest.mark.parametrize("zone", ZONES)
def test_the_edges_are_exactly_the_changes_of_the_clock_on_the_wall(zone: str) -> None:
    expected = reference(zone, SCHEDULES["over the usual change"])
    changes = np.flatnonzero(expected[1:] != expected[:-1]) + 1
    at = spans(hours := schedule(zone, SCHEDULES["over the usual change"]), FIRST, FIRST)[0].closes_at
    walked = []
    while at < datetime(2027, 12, 30, tzinfo=UTC):
        edge = next_edge(hours, at)
        assert edge is not None
        assert bounds(hours, edge).open != bounds(hours, edge - timedelta(minutes=1)).open
        walked.append(minute(edge))
        at = edge
    start = bisect_right(changes, walked[0]) - 1
    assert walked == changes[start : start + len(walked)].tolist()


CASES = {
    # name: (zone, windows, from, to, opens, closes), times in UTC
    "closes on Friday at ten past ten, not an hour early nor on the hour": (
        "Asia/Shanghai",
        (window(WORKDAYS, "06:30-22:10"),),
        "2026-03-06",
        "2026-03-08",
        [("2026-03-05T22:30", "2026-03-06T14:10")],
    ),
    "opens and closes in the night that skips its end": (
        "Europe/Berlin",
        (window("Sat", "22:00-02:30"),),
        "2026-03-28",
        "2026-03-29",
        [("2026-03-28T21:00", "2026-03-29T01:00")],
    ),
    "a start that is skipped is the first instant after the gap": (
        "Europe/Berlin",
        (window("Sun", "02:30-04:00"),),
        "2026-03-29",
        "2026-03-29",
        [("2026-03-29T01:00", "2026-03-29T02:00")],
    ),
    "wholly skipped: not open that day": (
        "Europe/Berlin",
        (window("Sun", "02:10-02:50"),),
        "2026-03-29",
        "2026-03-29",
        [],
    ),
    "a repeated hour: starts the first time, ends the second": (
        "Europe/Berlin",
        (window("Sun", "02:15-02:45"),),
        "2026-10-25",
        "2026-10-25",
        [("2026-10-25T00:15", "2026-10-25T01:45")],
    ),
    "half an hour of summer time": (
        "Australia/Lord_Howe",
        (window("Sun", "01:00-02:15"),),
        "2026-10-04",
        "2026-10-04",
        [("2026-10-03T14:30", "2026-10-03T15:30")],
    ),
    "two minutes around midnight": (
        "America/New_York",
        (window("Mon", "23:59-00:01"),),
        "2026-01-05",
        "2026-01-06",
        [("2026-01-06T04:59", "2026-01-06T05:01")],
    ),
    "Monday in Kiritimati is Sunday in UTC": (
        "Pacific/Kiritimati",
        (window("Mon", "08:00-12:00"),),
        "2026-03-01",
        "2026-03-03",
        [("2026-03-01T18:00", "2026-03-01T22:00")],
    ),
    "24:00 is the end of the day": (
        "UTC",
        (window("Sat", "20:00-24:00"),),
        "2026-01-03",
        "2026-01-05",
        [("2026-01-03T20:00", "2026-01-04T00:00")],
    ),
    "24:00 and 00:00 touch and are one": (
        "UTC",
        (window("Sat", "20:00-24:00"), window("Sun", "00:00-06:00")),
        "2026-01-03",
        "2026-01-05",
        [("2026-01-03T20:00", "2026-01-04T06:00")],
    ),
    "ends at the minute that it starts: a whole day": (
        "UTC",
        (window("Sat", "09:00-09:00"),),
        "2026-01-03",
        "2026-01-05",
        [("2026-01-03T09:00", "2026-01-04T09:00")],
    ),
    "the first and the last date clip": (
        "Asia/Shanghai",
        (window(ALL_WEEK, "20:00-04:00"),),
        "2026-01-03",
        "2026-01-03",
        [("2026-01-02T16:00", "2026-01-02T20:00"), ("2026-01-03T12:00", "2026-01-03T16:00")],
    ),
    "always open, clipped": (
        "Asia/Shanghai",
        (),
        "2026-01-03",
        "2026-01-04",
        [("2026-01-02T16:00", "2026-01-04T16:00")],
    ),
    "over a month's and a year's end": (
        "UTC",
        (window("Thu", "22:00-03:00"),),
        "2026-12-30",
        "2027-01-02",
        [("2026-12-31T22:00", "2027-01-01T03:00")],
    ),
    "a last date before the first": ("UTC", (window("Thu", "22:00-03:00"),), "2026-12-31", "2026-12-30", []),
    "always open, a last date before the first": ("UTC", (), "2026-12-31", "2026-12-29", []),
}


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    zone, windows, first, last, expected = CASES[name]
    found = spans(Schedule(zone=ZoneInfo(zone), windows=windows), date.fromisoformat(first), date.fromisoformat(last))
    assert [(f"{s.opens_at:%Y-%m-%dT%H:%M}", f"{s.closes_at:%Y-%m-%dT%H:%M}") for s in found] == expected


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


DAYTIME = Schedule(
    zone=ZoneInfo("UTC"), windows=(window(WORKDAYS, "08:00-20:00"),), prewarm_seconds=300, min=1, max=4
)  # 2026-03-02 is a Monday


def test_bounds_are_half_open() -> None:
    assert not bounds(DAYTIME, at("2026-03-02T07:59:59")).open
    assert bounds(DAYTIME, at("2026-03-02T08:00")).open
    assert bounds(DAYTIME, at("2026-03-02T19:59:59")).open
    assert not bounds(DAYTIME, at("2026-03-02T20:00")).open


def test_outside_the_windows_nothing_may_be_up_and_the_next_opening_is_known() -> None:
    closed = bounds(DAYTIME, at("2026-03-06T20:00"))
    assert (closed.open, closed.prewarm, closed.min, closed.max) == (False, False, 0, 0)
    assert closed.opens_at == at("2026-03-09T08:00")
    assert closed.reason == "closed until Mon 2026-03-09 08:00 UTC"
    assert bounds(DAYTIME, at("2026-03-06T12:00")).closes_at == at("2026-03-06T20:00")


def test_prewarm_has_the_bounds_of_what_will_open() -> None:
    warming = bounds(DAYTIME, at("2026-03-02T07:55"))
    assert (warming.open, warming.prewarm, warming.min, warming.max) == (False, True, 1, 4)
    assert not bounds(DAYTIME, at("2026-03-02T07:54:59")).prewarm


def test_edges_in_order_are_prewarm_open_close() -> None:
    edges = [now := at("2026-03-02T00:00")]
    for _ in range(4):
        edge = next_edge(DAYTIME, edges[-1])
        assert edge is not None
        edges.append(edge)
    assert now == edges[0]
    expected = ["2026-03-02T07:55", "2026-03-02T08:00", "2026-03-02T20:00", "2026-03-03T07:55"]
    assert edges[1:] == [at(text) for text in expected]


def test_a_prewarm_longer_than_the_night_begins_at_the_closing() -> None:
    impatient = replace(DAYTIME, prewarm_seconds=24 * 3600)
    after_close = bounds(impatient, at("2026-03-02T20:00"))
    assert (after_close.open, after_close.prewarm) == (False, True)
    assert next_edge(impatient, at("2026-03-02T20:00")) == at("2026-03-03T08:00")


def test_a_window_of_its_own_bounds_is_an_edge_within_the_opening() -> None:
    busy = replace(DAYTIME, windows=(*DAYTIME.windows, window("Mon", "12:00-14:00", min=2, max=3)))
    noon = bounds(busy, at("2026-03-02T12:00"))
    assert (noon.min, noon.max) == (2, 4), "the largest of the mins and of the maxes"
    assert noon.closes_at == at("2026-03-02T20:00")
    assert next_edge(busy, at("2026-03-02T09:00")) == at("2026-03-02T12:00")
    assert next_edge(busy, at("2026-03-02T12:00")) == at("2026-03-02T14:00")
    assert next_opening(busy, at("2026-03-02T09:00")) == at("2026-03-03T08:00")


def test_touching_windows_of_the_same_bounds_have_no_edge_between() -> None:
    split = replace(DAYTIME, windows=(window("Mon", "08:00-12:00"), window("Mon", "12:00-20:00", min=1, max=4)))
    assert next_edge(split, at("2026-03-02T09:00")) == at("2026-03-02T20:00")


def test_a_closed_date_removes_the_windows_that_start_on_it_and_no_other() -> None:
    nights = replace(DAYTIME, windows=(window(ALL_WEEK, "22:00-02:00"),), closed=frozenset({date(2026, 3, 3)}))
    assert bounds(nights, at("2026-03-03T01:00")).open, "Monday's night goes on"
    assert not bounds(nights, at("2026-03-03T23:00")).open
    assert not bounds(nights, at("2026-03-04T01:00")).open
    assert bounds(nights, at("2026-03-04T23:00")).open


def test_a_make_up_workday_takes_the_other_weekdays_windows_instead_of_its_own() -> None:
    saturday = date(2026, 3, 7)
    hours = replace(
        DAYTIME,
        windows=(window("Wed", "09:00-11:00"), window("Sat", "15:00-16:00")),
        make_up=frozenset({MakeUp(date=saturday, weekday=WED)}),
    )
    assert [(s.opens_at, s.closes_at) for s in spans(hours, saturday, saturday)] == [
        (at("2026-03-07T09:00"), at("2026-03-07T11:00"))
    ]
    assert spans(replace(hours, closed=frozenset({saturday})), saturday, saturday) == ()


def test_extras_win_over_closed_dates_and_holidays() -> None:
    day = date(2026, 3, 3)
    extra = (Extra(date=day, start_minute=540, end_minute=600),)
    hours = replace(DAYTIME, closed=frozenset({day}), holidays=frozenset({day}), extra=extra)
    assert [(s.opens_at, s.closes_at) for s in spans(hours, day, day)] == [
        (at("2026-03-03T09:00"), at("2026-03-03T10:00"))
    ]
    only = replace(DAYTIME, windows=(), extra=extra)
    assert next_opening(only, at("2026-01-01T00:00")) == at("2026-03-03T09:00")
    assert next_edge(only, at("2026-03-03T10:00")) is None
    assert bounds(only, at("2026-03-03T10:00")).reason == "closed: no opening in sight"


def test_without_a_schedule_it_is_always_open() -> None:
    always = bounds(Schedule(zone=ZoneInfo("UTC"), min=2, max=5), at("2026-03-03T10:00"))
    assert (always.open, always.min, always.max, always.closes_at, always.reason) == (True, 2, 5, None, "always open")
    assert next_edge(Schedule(zone=ZoneInfo("UTC")), at("2026-03-03T10:00")) is None
    assert next_opening(Schedule(zone=ZoneInfo("UTC")), at("2026-03-03T10:00")) is None


def test_around_the_clock_has_no_edge_either() -> None:
    hours = replace(DAYTIME, windows=(window(ALL_WEEK, "00:00-24:00"),))
    now = at("2026-03-03T10:00")
    assert (bounds(hours, now).open, bounds(hours, now).closes_at, next_edge(hours, now)) == (True, None, None)


@pytest.mark.parametrize(
    ("state", "until", "now", "is_open", "edge"),
    [
        ("open", "2026-03-02T23:00", "2026-03-02T21:00", True, "2026-03-02T23:00"),
        ("open", "2026-03-02T23:00", "2026-03-02T23:00", False, "2026-03-03T07:55"),
        ("open", "2026-03-03T09:00", "2026-03-02T21:00", True, "2026-03-03T20:00"),  # runs into the window
        ("open", "2026-03-02T09:00", "2026-03-02T08:30", True, "2026-03-02T20:00"),  # within the window anyway
        ("open", "2026-03-04T09:00", "2026-03-02T21:00", True, "2026-03-04T20:00"),  # over a whole window
        ("closed", "2026-03-02T14:00", "2026-03-02T10:00", False, "2026-03-02T13:55"),  # what reopens is pre-warmed
        ("closed", "2026-03-02T14:00", "2026-03-02T14:00", True, "2026-03-02T20:00"),
        ("closed", "2026-03-02T23:00", "2026-03-02T10:00", False, "2026-03-03T07:55"),  # ends while closed: no edge
    ],
)
def test_an_override_wins_until_its_time(state: str, until: str, now: str, is_open: bool, edge: str) -> None:
    held = replace(DAYTIME, override=Override(state=state, until=at(until)))  # type: ignore[arg-type]
    assert bounds(held, at(now)).open is is_open
    assert next_edge(held, at(now)) == at(edge)


def test_held_open_has_the_schedules_own_bounds_where_no_window_says_otherwise() -> None:
    sunday = replace(DAYTIME, override=Override(state="open", until=at("2026-03-02T08:30")))
    now = bounds(sunday, at("2026-03-01T12:00"))
    assert (now.open, now.min, now.max, now.closes_at) == (True, 1, 4, at("2026-03-02T20:00"))
    assert now.reason == "open until Mon 2026-03-02 20:00 UTC (held open until Mon 2026-03-02 08:30 UTC)"


def test_an_always_open_deployment_can_be_held_closed() -> None:
    held = Schedule(zone=ZoneInfo("UTC"), override=Override(state="closed", until=at("2026-03-02T12:00")))
    closed = bounds(held, at("2026-03-02T10:00"))
    assert (closed.open, closed.opens_at) == (False, at("2026-03-02T12:00"))
    assert next_opening(held, at("2026-03-02T10:00")) == at("2026-03-02T12:00")


def test_a_naive_moment_is_refused() -> None:
    with pytest.raises(ValueError, match="naive"):
        bounds(DAYTIME, datetime(2026, 3, 2, 12))  # noqa: DTZ001


WINDOWS = st.builds(
    Window,
    days=st.frozensets(st.integers(0, 6), min_size=1),
    start_minute=st.integers(0, 1439),
    end_minute=st.integers(0, 1440),
    min=st.none() | st.integers(0, 2),
    max=st.none() | st.integers(2, 4),
)
# Around the changes of the clocks, where mistakes live.
MOMENTS = st.sampled_from(
    [
        at("2026-03-29T01:00"),
        at("2026-10-25T01:00"),
        at("2026-10-03T15:30"),
        at("2026-04-04T15:00"),
        at("2026-11-01T05:00"),
    ]
).flatmap(lambda change: st.integers(-3 * 86400, 3 * 86400).map(lambda seconds: change + timedelta(seconds=seconds)))
ANY_SCHEDULE = st.builds(
    Schedule,
    zone=st.sampled_from([ZoneInfo(zone) for zone in ZONES]),
    windows=st.lists(WINDOWS, min_size=1, max_size=3).map(tuple),
    closed=st.frozensets(st.sampled_from([date(2026, 3, 29), date(2026, 10, 25), date(2026, 10, 4)])),
    prewarm_seconds=st.sampled_from([0.0, 60.0, 7200.0, 200_000.0]),
    override=st.none() | st.builds(Override, state=st.sampled_from(["open", "closed"]), until=MOMENTS),
    min=st.just(1),
    max=st.just(2),
)


@given(hours=ANY_SCHEDULE, now=MOMENTS)
@settings(max_examples=150, deadline=None)
def test_open_exactly_when_some_span_covers_now(hours: Schedule, now: datetime) -> None:
    promised = replace(hours, override=None)
    around = spans(promised, now.date() - timedelta(days=2), now.date() + timedelta(days=2))
    assert bounds(promised, now).open == any(span.opens_at <= now < span.closes_at for span in around)


@given(hours=ANY_SCHEDULE, now=MOMENTS, share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=150, deadline=None)
def test_nothing_changes_before_the_next_edge_and_something_does_at_it(
    hours: Schedule, now: datetime, share: float
) -> None:
    def state(moment: datetime) -> tuple[bool, bool, int, int]:
        found = bounds(hours, moment)
        return found.open, found.prewarm, found.min, found.max

    edge = next_edge(hours, now)
    if edge is None:
        assert state(now) == state(now + timedelta(days=300 * share))
    else:
        assert edge > now
        assert state(edge) != state(now)
        between = min(now + (edge - now) * share, edge - timedelta(microseconds=1))  # a share near 1 rounds up
        assert state(between) == state(now)


@given(hours=ANY_SCHEDULE, now=MOMENTS)
@settings(max_examples=60, deadline=None)
def test_the_next_opening_is_where_closed_first_turns_to_open(hours: Schedule, now: datetime) -> None:
    edge, was_open = next_edge(hours, now), bounds(hours, now).open
    while edge is not None and edge < now + timedelta(days=21):
        is_open = bounds(hours, edge).open
        if is_open and not was_open:
            assert next_opening(hours, now) == edge
            return
        edge, was_open = next_edge(hours, edge), is_open
    opening = next_opening(hours, now)
    assert opening is None or (edge is not None and opening >= edge)
