"""A market that is not there: machines that boot, cost, and are taken back on a clock of one's own choosing.

It bears the same conformance suite as the others and keeps its own billing meter, which knows nothing of the ledger.
Replicas are simulated too: `health` and `drain` answer for `sim://<token>`.
"""

import fcntl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeGuard

from pydantic import TypeAdapter

from orchestrator.billing import Terms
from orchestrator.clock import Clock
from orchestrator.files import read_json, write_json
from orchestrator.probes import Health
from orchestrator.providers import (
    Listed,
    Misconfigured,
    NoCapacity,
    Priced,
    ProviderError,
    Request,
    State,
    Tags,
    Unreachable,
    tags_of,
)
from policies.snapshot import Offer, Purchase

SCHEME = "sim://"
#: ended machines are listed for so long, as clouds do
LISTED_AFTER_END = timedelta(hours=1)
MICROSECONDS_PER_HOUR = 3_600_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """While it lasts, a zone has no spot machines, and those that run when it starts are taken back."""

    zone: str
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """How the market behaves."""

    offers: tuple[Offer, ...]
    boot_seconds: float = 60.0
    listing_delay_seconds: float = 0.0
    notice_seconds: float = 120.0
    outages: tuple[Outage, ...] = ()
    terms: Terms = field(default_factory=Terms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rented:
    """A machine of the market."""

    token: str
    offer_id: str
    tags: Tags
    zone: str
    purchase: Purchase
    price_per_hour_micros: int
    launched_at: datetime
    ended_at: datetime | None = None
    preempted: bool = False
    draining: bool = False


@dataclass
class Faults:
    """Errors to come, in order: raised before the call takes effect, or after it did."""

    before: list[ProviderError] = field(default_factory=list)
    after: list[ProviderError] = field(default_factory=list)


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
        self.listing_deadline_seconds = conditions.listing_delay_seconds + 5.0
        self.terms = conditions.terms
        self.faults = Faults()
        self._rented: dict[str, Rented] = {}
        self._advanced_to: datetime | None = None
        self._alone = threading.Lock()

    def offers(self) -> Sequence[Offer]:
        return self._conditions.offers

    def prices(self, since: datetime) -> Sequence[Priced] | None:
        return None

    def instances(self) -> Sequence[Listed]:
        now = self._clock.now()
        delay = timedelta(seconds=self._conditions.listing_delay_seconds)
        with self._market() as rented:
            return tuple(
                self._listed(one)
                for one in rented.values()
                if now - one.launched_at >= delay and (one.ended_at is None or now - one.ended_at < LISTED_AFTER_END)
            )

    def launch(self, request: Request) -> str:
        self._fail(self.faults.before)
        with self._market() as rented:
            if request.token not in rented:
                rented[request.token] = self._rent(request, rented)
        self._fail(self.faults.after)
        return f"m-{request.token}"

    def terminate(self, provider_id: str) -> None:
        self._fail(self.faults.before)
        with self._market() as rented:
            self._end(rented, provider_id.removeprefix("m-"), preempted=False)
        self._fail(self.faults.after)

    def health(self, url: str) -> Health | None:
        with self._market() as rented:
            machine = rented.get(url.removeprefix(SCHEME))
            return Health(ready=not machine.draining, draining=machine.draining) if self._answers(machine) else None

    def drain(self, url: str) -> bool:
        with self._market() as rented:
            machine = rented.get(url.removeprefix(SCHEME))
            if not self._answers(machine):
                return False
            rented[machine.token] = replace(machine, draining=True)
            return True

    def lose(self, token: str) -> None:
        """Take one machine back now, without a notice."""
        with self._market() as rented:
            self._end(rented, token, preempted=True)

    def crash(self, token: str) -> None:
        """Let one machine end by itself now."""
        with self._market() as rented:
            self._end(rented, token, preempted=False)

    def rented(self) -> tuple[Rented, ...]:
        """Every machine that anybody ever had, whatever is listed."""
        with self._market() as rented:
            return tuple(rented.values())

    def running(self) -> tuple[str, ...]:
        """Tokens of the machines that cost money now."""
        return tuple(one.token for one in self.rented() if one.ended_at is None)

    def meter(self, until: datetime | None = None) -> Mapping[str, int]:
        """What each machine has cost by `until` (now), in micro-units: price x time, per microsecond, rounded down."""
        until = until or self._clock.now()
        with self._market() as rented:
            return {
                one.token: one.price_per_hour_micros
                * max(0, (min(one.ended_at or until, until) - one.launched_at) // timedelta(microseconds=1))
                // MICROSECONDS_PER_HOUR
                for one in rented.values()
            }

    def next_event(self, after: datetime) -> datetime | None:
        """The next moment at which the market changes by itself."""
        notice = timedelta(seconds=self._conditions.notice_seconds)
        boot = timedelta(seconds=self._conditions.boot_seconds)
        moments = [at for o in self._conditions.outages for at in (o.start - notice, o.start, o.end)]
        with self._market() as rented:
            moments += [one.launched_at + boot for one in rented.values() if one.ended_at is None]
        return min((at for at in moments if at > after), default=None)

    def _rent(self, request: Request, rented: Mapping[str, Rented]) -> Rented:
        offer = self._offers.get(request.offer.id)
        now = self._clock.now()
        if offer is None:
            raise Misconfigured(f"{request.offer.id} is no longer on offer")
        if offer.purchase is Purchase.SPOT and self._outage(offer.zone, now) is not None:
            raise NoCapacity(f"no spot capacity in {offer.zone}")
        alive = sum(one.offer_id == offer.id and one.ended_at is None for one in rented.values())
        if offer.capacity is not None and alive >= offer.capacity:
            raise NoCapacity(f"{offer.id} has {offer.capacity} machines")
        return Rented(
            token=request.token,
            tags=tags_of(request.payload),
            offer_id=offer.id,
            zone=offer.zone,
            purchase=offer.purchase,
            price_per_hour_micros=offer.price_per_hour_micros or 0,
            launched_at=now,
        )

    def _end(self, rented: dict[str, Rented], token: str, *, preempted: bool) -> None:
        machine = rented.get(token)
        if machine is not None and machine.ended_at is None:
            rented[token] = replace(machine, ended_at=self._clock.now(), preempted=preempted)

    def _listed(self, machine: Rented) -> Listed:
        notice = timedelta(seconds=self._conditions.notice_seconds)
        reclaim_at = None
        if machine.purchase is Purchase.SPOT and machine.ended_at is None and notice:
            coming = self._outage(machine.zone, self._clock.now() + notice)
            reclaim_at = coming.start if coming is not None else None
        gone = machine.ended_at is not None
        return Listed(
            provider_id=f"m-{machine.token}",
            token=machine.token,
            state=State.GONE if gone else State.RUNNING if self._booted(machine) else State.STARTING,
            launched_at=machine.launched_at,
            ended_at=machine.ended_at,
            preempted=machine.preempted,
            reclaim_at=reclaim_at,
            url=f"{SCHEME}{machine.token}",
            detail="taken back by the market" if machine.preempted else "",
            tags=machine.tags,
        )

    def _answers(self, machine: Rented | None) -> TypeGuard[Rented]:
        return machine is not None and machine.ended_at is None and self._booted(machine)

    def _booted(self, machine: Rented) -> bool:
        return self._clock.now() - machine.launched_at >= timedelta(seconds=self._conditions.boot_seconds)

    def _outage(self, zone: str, at: datetime) -> Outage | None:
        return next((o for o in self._conditions.outages if o.zone == zone and o.start <= at < o.end), None)

    @contextmanager
    def _market(self) -> Iterator[dict[str, Rented]]:
        """The machines as they are now; what is changed in them is kept. Nobody else changes them meanwhile."""
        with self._alone:
            if self._path is None:
                self._advance(self._rented)
                yield self._rented
                return
            try:
                with self._path.with_suffix(".lock").open("ab") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    kept = _STATE.validate_python(read_json(self._path) or {})
                    rented, self._advanced_to = dict(kept), None
                    self._advance(rented)
                    yield rented
                    if rented != kept:
                        write_json(self._path, _STATE.dump_python(rented, mode="json"))
            except OSError as error:
                raise Unreachable(f"{self._path}: {error.strerror or error}") from None

    def _advance(self, rented: dict[str, Rented]) -> None:
        """Take back every spot machine over which an outage has come since its launch."""
        now = self._clock.now()
        if now == self._advanced_to:
            return
        self._advanced_to = now
        for machine in list(rented.values()):
            if machine.purchase is not Purchase.SPOT or machine.ended_at is not None:
                continue
            hits = [
                o.start
                for o in self._conditions.outages
                if o.zone == machine.zone and machine.launched_at < o.start <= now
            ]
            if hits:
                rented[machine.token] = replace(machine, ended_at=min(hits), preempted=True)

    @staticmethod
    def _fail(errors: list[ProviderError]) -> None:
        if errors:
            raise errors.pop(0)
