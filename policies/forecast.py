"""What load to expect one cold start ahead: what the same minutes of past days, of the same kind of day, asked for.

A machine asked for now serves one cold start later, so it has to be asked for by what will come. A quantile and not the
mean: too few machines cost more than one too many (the newsvendor's rule: the quantile is price / (price + penalty)).
"""

import math
from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime, timedelta

from policies.windows import Schedule

#: far enough for eight days of a weekend, near enough to follow a season
DAYS_BACK = 28
#: fewer days than this are no evidence
FEWEST_DAYS = 3
#: how many of ten like days the expected load covers: nine
QUANTILE = 0.9
MINUTE = timedelta(minutes=1)


def expected(asked: Mapping[datetime, float], schedule: Schedule, now: datetime, ahead_seconds: float) -> float | None:
    """Images a second to be ready for from now until `ahead_seconds` later; None without enough evidence.

    `asked` is how many images each past minute asked for, by its UTC start; a minute that is not in it is unknown, not
    0. Each like day counts with its highest minute; a day of which half is unknown does not count.
    """
    peaks = []
    for day in past(schedule, now, ahead_seconds):
        known = [asked[minute] for minute in day if minute in asked]
        if 2 * len(known) > len(day):
            peaks.append(max(known))
    return quantile(peaks, QUANTILE) / 60 if len(peaks) >= FEWEST_DAYS else None


def past(schedule: Schedule, now: datetime, ahead_seconds: float) -> tuple[tuple[datetime, ...], ...]:
    """The minutes of past days that answer to those from now until `ahead_seconds` later, the latest day first.

    The same wall time in the schedule's zone, on days of the same kind: working days, or days off (weekends, holidays
    and closed dates; a make-up day is what it makes up). A wall time that the clocks skipped is read an hour later.
    """
    start = now.astimezone(schedule.zone)
    last = now + max(timedelta(0), timedelta(seconds=ahead_seconds) - timedelta.resolution)
    end = last.astimezone(schedule.zone)
    wall = start.replace(second=0, microsecond=0, tzinfo=None)
    minutes = math.ceil((now.second + ahead_seconds) / 60) or 1
    days_on = (end.date() - start.date()).days
    kind = _works(schedule, start.date()), _works(schedule, end.date())
    found = []
    for back in range(1, DAYS_BACK + 1):
        then = wall - timedelta(days=back)
        if (_works(schedule, then.date()), _works(schedule, then.date() + timedelta(days=days_on))) == kind:
            first = then.replace(tzinfo=schedule.zone).astimezone(UTC)
            found.append(tuple(first + MINUTE * number for number in range(minutes)))
    return tuple(found)


def quantile(values: Collection[float], share: float) -> float:
    """The smallest of `values`, of which there is one at least, that this share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values) - 1e-9) - 1)]


def _works(schedule: Schedule, day: date) -> bool:
    if day in schedule.closed:
        return False
    made_up = {one.date: one.weekday for one in schedule.make_up}
    return made_up.get(day, day.weekday()) < 5 and (day in made_up or day not in schedule.holidays)
