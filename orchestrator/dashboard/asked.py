"""What an address may ask a page for: each value is what its page can show, or one line says what it wants."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Path, Query
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BeforeValidator

from orchestrator.dashboard.timeline import LENGTHS
from orchestrator.numbers import MOST_NUMBER
from orchestrator.reports.frame import is_month

#: what the timeline and the prices may be asked for, in days
TIMELINE_DAYS = (1, 7, 30, 90)
PRICES_DAYS = (7, 30, 90)
#: moments beyond it are nobody's; twice as far from today as they are there is still a date
YEARS = range(1970, 2200)


def _one_of(*numbers: int) -> Callable[[int], int]:
    def chosen(number: int) -> int:
        if number not in numbers:
            raise ValueError(f"want {', '.join(map(str, numbers[:-1]))} or {numbers[-1]}")
        return number

    return chosen


def _moment(said: Any) -> datetime:
    try:
        seconds = int(float(said))
        at = datetime.fromtimestamp(seconds - seconds % LENGTHS[0], UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        raise ValueError("want seconds since 1970") from None
    if at.year not in YEARS:
        raise ValueError(f"want a moment from {YEARS[0]} to {YEARS[-1]}, in seconds since 1970")
    return at


def _month(said: str) -> str:
    if not is_month(said):
        raise ValueError("want YYYY-MM, such as 2026-10")
    return said


Name = Annotated[str | None, Query()]
TimelineDays = Annotated[int, AfterValidator(_one_of(*TIMELINE_DAYS)), Query()]
PricesDays = Annotated[int, AfterValidator(_one_of(*PRICES_DAYS)), Query()]
Month = Annotated[Annotated[str, AfterValidator(_month)] | None, Query()]
#: seconds since 1970, to the minute
Moment = Annotated[datetime, BeforeValidator(_moment)]
From, To = Query(alias="from"), Query(alias="to")
Number = Annotated[int, Path(ge=0, le=MOST_NUMBER)]


def wrong(error: RequestValidationError) -> str:
    """All that is wrong with what was asked for, in one line."""
    said = ((str(one["loc"][-1]), str(one["msg"]).removeprefix("Value error, ")) for one in error.errors())
    return "; ".join(f"{name}: {words}" for name, words in said)
