"""What a simulated market's machines cost: prices as they move, and a meter that knows nothing of the ledger."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from orchestrator.billing import Terms
from orchestrator.providers import Priced
from orchestrator.providers.rental import Rented
from policies.snapshot import Offer, Purchase

#: an offer's first price is in force since then
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECONDS_PER_HOUR = 3_600_000_000
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """The price of an offer changes."""

    offer_id: str
    at: datetime
    price_per_hour_micros: int


class Tariff:
    """The prices of offers over time. A move to the price that is in force anyway is none."""

    def __init__(self, offers: Sequence[Offer], moves: Iterable[Move]) -> None:
        self._offers = {offer.id: offer for offer in offers}
        self._rows = {offer.id: [_row(offer, EPOCH, offer.price_per_hour_micros)] for offer in offers}
        for move in sorted(moves, key=lambda move: move.at):
            rows = self._rows.get(move.offer_id)
            if rows is None:
                raise ValueError(f"a price moves of what is not on offer: {move.offer_id}")
            if rows[-1].effective_at == move.at:
                rows.pop()  # of two moves at one moment the later one counts
            if not rows or rows[-1].price_per_hour_micros != move.price_per_hour_micros:
                rows.append(_row(self._offers[move.offer_id], move.at, move.price_per_hour_micros))
        self._moments = {offer_id: [row.effective_at for row in rows] for offer_id, rows in self._rows.items()}
        later = [row for rows in self._rows.values() for row in rows[1:]]
        self._moves = sorted(later, key=lambda row: row.effective_at)
        self._moved = [row.effective_at for row in self._moves]
        self._now: tuple[int, tuple[Offer, ...]] = (0, tuple(offers))
        self._asked: tuple[tuple[int, int], tuple[Priced, ...]] = ((-1, -1), ())

    def offers(self, now: datetime) -> tuple[Offer, ...]:
        """What is on offer, at the prices of the moment."""
        count, found = bisect_right(self._moved, now), self._now
        if found[0] != count:
            at_prices = (replace(one, price_per_hour_micros=self.price(one.id, now)) for one in self._offers.values())
            self._now = found = (count, tuple(at_prices))
        return found[1]

    def price(self, offer_id: str, at: datetime) -> int | None:
        """The price in force. None: unknown."""
        return self._in_force(offer_id, at).price_per_hour_micros

    def history(self, since: datetime, now: datetime) -> tuple[Priced, ...]:
        """What was in force at `since`, and every move after it up to now, oldest first."""
        since = min(since, now)
        span, found = (bisect_right(self._moved, since), bisect_right(self._moved, now)), self._asked
        if found[0] != span:
            in_force = sorted((self._in_force(one, since) for one in self._rows), key=lambda row: row.effective_at)
            self._asked = found = (span, (*in_force, *self._moves[slice(*span)]))
        return found[1]

    def next_move(self, after: datetime) -> datetime | None:
        place = bisect_right(self._moved, after)
        return self._moved[place] if place < len(self._moved) else None

    def between(self, offer_id: str, start: datetime, end: datetime) -> list[Priced]:
        """The moves of one offer in (start, end), oldest first; none of what is not on offer."""
        moments = self._moments.get(offer_id, [])
        # the first one is no move
        return self._rows.get(offer_id, [])[max(1, bisect_right(moments, start)) : bisect_left(moments, end)]

    def _in_force(self, offer_id: str, at: datetime) -> Priced:
        return self._rows[offer_id][max(0, bisect_right(self._moments[offer_id], at) - 1)]


def _row(offer: Offer, at: datetime, price: int | None) -> Priced:
    return Priced(offer_id=offer.id, price_per_hour_micros=price, currency=offer.currency, effective_at=at)


class Meter:
    """What machines cost: each stretch at one price, and the disk, is rounded down by itself."""

    def __init__(self, tariff: Tariff, terms: Terms) -> None:
        self._tariff = tariff
        self._terms = terms
        self._final: dict[str, int] = {}  # of machines that are over: it is asked for at every tick

    def read(self, machine: Rented, until: datetime) -> int:
        """Micro-units that a machine has cost by `until`."""
        if until < machine.launched_at:
            return 0
        if machine.ended_at is None or until < machine.ended_at:
            spells = _spells(machine, self._tariff, until)
            return self._disk(until - machine.launched_at) + sum(_micros(*part) for spell in spells for part in spell)
        if machine.token not in self._final:
            self._final[machine.token] = self._whole(machine, machine.ended_at)
        return self._final[machine.token]

    def _whole(self, machine: Rented, end: datetime) -> int:
        """Of a machine that is over: only now its bill knows of the minimums and of the free first hour."""
        life, terms = end - machine.launched_at, self._terms
        taken_back = machine.preempted and machine.purchase is Purchase.SPOT
        if taken_back and terms.first_hour_free and life < timedelta(hours=1):
            return self._disk(life)
        total, minimum = self._disk(life), timedelta(seconds=terms.minimum_seconds)
        for spell in _spells(machine, self._tariff, end):
            *parts, (price, last) = spell
            last += max(timedelta(0), minimum - sum((length for _, length in parts), last))
            total += sum(_micros(*part) for part in (*parts, (price, last)))
        return total

    def _disk(self, life: timedelta) -> int:
        return _micros(self._terms.disk_per_hour_micros, life)


def _spells(machine: Rented, tariff: Tariff, until: datetime) -> Iterator[list[tuple[int, timedelta]]]:
    """(price per hour, time) of each stretch at one price, of each time that the machine ran."""
    moves = tariff.between(machine.offer_id, machine.launched_at, until)
    for start, end in machine.spells(until):
        price, since, parts = machine.price_per_hour_micros, start, []
        for move in moves:
            if start < move.effective_at:
                if move.effective_at >= end:
                    break
                parts.append((price, move.effective_at - since))
                since = move.effective_at
            price = move.price_per_hour_micros or 0
        yield [*parts, (price, end - since)]


def _micros(price_per_hour_micros: int, time: timedelta) -> int:
    return price_per_hour_micros * (time // MICROSECOND) // MICROSECONDS_PER_HOUR
