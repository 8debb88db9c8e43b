"""What a kind of machine cost over time, for the questions of what would have been."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from math import lcm
from typing import Protocol

from orchestrator.billing import MICROSECOND, MICROSECONDS_PER_HOUR
from orchestrator.ledger.offers import Price
from orchestrator.ledger.tallies import Rates, Tally
from policies.snapshot import Offer, Purchase
from policies.throughput import gpu_key

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class OfKind(Protocol):
    """What is charged: one charge, or many of a kind."""

    @property
    def provider(self) -> str: ...

    @property
    def gpu(self) -> str: ...

    @property
    def purchase(self) -> Purchase: ...

    @property
    def kind(self) -> str: ...


@dataclass(frozen=True, slots=True)
class PriceLine:
    """An hourly price that changes at `edges`: in micro-units of the report's currency, times `scale` to be whole.

    Before the first edge the first price holds: what is not known earlier is best guessed by what was known first.
    """

    edges: tuple[datetime, ...]
    prices: tuple[int, ...]
    scale: int = 1

    def units(self, start: datetime, end: datetime) -> int:
        """What one machine costs from `start` to `end`, exactly: in micro-units / scale / MICROSECONDS_PER_HOUR."""
        if len(self.edges) == 1:
            return self.prices[0] * ((end - start) // MICROSECOND)
        total, at = 0, start
        while at < end:
            place = self._place(at)
            until = end if place + 1 == len(self.edges) else min(end, self.edges[place + 1])
            total += self.prices[place] * ((until - at) // MICROSECOND)
            at = until
        return total

    def at(self, moment: datetime) -> int:
        """What one machine costs then, in micro-units / scale per hour, that is of `units` per microsecond."""
        return self.prices[self._place(moment)]

    def _place(self, moment: datetime) -> int:
        return max(bisect_right(self.edges, moment) - 1, 0)

    def cost(self, start: datetime, end: datetime) -> Fraction:
        """The same in micro-units."""
        return self.fraction(self.units(start, end))

    def fraction(self, units: int) -> Fraction:
        """Any sum of `units` in micro-units."""
        return Fraction(units, self.scale * MICROSECONDS_PER_HOUR)


#: on-demand prices by (provider, GPU), of what was had on spot
ListPrices = Mapping[tuple[str, str], PriceLine]


def list_price_line(charged: OfKind, listed: ListPrices) -> PriceLine | None:
    """What the time of a spot machine would have cost on demand; None for what was not had on spot, or if unknown."""
    if charged.purchase is not Purchase.SPOT or charged.kind != "compute":
        return None
    return listed.get((charged.provider, charged.gpu))


def list_cost(charged: Iterable[Tally], listed: ListPrices) -> Fraction:
    """What it comes to, in micro-units, at the on-demand price where that is known; else what it cost.

    Each was charged between two moves of the prices in `listed`. On demand there is no free first hour, and nothing to
    correct.
    """
    paid = 0
    units: dict[tuple[str, str], int] = {}
    for one in charged:
        line = None if one.micros is None else list_price_line(one, listed)
        if line is None:
            paid += one.micros or 0
        elif not one.correction:
            machine = one.provider, one.gpu
            units[machine] = units.get(machine, 0) + line.at(one.starts_at) * one.elapsed
    return paid + sum((listed[machine].fraction(total) for machine, total in units.items()), Fraction(0))


def flat(price_per_hour_micros: Fraction) -> PriceLine:
    """One price for ever."""
    return _line((EPOCH,), [price_per_hour_micros])


def _line(edges: Sequence[datetime], prices: Sequence[Fraction]) -> PriceLine:
    scale = lcm(*(price.denominator for price in prices))
    return PriceLine(tuple(edges), tuple(int(price * scale) for price in prices), scale)


def price_line(
    offers: Sequence[Offer],
    history: Iterable[Price],
    gpu: str,
    purchase: Purchase,
    rates: Rates,
    provider: str | None = None,
) -> PriceLine | None:
    """The lowest price in force for `gpu` on these terms, at the provider if it has any, else anywhere.

    None when no price was ever known, or none that `rates` turns into the report's currency. The lowest, so that a
    saving measured against it is never flattered.
    """
    alike = [o for o in offers if gpu_key(o.gpu) == gpu_key(gpu) and o.purchase is purchase]
    ids = {o.id for o in alike if o.provider == provider}
    told = [price for price in history if price.offer_id in (ids or {o.id for o in alike})]
    edges: list[datetime] = []
    lowest: list[Fraction] = []
    in_force: dict[str, Fraction] = {}
    for price in told:
        rate = rates.get(price.currency)
        if price.price_per_hour_micros is None or rate is None:
            in_force.pop(price.offer_id, None)
        else:
            in_force[price.offer_id] = Fraction(price.price_per_hour_micros * rate)
        if in_force and (not lowest or lowest[-1] != min(in_force.values())):
            edges.append(price.effective_at)
            lowest.append(min(in_force.values()))
    return _line(edges, lowest) if lowest else None
