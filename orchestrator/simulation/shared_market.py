"""The market of a bad day: other people rent there too, and what prices were is sometimes published late."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from orchestrator.clock import Clock
from orchestrator.providers import Listed, Priced, Tags
from orchestrator.providers.simulated import Conditions, Move, Rented, SimulatedProvider
from orchestrator.providers.tariff import Tariff
from policies.snapshot import Offer, Purchase


class Tag(StrEnum):
    """What a machine that is not ours says of whom it belongs to."""

    NONE = "none"
    OTHERS = "another installation's"
    ALIKE = "ours"  # but of a deployment that this ledger does not know, whatever its name looks like


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A machine on demand in the same account that is somebody else's."""

    token: str
    offer_id: str
    arrives_at: datetime
    tag: Tag
    deployment: str  # the name that it bears


@dataclass(frozen=True, slots=True, kw_only=True)
class Late:
    """A price move that is published some time after it came into force."""

    move: Move
    published_at: datetime


class SharedMarket(SimulatedProvider):
    """A simulated provider that lists, as providers do, only what bears our installation's tag."""

    def __init__(
        self, clock: Clock, conditions: Conditions, neighbours: Sequence[Neighbour] = (), late: Sequence[Late] = ()
    ) -> None:
        super().__init__(clock, conditions)
        self._coming = sorted(neighbours, key=lambda one: one.arrives_at)
        self._neighbours = {one.token: one for one in neighbours}
        self._hidden = frozenset(one.token for one in neighbours if one.tag is not Tag.ALIKE)
        self._late = {(one.move.offer_id, one.move.at): one.published_at for one in late}
        self._publications = sorted(self._late.values())
        self._known: tuple[int, Tariff] = (-1, self._tariff)

    def arrive(self) -> None:
        """Let in whoever has come by now."""
        now = self._clock.now()
        while self._coming and self._coming[0].arrives_at <= now:
            one = self._coming.pop(0)
            offer = self._offers[one.offer_id]
            with self._market() as rental:
                rental.add(
                    Rented(
                        token=one.token,
                        offer_id=offer.id,
                        zone=offer.zone,
                        purchase=Purchase.ON_DEMAND,
                        price_per_hour_micros=offer.price_per_hour_micros or 0,
                        launched_at=now,
                        tags=Tags(deployment=one.deployment, offer_id=offer.id),
                    )
                )

    def offers(self) -> Sequence[Offer]:
        return self._published().offers(self._reached())

    def prices(self, since: datetime) -> Sequence[Priced] | None:
        return self._published().history(since, self._reached())

    def instances(self) -> Sequence[Listed]:
        return tuple(one for one in super().instances() if one.token not in self._hidden)

    def next_event(self, after: datetime) -> datetime | None:
        place = bisect_right(self._publications, after)
        coming = [one.arrives_at for one in self._coming if one.arrives_at > after]
        moments = [super().next_event(after), *self._publications[place : place + 1], *coming]
        return min((at for at in moments if at is not None), default=None)

    def ours(self, deployment: str) -> tuple[Rented, ...]:
        """Every machine that a deployment of ours ever had, whatever is listed."""
        return tuple(one for one in self.rented() if self._is_ours(one.token) and one.tags.deployment == deployment)

    def running_of_ours(self) -> tuple[str, ...]:
        """Tokens of our machines that are not over."""
        return tuple(filter(self._is_ours, self.running()))

    def spent(self, token: str, start: datetime, end: datetime) -> int:
        """What one machine has cost in [start, end), in micro-units."""
        with self._market() as rental:
            machine = rental.machines[token]
            return self._meter.read(machine, end) - self._meter.read(machine, start)

    def dearest(self, machine: Rented, start: datetime, end: datetime) -> int:
        """The highest price of an hour that its offer has had in [start, end]."""
        moves = self._tariff.between(machine.offer_id, start, end)
        prices = [self._tariff.price(machine.offer_id, start), *(move.price_per_hour_micros for move in moves)]
        return max(price or 0 for price in prices)

    def owes_prices(self) -> bool:
        """Whether some price is in force that is not published yet."""
        now = self._clock.now()
        return any(at <= now < published for (_, at), published in self._late.items())

    def neighbours(self) -> Mapping[str, str]:
        """What became of each machine that is not ours, by its token; "" as long as nobody has touched it."""
        with self._market() as rental:
            return {token: _harm(one) for token in self._neighbours if (one := rental.machines.get(token))}

    def _is_ours(self, token: str) -> bool:
        return token not in self._neighbours

    def _published(self) -> Tariff:
        """The prices as far as they are published by now."""
        if not self._late:
            return self._tariff
        now = self._clock.now()
        count = bisect_right(self._publications, now)
        if self._known[0] != count:
            self._known = count, Tariff(self._conditions.offers, self._moves_known(now))
        return self._known[1]

    def _moves_known(self, now: datetime) -> Iterator[Move]:
        for move in self._conditions.moves:
            if self._late.get((move.offer_id, move.at), now) <= now:
                yield move


def _harm(machine: Rented) -> str:
    if machine.ended_at is not None:
        return f"ended at {machine.ended_at:%H:%M:%S} UTC"
    if machine.stops:
        return "switched off"
    return "told to drain" if machine.draining else ""
