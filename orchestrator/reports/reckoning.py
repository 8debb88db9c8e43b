"""What each charge comes to in a period, one by one: for exports, and for what a few machines cost in a short while."""

from collections.abc import Callable, Hashable, Iterable
from datetime import datetime
from typing import NamedTuple, TypeVar

from orchestrator.billing import MICROSECOND, accrued
from orchestrator.ledger.reporting import Booked
from orchestrator.ledger.tallies import Rates
from policies.windows import Span


class Entry(NamedTuple):
    """One charge, clipped to the period. A correction is a moment: it starts where it ends."""

    booked: Booked
    starts_at: datetime
    ends_at: datetime
    elapsed: int  # microseconds
    micros: int | None  # what is due, in the report's currency; None: the price is unknown, or no rate converts it
    foreign_micros: int | None  # what is due in the charge's own currency, where no rate converts it

    @property
    def is_machine_time(self) -> bool:
        """Whether its time counts as hours: disks and addresses cost beside a machine, a correction takes no time."""
        return self.booked.kind == "compute" and self.booked.charge.amount_micros is None


Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


def reckon(booked: Iterable[Booked], period: Span, rates: Rates) -> tuple[Entry, ...]:
    """The charges that ran, or were booked, in the period; each rounded down once, by its own start."""
    return tuple(one for charge in booked if (one := entry(charge, period, rates)) is not None)


def entry(booked: Booked, period: Span, rates: Rates) -> Entry | None:
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
    )


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """The items by whatever `key` makes of them, in their order."""
    found: dict[Key, list[Item]] = {}
    for one in items:
        found.setdefault(key(one), []).append(one)
    return found
