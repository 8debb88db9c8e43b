"""What a stretch of time costs, by integer arithmetic on cumulative micro-units: parts always add up to the whole."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

MICROSECOND = timedelta(microseconds=1)
MICROSECONDS_PER_HOUR = 3_600_000_000


HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a provider's bill knows besides price and time."""

    minimum_seconds: int = 0  # a machine costs at least so much of its time, every time it is switched on
    first_hour_free: bool = False  # a spot machine that is taken back within an hour of its launch costs nothing
    disk_per_hour_micros: int = 0  # of a machine's disk, from its launch to its end, also while it is stopped


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What of a machine's life its bill depends on."""

    launched_at: datetime
    ended_at: datetime
    #: switched off, and on again (None: not before its end), oldest first: between them only its disk is paid
    stops: tuple[tuple[datetime, datetime | None], ...] = ()
    reclaimed: bool = False  # a spot machine, and the provider took it back

    def spells(self) -> Iterator[tuple[datetime, datetime]]:
        """When it ran, oldest first."""
        start = self.launched_at
        for off, on in self.stops:
            yield start, min(off, self.ended_at)
            if on is None or on > self.ended_at:
                return
            start = on
        yield start, self.ended_at


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


def due(life: Life, prices: Sequence[tuple[datetime, int]], terms: Terms) -> int:
    """Micro-units that a machine's time has cost when it is over, its disk not counted.

    `prices` are (in force since, per hour), oldest first, the first one in force at the launch. Each stretch at one
    price is rounded down by itself, as charges are; what is missing of a spell to the minimum costs its last price.
    """
    if terms.first_hour_free and life.reclaimed and life.ended_at - life.launched_at < HOUR:
        return 0
    minimum = timedelta(seconds=terms.minimum_seconds)
    return sum(_spell(start, end, prices, minimum) for start, end in life.spells())


def _spell(start: datetime, end: datetime, prices: Sequence[tuple[datetime, int]], minimum: timedelta) -> int:
    """What it cost from when it was switched on until it was switched off, or ended."""
    first = [rate for at, rate in prices if at <= start] or [prices[0][1]]
    moves = [(at, rate) for at, rate in prices[1:] if start < at < end]
    starts, rates = [start, *(at for at, _ in moves)], [first[-1], *(rate for _, rate in moves)]
    ends = [*starts[1:], max(end, start + minimum)]
    return sum(
        rate * ((finish - start) // MICROSECOND) // MICROSECONDS_PER_HOUR
        for start, finish, rate in zip(starts, ends, rates, strict=True)
    )


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
