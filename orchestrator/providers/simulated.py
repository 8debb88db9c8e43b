"""A market that is not there: machines that boot, cost, and are taken back on a clock of one's own choosing.

It bears the same conformance suite as the others, and lives through every trouble that a provider may have. What is
true of its machines is in `rental`, what they cost in `tariff`: a billing meter which knows nothing of the ledger.
Replicas are simulated too: `health` and `drain` answer for `sim://<token>`.
"""

import fcntl
import threading
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import TypeAdapter

from orchestrator.clock import Clock
from orchestrator.files import read_json, write_json
from orchestrator.probes import Health
from orchestrator.providers import (
    Listed,
    Misconfigured,
    NoCapacity,
    Priced,
    ProviderError,
    QuotaExceeded,
    Request,
    State,
    Throttled,
    Unreachable,
    tags_of,
)
from orchestrator.providers.conditions import Conditions, Faults, Kind, Trouble
from orchestrator.providers.rental import Outage, Outages, Rental, Rented
from orchestrator.providers.tariff import Meter, Move, Tariff
from policies.snapshot import Offer, Purchase

__all__ = ["Conditions", "Faults", "Kind", "Move", "Outage", "Rented", "SCHEME", "SimulatedProvider", "Trouble"]

SCHEME = "sim://"


_STATE = TypeAdapter(dict[str, Rented])


class SimulatedProvider:
    """Implements Provider and Probes over a market of one's own making. Safe to use from several threads.

    With `path` the market's machines live in that file, and every process that opens it sees the same ones.
    """

    name = "simulated"

    def __init__(self, clock: Clock, conditions: Conditions, path: Path | None = None) -> None:
        self._clock = clock
        self._conditions = conditions
        self._path = path
        self._offers = {offer.id: offer for offer in conditions.offers}
        self._delay = timedelta(seconds=conditions.listing_delay_seconds)
        self._outages = Outages(conditions.outages, conditions.notice_seconds)
        self._tariff = Tariff(conditions.offers, conditions.moves)
        self._meter = Meter(self._tariff, conditions.terms)
        forgotten_after = conditions.listed_after_end_seconds + conditions.listing_delay_seconds
        self._rental = Rental(self._outages, conditions.boot_seconds, forgotten_after)
        edges = {at for one in conditions.troubles for at in (one.start, one.end)}
        self._edges = sorted(edges.union(self._outages.moments()))
        self.listing_deadline_seconds = conditions.listing_delay_seconds + 5.0
        self.terms = conditions.terms
        self.faults = Faults()
        self._alone = threading.Lock()

    def offers(self) -> Sequence[Offer]:
        return self._tariff.offers(self._reached())

    def prices(self, since: datetime) -> Sequence[Priced] | None:
        now = self._reached()
        if self._path is not None and not self._conditions.moves:
            return None  # it outlives its process, and its price is what the spec says from when it says it
        return self._tariff.history(since, now)

    def instances(self) -> Sequence[Listed]:
        now = self._reached()
        self._throttled("", now)
        with self._market() as rental:
            machines = rental.listable(now)
            if not self._conditions.troubles:
                return tuple(self._listed(rental, one, now) for one in machines if self._shows(one, now))
            return tuple(listed for one in machines for listed in self._listings(rental, one, now))

    def launch(self, request: Request) -> str:
        with self._called(request.offer.zone), self._market() as rental:
            if request.token not in rental.machines:
                rental.add(self._rent(request, rental))
        return f"m-{request.token}"

    def terminate(self, provider_id: str) -> None:
        token = provider_id.removeprefix("m-")
        with self._called(self._zone_of(token)), self._market() as rental:
            rental.end(token, self._clock.now(), preempted=False)

    def health(self, url: str) -> Health | None:
        with self._market() as rental:
            machine = self._answering(rental, url)
            return None if machine is None else Health(ready=not machine.draining, draining=machine.draining)

    def drain(self, url: str) -> bool:
        with self._market() as rental:
            machine = self._answering(rental, url)
            if machine is not None:
                rental.drain(machine.token)
            return machine is not None

    def lose(self, token: str) -> None:
        """Take one machine back now, without a notice."""
        with self._market() as rental:
            rental.end(token, self._clock.now(), preempted=True)

    def crash(self, token: str) -> None:
        """Let one machine end by itself now."""
        with self._market() as rental:
            rental.end(token, self._clock.now(), preempted=False)

    def stop(self, token: str) -> None:
        """Somebody switches one machine off; its disk is kept, and paid."""
        with self._market() as rental:
            rental.stop(token, self._clock.now())

    def start(self, token: str) -> None:
        """Somebody switches a stopped machine on again: it boots, and costs again from now on, its minimum too.

        Without spot capacity, and of one that is over, runs, or was switched off this very moment, nothing happens.
        """
        with self._market() as rental:
            rental.start(token, self._clock.now())

    def rented(self) -> tuple[Rented, ...]:
        """Every machine that anybody ever had, whatever is listed."""
        with self._market() as rental:
            return tuple(rental.machines.values())

    def running(self) -> tuple[str, ...]:
        """Tokens of the machines that are not over and so cost money now, be it for their disk."""
        with self._market() as rental:
            return tuple(rental.alive)

    def meter(self, until: datetime | None = None) -> Mapping[str, int]:
        """What each machine has cost by `until` (now), in micro-units."""
        until = until or self._clock.now()
        with self._market() as rental:
            return {token: self._meter.read(one, until) for token, one in rental.machines.items()}

    def next_event(self, after: datetime) -> datetime | None:
        """The next moment at which the market changes by itself."""
        with self._market() as rental:
            moments = [self._tariff.next_move(after), rental.next_moment(after)]
            if self._delay:
                moments += [at for one in rental.alive.values() if (at := self._shown_from(one)) > after]
        place = bisect_right(self._edges, after)
        moments += self._edges[place : place + 1]
        return min((at for at in moments if at is not None), default=None)

    def _rent(self, request: Request, rental: Rental) -> Rented:
        """A new machine. Raises what the conditions have against it."""
        offer, now = self._offers.get(request.offer.id), self._clock.now()
        if offer is None:
            raise Misconfigured(f"{request.offer.id} is no longer on offer")
        if self._troubled(Kind.REFUSING, offer.zone, now):
            raise Misconfigured(f"{offer.id}: the request is not accepted")
        if self._conditions.quota is not None and len(rental.alive) >= self._conditions.quota:
            raise QuotaExceeded(f"the account may have {self._conditions.quota} machines")
        if self._troubled(Kind.DROUGHT, offer.zone, now):
            raise NoCapacity(f"no capacity in {offer.zone}")
        if offer.purchase is Purchase.SPOT and self._outages.lasts(offer.zone, now):
            raise NoCapacity(f"no spot capacity in {offer.zone}")
        if offer.capacity is not None and rental.count(offer.id) >= offer.capacity:
            raise NoCapacity(f"{offer.id} has {offer.capacity} machines")
        return Rented(
            token=request.token,
            offer_id=offer.id,
            zone=offer.zone,
            purchase=offer.purchase,
            price_per_hour_micros=self._tariff.price(offer.id, now) or 0,
            launched_at=now,
            tags=tags_of(request.payload),
            mute=self._troubled(Kind.NEVER_READY, offer.zone, now),
            stillborn=self._troubled(Kind.STILLBORN, offer.zone, now),
        )

    def _listings(self, rental: Rental, machine: Rented, now: datetime) -> Iterator[Listed]:
        """One machine's part of the listing while there are troubles: late, and twice."""
        stale = self._troubled(Kind.STALE, machine.zone, now)
        if not stale and self._shows(machine, now):
            yield self._listed(rental, machine, now)
        times = stale + self._troubled(Kind.DOUBLED, machine.zone, now)
        then = now - self._delay
        if times and machine.launched_at <= then and self._kept(before := machine.as_of(then), then):
            yield from [self._listed(rental, before, then)] * times

    def _shows(self, machine: Rented, now: datetime) -> bool:
        return (not self._delay or self._shown_from(machine) <= now) and self._kept(machine, now)

    def _shown_from(self, machine: Rented) -> datetime:
        """When a machine comes to be listed: after its launch, at the latest by the listing delay."""
        return machine.launched_at + self._delay * ((1 + zlib.crc32(machine.token.encode()) % 1000) / 1000)

    def _kept(self, machine: Rented, now: datetime) -> bool:
        seconds = self._conditions.listed_after_end_seconds
        return machine.ended_at is None or now - machine.ended_at < timedelta(seconds=seconds)

    def _listed(self, rental: Rental, machine: Rented, at: datetime) -> Listed:
        reclaim_at = None
        if machine.ended_at is not None:
            state = State.GONE
        elif machine.stopped_at is not None:
            state = State.STOPPED
        else:
            state = State.RUNNING if rental.booted(machine, at) else State.STARTING
            if machine.purchase is Purchase.SPOT:
                reclaim_at = self._outages.announced(machine.zone, at)
        return Listed(
            provider_id=f"m-{machine.token}",
            token=machine.token,
            state=state,
            launched_at=machine.launched_at,
            ended_at=machine.ended_at,
            preempted=machine.preempted,
            reclaim_at=reclaim_at,
            url=f"{SCHEME}{machine.token}",
            detail="taken back by the market" if machine.preempted else "",
            tags=machine.tags,
            stops=machine.stops,
        )

    def _answering(self, rental: Rental, url: str) -> Rented | None:
        """The machine at an address, if it answers."""
        machine, now = rental.alive.get(url.removeprefix(SCHEME)), self._clock.now()
        if machine is None or machine.mute or machine.stopped_at is not None or not rental.booted(machine, now):
            return None
        return None if self._troubled(Kind.UNREACHABLE, machine.zone, now) else machine

    def _zone_of(self, token: str) -> str:
        with self._market() as rental:
            return rental.machines[token].zone if token in rental.machines else ""

    def _reached(self, zone: str = "") -> datetime:
        """Now, if the provider can be asked. Raises Unreachable."""
        now = self._clock.now()
        if self._troubled(Kind.UNREACHABLE, zone, now):
            raise Unreachable("no answer")
        return now

    def _throttled(self, zone: str, now: datetime) -> None:
        if self._troubled(Kind.THROTTLED, zone, now):
            raise Throttled("slow down")

    def _troubled(self, kind: Kind, zone: str, now: datetime) -> bool:
        return any(
            one.kind is kind and one.start <= now < one.end and one.zone in ("", zone)
            for one in self._conditions.troubles
        )

    @contextmanager
    def _called(self, zone: str) -> Iterator[None]:
        """A call that changes something. What goes wrong with it goes wrong before it took effect, or after."""
        now = self._reached(zone)
        self._throttled(zone, now)
        self._fail(self.faults.before)
        silent = self._troubled(Kind.SILENT, zone, now)
        with suppress(ProviderError) if silent else nullcontext():
            yield
            self._fail(self.faults.after)
        if silent:
            raise Unreachable("the answer was lost")

    @staticmethod
    def _fail(errors: list[ProviderError]) -> None:
        if errors:
            raise errors.pop(0)

    @contextmanager
    def _market(self) -> Iterator[Rental]:
        """The machines as they are now; what is changed in them is kept. Nobody else changes them meanwhile."""
        with self._alone:
            if self._path is None:
                self._rental.advance(self._clock.now())
                yield self._rental
                return
            try:
                with self._path.with_suffix(".lock").open("ab") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    kept = _STATE.validate_python(read_json(self._path) or {})
                    self._rental.hold(kept)
                    self._rental.advance(self._clock.now())
                    yield self._rental
                    if self._rental.machines != kept:
                        write_json(self._path, _STATE.dump_python(self._rental.machines, mode="json"))
            except OSError as error:
                raise Unreachable(f"{self._path}: {error.strerror or error}") from None
