"""Prices as a buyer reads them: what is in force, how many images a unit of money buys, and how it moved by zone."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Any

from orchestrator.ledger import history, offers
from orchestrator.ledger.history import Steps
from orchestrator.ledger.store import Ledger
from policies import throughput
from policies.snapshot import Offer, Profile
from policies.throughput import gpu_key

#: at most so many lines are drawn: more cannot be told apart
LINES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Buy:
    """An offer at the price in force. What is not known is None."""

    offer: Offer
    source: str
    images_per_second: float | None
    cost_per_1000_micros: int | None  # in the offer's currency

    @property
    def images_per_unit(self) -> int | None:
        """Images for one unit of its currency, on a machine that is kept busy."""
        price = self.offer.price_per_hour_micros
        if not price or not self.images_per_second:
            return None
        return round(Fraction(self.images_per_second) * 3600 * 1_000_000 / price)


def gpus(ledger: Ledger) -> tuple[str, ...]:
    """The GPUs that are, or were, on offer; those of published lists after those that can be had."""
    with ledger.read() as tx:
        found = [*offers.known(tx), *offers.known(tx, [offers.MARKET])]
    return tuple(dict.fromkeys(one.gpu for one in found))


def buys(ledger: Ledger, model: str, gpu: str | None) -> tuple[Buy, ...]:
    """Every offer (of a GPU) at the price in force, the most images for its money first."""
    with ledger.read() as tx:
        found = [*offers.known(tx), *offers.known(tx, [offers.MARKET])]
        shown = [one for one in found if gpu is None or gpu_key(one.gpu) == gpu_key(gpu)]
        sources = offers.sources(tx, [one.id for one in shown])
        profiles = offers.profiles(tx, model)
    bought = [_buy(one, sources.get(one.id, ""), profiles, model) for one in shown]
    dearest = max((one.cost_per_1000_micros or 0 for one in bought), default=0)

    def place(one: Buy) -> tuple[bool, str, int, str]:
        cost = one.cost_per_1000_micros
        return cost is None, one.offer.currency, dearest if cost is None else cost, one.offer.id

    return tuple(sorted(bought, key=place))


def moved(ledger: Ledger, shown: Sequence[Buy], start: datetime, seconds: int, count: int) -> dict[str, Any]:
    """The prices of the first LINES offers over time, for the chart: units an hour, null where none was known."""
    steps = Steps(start=start, seconds=seconds, count=count)
    priced = [one.offer for one in shown if one.offer.price_per_hour_micros is not None]
    lines = [one for one in priced if one.currency == priced[0].currency][:LINES]  # they share an axis
    with ledger.read() as tx:
        told = history.prices(tx, [one.id for one in lines], steps)
    found: dict[tuple[Any, ...], list[str]] = {}
    for offer in lines:
        known = {one.step: one.price_per_hour_micros for one in told if one.offer_id == offer.id}
        price = known.get(-1)
        values = []
        for step in range(count):
            price = known.get(step, price)
            values.append(None if price is None else price / 1e6)
        name = f"{offer.gpu} {offer.purchase.replace('_', '-')}"
        found.setdefault((name, *values), []).append(offer.zone)  # one line where the price is the same
    drawn = [
        {
            "name": " ".join(filter(None, (name, ", ".join(filter(None, zones))))),
            "currency": lines[0].currency,
            "values": values,
        }
        for (name, *values), zones in found.items()
    ]
    first = int(steps.start.timestamp())
    return {"at": [first + seconds * number for number in range(count)], "seconds": seconds, "lines": drawn}


def _buy(offer: Offer, source: str, profiles: Sequence[Profile], model: str) -> Buy:
    profile = throughput.measured(profiles, model, offer.gpu)
    speed = profile.images_per_second if profile is not None else None
    cost = throughput.cost_per_1000_micros(offer.price_per_hour_micros, speed)
    return Buy(offer=offer, source=source, images_per_second=speed, cost_per_1000_micros=cost)
