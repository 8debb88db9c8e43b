"""Holidays and make-up workdays, held against the dates that were announced."""

from datetime import date

import pytest

from orchestrator.calendars import calendar, is_known
from policies.windows import MakeUp

MON, TUE, WED, THU, FRI = range(5)


def test_china_2026_as_announced() -> None:
    """From the State Council's notice for 2026. Days off on a weekend are not always holidays to the library."""
    china = calendar("CN", 2026, 2026)
    days_off = ["01-01", "01-02", "02-16", "02-17", "02-18", "02-19", "02-20", "02-23", "04-06", "05-01", "05-04"]
    days_off += ["05-05", "06-19", "09-25", "10-01", "10-02", "10-05", "10-06", "10-07"]
    on_weekdays = {day for day in china.holidays if day.weekday() < 5}
    assert on_weekdays == {date.fromisoformat(f"2026-{day}") for day in days_off}
    assert china.make_up == {
        MakeUp(date=date(2026, 1, 4), weekday=FRI),  # for Friday 2 January
        MakeUp(date=date(2026, 2, 14), weekday=FRI),  # for Friday 20 February
        MakeUp(date=date(2026, 2, 28), weekday=MON),  # for Monday 23 February
        MakeUp(date=date(2026, 5, 9), weekday=TUE),  # for Tuesday 5 May
        MakeUp(date=date(2026, 9, 20), weekday=TUE),  # for Tuesday 6 October
        MakeUp(date=date(2026, 10, 10), weekday=WED),  # for Wednesday 7 October
    }
    assert china.notes == ()


def test_a_day_off_that_is_made_up_for_in_the_year_before() -> None:
    days = calendar("CN", 2011, 2011).make_up  # New Year's Eve 2011 was worked for 3 January 2012
    assert MakeUp(date=date(2011, 12, 31), weekday=TUE) in days


def test_a_year_that_is_not_announced_is_said_aloud() -> None:
    notes = calendar("CN", 2026, 2040).notes
    assert len(notes) >= 10
    assert "2040" in notes[-1] and "CN" in notes[-1]
    assert calendar("DE", 2026, 2027).notes == (), "Germany moves no workdays"


def test_a_year_before_the_calendar_begins_is_said_aloud() -> None:
    assert "1930" in calendar("CN", 1930, 1930).notes[0]


@pytest.mark.parametrize(
    ("code", "day", "is_holiday"),
    [
        ("US-CA", date(2026, 3, 31), True),  # Cesar Chavez Day, in California
        ("US", date(2026, 3, 31), False),
        ("DE", date(2026, 12, 25), True),
        ("NO", date(2026, 5, 17), True),
    ],
)
def test_countries_and_subdivisions(code: str, day: date, is_holiday: bool) -> None:
    assert (day in calendar(code, 2026, 2026).holidays) is is_holiday


@pytest.mark.parametrize(
    ("code", "known"), [("CN", True), ("US-CA", True), ("cn", False), ("XX", False), ("US-XX", False)]
)
def test_known_codes(code: str, known: bool) -> None:
    assert is_known(code) is known
