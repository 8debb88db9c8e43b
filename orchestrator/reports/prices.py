"""What a kind of machine cost over time, for the questions of what would have been."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from math import lcm

from orchestrator.billing import MICROSECOND, MICROSECONDS_PER_HOUR
from orchestrator.ledger.offers import Price
from policies.snapshot import Offer, Purchase
from policies.throughput import gpu_key

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: what one unit of each currency is worth in the report's; that one itself is the integer 1
Rates = Mapping[str, Fraction | int]


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
            place = max(bisect_right(self.edges, at) - 1, 0)
            until = end if place + 1 == len(self.edges) else min(end, self.edges[place + 1])
            total += self.prices[place] * ((until - at) // MICROSECOND)
            at = until
        return total

    def cost(self, start: datetime, end: datetime) -> Fraction:
        """The same in micro-units."""
        return self.fraction(self.units(start, end))

    def fraction(self, units: int) -> Fraction:
        """Any sum of `units` in micro-units."""
        return Fraction(units, self.scale * MICROSECONDS_PER_HOUR)


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
