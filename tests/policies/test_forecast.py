"""What past days say about the next minutes: like days, a quantile, and no evidence that is not there."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.forecast import DAYS_BACK, FEWEST_DAYS, MINUTE, expected, past, quantile
from policies.windows import MakeUp, Schedule

SHANGHAI = Schedule(zone=ZoneInfo("Asia/Shanghai"))
BERLIN = Schedule(zone=ZoneInfo("Europe/Berlin"))
#: Wednesday, 10:00 in Shanghai
NOW = datetime(2026, 3, 18, 2, 0, tzinfo=UTC)


def asked_on(days: dict[int, list[float]], now: datetime = NOW) -> dict[datetime, float]:
    """Minutes from `now`'s time of day on, so many days back."""
    return {
        now - timedelta(days=back) + MINUTE * number: images
        for back, minutes in days.items()
        for number, images in enumerate(minutes)
    }


def test_a_rush_of_every_working_day_is_expected_before_it_comes() -> None:
    quiet_then_rush = [0.0, 0.0, 0.0, 600.0, 600.0]
    asked = asked_on(dict.fromkeys((1, 2, 5, 6, 7, 8, 9), quiet_then_rush))
    assert expected(asked, SHANGHAI, NOW, 180) == 0.0
    assert expected(asked, SHANGHAI, NOW, 240) == 10.0, "the maximum over the lead time, per second"
    assert expected(asked, SHANGHAI, NOW + timedelta(seconds=1), 180) == 10.0, (
        "a minute begun is a minute to be ready for"
    )


@pytest.mark.parametrize(
    ("images", "expected_per_minute"),
    [
        ([60, 60, 60], 60),
        ([0, 0, 600], 600),
        ([0] * 9 + [600], 0),
        ([0] * 8 + [300, 600], 300),
        ([0, *range(60, 1200, 60)], 1020),
    ],
    ids=["alike", "of three the highest", "one in ten is not planned for", "two in ten are", "18th of 20"],
)
def test_a_quantile_not_a_mean(images: list[float], expected_per_minute: float) -> None:
    working = [back for back in range(1, DAYS_BACK + 1) if (NOW.date() - timedelta(days=back)).weekday() < 5]
    asked = asked_on({back: [value] for back, value in zip(working, images, strict=False)})
    assert expected(asked, SHANGHAI, NOW, 60) == expected_per_minute / 60


def test_no_evidence_is_none_and_not_0() -> None:
    assert expected({}, SHANGHAI, NOW, 300) is None, "a new deployment"
    assert expected(asked_on({1: [60.0], 2: [60.0]}), SHANGHAI, NOW, 60) is None, "two days are an anecdote"
    known = asked_on(dict.fromkeys((1, 2, 5), [60.0] * 4))
    assert expected(known, SHANGHAI, NOW, 240) == 1.0
    half_known = asked_on({**dict.fromkeys((1, 2, 5), [60.0] * 4), 6: [600.0, 600.0]})
    assert expected(half_known, SHANGHAI, NOW, 240) == 1.0, "of the fourth day half is unknown"
    mostly_known = asked_on({**dict.fromkeys((1, 2, 5), [60.0] * 4), 6: [600.0] * 3})
    assert expected(mostly_known, SHANGHAI, NOW, 240) == 10.0


def test_days_are_compared_with_their_like() -> None:
    saturday = NOW + timedelta(days=3)
    asked = asked_on(
        {back: [60.0 if (saturday - timedelta(days=back)).weekday() >= 5 else 600.0] for back in range(1, 29)}, saturday
    )
    assert expected(asked, SHANGHAI, saturday, 60) == 1.0
    assert expected(asked, SHANGHAI, saturday - timedelta(days=1), 60) == 10.0
    assert expected(asked, SHANGHAI, saturday + timedelta(days=2), 60) == 10.0


def test_holidays_are_days_off_and_make_up_days_are_not() -> None:
    sunday = NOW.date() - timedelta(days=3)
    special = Schedule(
        zone=SHANGHAI.zone,
        holidays=frozenset({NOW.date() - timedelta(days=1), sunday}),
        closed=frozenset({NOW.date() - timedelta(days=2)}),
        make_up=frozenset({MakeUp(date=sunday, weekday=0)}),
    )
    assert [minutes[0] for minutes in past(special, NOW, 60)][:3] == [
        NOW - timedelta(days=back) for back in (3, 5, 6)
    ]  # Tuesday was a holiday, Monday was closed, Sunday made up for it, Saturday was a Saturday


def test_before_midnight_the_next_day_counts_too() -> None:
    friday = datetime(2026, 3, 20, 15, 59, tzinfo=UTC)  # 23:59 in Shanghai, Saturday is next
    backs = [(friday - minutes[0]).days for minutes in past(SHANGHAI, friday, 120)]
    assert backs == [7, 14, 21, 28]
    assert [(friday - minutes[0]).days for minutes in past(SHANGHAI, friday, 60)][:4] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("now", "first"),
    [
        (datetime(2026, 3, 30, 7, 0, tzinfo=UTC), datetime(2026, 3, 27, 8, 0, tzinfo=UTC)),
        (datetime(2026, 10, 26, 8, 0, tzinfo=UTC), datetime(2026, 10, 23, 7, 0, tzinfo=UTC)),
        (datetime(2026, 4, 5, 0, 30, tzinfo=UTC), datetime(2026, 4, 4, 0, 30, tzinfo=UTC)),
    ],
    ids=["9:00 stays 9:00 in spring", "and in autumn", "2:30 that there was"],
)
def test_wall_time_across_a_change_of_clocks(now: datetime, first: datetime) -> None:
    assert past(BERLIN, now, 60)[0] == (first,)


def test_a_wall_time_that_was_skipped_or_came_twice_has_minutes_all_the_same() -> None:
    skipped = {minutes[0] for minutes in past(BERLIN, datetime(2026, 4, 4, 0, 30, tzinfo=UTC), 60)}
    assert datetime(2026, 3, 29, 1, 30, tzinfo=UTC) in skipped, "2:30 was skipped: 3:30"
    for hour in (0, 1):  # 2:30 summer time, 2:30 winter time
        (before, *_) = past(BERLIN, datetime(2026, 10, 25, hour, 30, tzinfo=UTC), 60)
        assert before == (datetime(2026, 10, 24, 0, 30, tzinfo=UTC),)


def test_quantile_is_a_value_that_was() -> None:
    assert [quantile([3, 1, 2], share) for share in (0.0, 0.3, 0.34, 0.9, 1.0)] == [1, 1, 2, 3, 3]
    assert quantile(range(1, 11), 0.7) == 7, "0.7 x 10 is a little more than 7 in floating point"


moments = st.timedeltas(timedelta(0), timedelta(days=800)).map(lambda later: NOW + later)
zones = st.sampled_from(
    ["Asia/Shanghai", "Europe/Berlin", "America/New_York", "Pacific/Apia", "Australia/Lord_Howe", "UTC"]
)
leads = st.floats(0, 3600)


@given(moments, zones, leads)
def test_only_the_past_is_ever_looked_at(now: datetime, zone: str, ahead: float) -> None:
    schedule = Schedule(zone=ZoneInfo(zone))
    local = now.astimezone(schedule.zone)
    days = past(schedule, now, ahead)
    assert days
    for minutes in days:
        assert all(minute.second == 0 and minute.utcoffset() == timedelta(0) for minute in minutes)
        assert len(minutes) == len(days[0]) and (len(minutes) - 1) * 60 < local.second + 1 + ahead
        assert minutes[0] < now - timedelta(hours=21), "a day that lost hours is still another day"
        then = minutes[0].astimezone(schedule.zone)
        assert (then.date().weekday() < 5) == (local.date().weekday() < 5) or then.hour != local.hour
    assert len({minutes[0].astimezone(schedule.zone).date() for minutes in days}) == len(days)


@given(moments, zones, leads, st.data())
def test_never_outside_what_was_seen_and_never_from_the_unknown(
    now: datetime, zone: str, ahead: float, data: st.DataObject
) -> None:
    schedule = Schedule(zone=ZoneInfo(zone))
    days = past(schedule, now, ahead)
    minutes = [minute for day in days for minute in day][:60]
    rates = data.draw(st.lists(st.none() | st.floats(0, 1e4), min_size=len(minutes), max_size=len(minutes)))
    asked = {minute: rate for minute, rate in zip(minutes, rates, strict=True) if rate is not None}
    forecast = expected(asked, schedule, now, ahead)
    evident = [[asked[minute] for minute in day if minute in asked] for day in days]
    if sum(2 * len(known) > len(day) for known, day in zip(evident, days, strict=True)) < FEWEST_DAYS:
        assert forecast is None
        return
    assert (
        forecast is not None
        and min(asked.values()) <= forecast * 60 * (1 + 1e-9)
        and forecast * 60 <= max(asked.values()) * (1 + 1e-9)
    )
    more = {minute: rate + 60 for minute, rate in asked.items()}
    higher = expected(more, schedule, now, ahead)
    assert higher is not None and higher >= forecast
    elsewhere = {**asked, now + timedelta(days=1): 1e9, now: 1e9}
    assert expected(elsewhere, schedule, now, ahead) == forecast


def test_a_make_up_day_is_known_by_its_date() -> None:
    saturday = date(2026, 3, 21)
    made_up = Schedule(zone=SHANGHAI.zone, make_up=frozenset({MakeUp(date=saturday, weekday=2)}))
    now = NOW + timedelta(days=3)
    assert [(now - minutes[0]).days for minutes in past(made_up, now, 60)][:3] == [1, 2, 3]
    assert [(now - minutes[0]).days for minutes in past(SHANGHAI, now, 60)][:3] == [6, 7, 13]
