"""Public holidays and make-up workdays of a country, by the holidays library."""

import re
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from policies.windows import MakeUp

if TYPE_CHECKING:
    from holidays import HolidayBase

#: whose windows a make-up workday takes when it is not said which day it stands in for
_MONDAY = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """The days of some years that do not follow their weekday, and what is not known about those years."""

    holidays: frozenset[date] = frozenset()
    make_up: frozenset[MakeUp] = frozenset()
    notes: tuple[str, ...] = ()


def is_known(code: str) -> bool:
    """Whether `code` is a country, or a country and subdivision as in US-CA, that the holidays library knows."""
    from holidays import list_supported_countries

    country, _, subdivision = code.partition("-")
    known: dict[str, list[str]] = list_supported_countries()
    return country in known and (not subdivision or subdivision in known[country])


@lru_cache(maxsize=64)
def calendar(code: str, first_year: int, last_year: int) -> Calendar:
    """The calendar of the years `first_year` to `last_year`, inclusive.

    A workday that is moved onto a weekend (调休) takes the windows of the weekday that it stands in for.
    A year that the library has no make-up workdays for, though the country has them, is named in the notes.
    """
    from holidays import country_holidays

    country, _, subdivision = code.partition("-")
    # New Year's day off may be made up for in December before: so one year more on either side.
    years = range(first_year - 1, last_year + 2)
    days = country_holidays(country, subdiv=subdivision or None, years=years, expand=False)
    wanted = {day for day in days if first_year <= day.year <= last_year}
    stands_for = _stand_ins(days)
    make_up = {
        MakeUp(date=day, weekday=stands_for.get(day, _MONDAY))
        for day in days.weekend_workdays
        if first_year <= day.year <= last_year
    }
    return Calendar(
        holidays=frozenset(wanted),
        make_up=frozenset(make_up),
        notes=tuple(_notes(code, days, wanted, first_year, last_year)),
    )


def _stand_ins(days: "HolidayBase") -> dict[date, int]:
    """Make-up workday -> weekday of the day off that it pays for, read from that day off's own label."""
    label, style = getattr(days, "substituted_label", None), getattr(days, "substituted_date_format", None)
    if label is None or style is None:
        return {}
    pattern = re.compile(re.escape(days.tr(label)).replace("%s", "(.+)"))
    matches = ((day, pattern.fullmatch(name)) for day in days for name in days.get_list(day))
    return {
        datetime.strptime(match[1], days.tr(style)).date(): day.weekday()  # noqa: DTZ007 (a date, not a moment)
        for day, match in matches
        if match
    }


def _notes(code: str, days: "HolidayBase", wanted: set[date], first_year: int, last_year: int) -> list[str]:
    special: dict[int, tuple[tuple[object, ...], ...]] = getattr(days, "special_public_holidays", {})
    # An entry of the library's own tables with more than (month, day, name) is a day off moved from elsewhere.
    moved_years = [year for year, entries in special.items() if any(len(entry) > 3 for entry in _rows(entries))]
    known_until = max(moved_years, default=None)
    notes = []
    for year in range(first_year, last_year + 1):
        if not any(day.year == year for day in wanted):
            notes.append(f"holidays {code}: nothing is known about {year}; its days follow their weekday")
        elif known_until is not None and year > known_until:
            notes.append(
                f"holidays {code}: make-up workdays and moved days off are known until {known_until}; "
                f"{year} has its fixed holidays only (a newer release of the holidays package may know more)"
            )
    return notes


def _rows(entries: tuple[object, ...]) -> tuple[tuple[object, ...], ...]:
    """The library writes a year's only entry without the outer tuple."""
    return tuple(entry for entry in entries if isinstance(entry, tuple)) or (entries,)
