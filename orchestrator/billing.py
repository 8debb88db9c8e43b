"""What a stretch of time costs, by integer arithmetic on cumulative micro-units: parts always add up to the whole."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

MICROSECOND = timedelta(microseconds=1)
MICROSECONDS_PER_HOUR = 3_600_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """A stretch of one machine's time at one price; or a correction, which is an amount at a moment."""

    started_at: datetime
    ended_at: datetime | None = None  # None: still running
    price_per_hour_micros: int | None = None  # None: unknown, never 0
    currency: str = ""
    amount_micros: int | None = None  # of a correction: booked whole at `started_at`, its price plays no part


def accrued(charge: Charge, at: datetime, *, rate: Fraction | int = 1) -> int | None:
    """Micro-units due before `at`: floor(price x rate x elapsed / 1 h), counted from the charge's own start.

    None when the price is unknown. `rate` turns the charge's currency into the reader's; one floor serves both, so
    that however a charge is cut into parts, the parts add up to the whole.
    """
    if charge.amount_micros is not None:
        return charge.amount_micros * rate // 1 if charge.started_at < at else 0
    if charge.price_per_hour_micros is None:
        return None
    return charge.price_per_hour_micros * rate * elapsed_microseconds(charge, at) // MICROSECONDS_PER_HOUR


def between(charge: Charge, start: datetime, end: datetime, *, rate: Fraction | int = 1) -> int | None:
    """Micro-units due in [start, end). Summed over adjoining stretches this is the whole. None when unknown."""
    before, after = accrued(charge, start, rate=rate), accrued(charge, end, rate=rate)
    return None if before is None or after is None else after - before


def elapsed_microseconds(charge: Charge, at: datetime) -> int:
    """How long the charge has run before `at`. A correction takes no time."""
    if charge.amount_micros is not None:
        return 0
    end = at if charge.ended_at is None else min(at, charge.ended_at)
    return max(0, (end - charge.started_at) // MICROSECOND)


def hours(charges: Iterable[Charge], start: datetime, end: datetime) -> Fraction:
    """Machine hours in [start, end), exactly."""
    total = sum(elapsed_microseconds(charge, end) - elapsed_microseconds(charge, start) for charge in charges)
    return Fraction(total, MICROSECONDS_PER_HOUR)
