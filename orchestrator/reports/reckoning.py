"""What each charge comes to in a period, worked out once: rows, days, savings and exports all add up these."""

import gc
from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import NamedTuple, TypeVar
from zoneinfo import ZoneInfo

from orchestrator.billing import MICROSECOND, MICROSECONDS_PER_HOUR, accrued
from orchestrator.ledger.reporting import Booked
from orchestrator.reports.prices import PriceLine, Rates
from policies.snapshot import Purchase
from policies.windows import Schedule, Span, spans


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """A local date and the known cost of it."""

    date: date
    cost_micros: int


class Entry(NamedTuple):
    """One charge, clipped to the period. A correction is a moment: it starts where it ends."""

    booked: Booked
    starts_at: datetime
    ends_at: datetime
    elapsed: int  # microseconds
    micros: int | None  # what is due, in the report's currency; None: the price is unknown, or no rate converts it
    foreign_micros: int | None  # what is due in the charge's own currency, where no rate converts it
    list_micros: int | None  # the same time at the on-demand price; what is due where that is not known, or no spot

    @property
    def is_machine_time(self) -> bool:
        """Whether its time counts as hours: disks and addresses cost beside a machine, a correction takes no time."""
        return self.booked.kind == "compute" and self.booked.charge.amount_micros is None


Key = TypeVar("Key", bound=Hashable)
#: on-demand prices by (provider, GPU), of what was had on spot
ListPrices = Mapping[tuple[str, str], PriceLine]


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the garbage collector: in a million tuples it would find no cycle, and look at each many times."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def reckon(booked: Iterable[Booked], period: Span, rates: Rates, listed: ListPrices) -> tuple[Entry, ...]:
    """The charges that ran, or were booked, in the period; each rounded down once, by its own start."""
    return tuple(one for charge in booked if (one := entry(charge, period, rates, listed)) is not None)


def entry(booked: Booked, period: Span, rates: Rates, listed: ListPrices) -> Entry | None:
    """One charge in the period; None when it has no part in it."""
    charge = booked.charge
    start, end = period.opens_at, period.closes_at
    begun = charge.started_at if charge.started_at > start else start
    if charge.amount_micros is not None:
        ended = begun
    else:
        ended = end if charge.ended_at is None or charge.ended_at > end else charge.ended_at
        if ended <= begun:
            return None
    rate = rates.get(charge.currency) if charge.currency else 1
    due = accrued(charge, end, rate=1 if rate is None else rate)
    if due is not None and charge.started_at < start:
        due -= accrued(charge, start, rate=1 if rate is None else rate) or 0
    micros = None if rate is None else due
    return Entry(
        booked=booked,
        starts_at=begun,
        ends_at=ended,
        elapsed=(ended - begun) // MICROSECOND,
        micros=micros,
        foreign_micros=due if rate is None else None,
        list_micros=_listed(booked, begun, ended, listed, micros),
    )


def grouped(entries: Iterable[Entry], key: Callable[[Entry], Key]) -> dict[Key, list[Entry]]:
    """The entries by whatever `key` makes of them, in their order."""
    found: dict[Key, list[Entry]] = {}
    for one in entries:
        found.setdefault(key(one), []).append(one)
    return found


def list_price_line(booked: Booked, listed: ListPrices) -> PriceLine | None:
    """What the time of a spot machine would have cost on demand; None for what was not had on spot, or if unknown."""
    if booked.purchase is not Purchase.SPOT or booked.kind != "compute":
        return None
    return listed.get((booked.provider, booked.gpu))


def days(entries: Sequence[Entry], zone: ZoneInfo, period: Span, rates: Rates) -> tuple[Day, ...]:
    """Every local date of the period with what accrued on it: each charge is cut at the midnights it lives through."""
    last = (period.closes_at - timedelta(microseconds=1)).astimezone(zone).date()
    first = period.opens_at.astimezone(zone).date()
    dates = [first + timedelta(days=ahead) for ahead in range((last - first).days + 1)]
    cut = [(day, span) for day in dates for span in spans(Schedule(zone=zone), day, day)]  # a skipped date has no span
    starts = [span.opens_at for _, span in cut]
    costs = [0] * len(cut)
    for one in entries:
        if one.micros is None:
            continue
        place = max(bisect_right(starts, one.starts_at) - 1, 0)
        left = one.micros
        while place + 1 < len(cut) and starts[place + 1] < one.ends_at:
            part = _part(one, max(one.starts_at, starts[place]), starts[place + 1], rates)
            costs[place] += part
            left -= part
            place += 1
        costs[place] += left
    return tuple(Day(date=day, cost_micros=cost) for (day, _), cost in zip(cut, costs, strict=True))


def cost(entries: Iterable[Entry], start: datetime, end: datetime, rates: Rates) -> int:
    """What is known to be due in [start, end), a part of the period that the entries are of."""
    total = 0
    for one in entries:
        if one.micros is None or one.ends_at < start or one.starts_at >= end:
            continue
        inside = one.starts_at >= start and one.ends_at <= end
        total += one.micros if inside else _part(one, max(start, one.starts_at), min(end, one.ends_at), rates)
    return total


def _part(one: Entry, start: datetime, end: datetime, rates: Rates) -> int:
    charge = one.booked.charge
    if charge.amount_micros is not None:
        return one.micros or 0
    rate = rates.get(charge.currency, 1)
    return (accrued(charge, end, rate=rate) or 0) - (accrued(charge, start, rate=rate) or 0)


def _listed(booked: Booked, start: datetime, end: datetime, listed: ListPrices, micros: int | None) -> int | None:
    line = None if micros is None else list_price_line(booked, listed)
    if line is None:
        return micros
    if booked.charge.amount_micros is not None:
        return 0  # on demand there is no free first hour, and nothing to correct
    return line.units(start, end) // (line.scale * MICROSECONDS_PER_HOUR)
