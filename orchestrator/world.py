"""Everything impure that one deployment's tick touches, in one place."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from orchestrator.clock import Clock
from orchestrator.door import ServingSet
from orchestrator.ledger import fleet
from orchestrator.ledger.store import Ledger
from orchestrator.probes import Probes
from orchestrator.providers import Provider
from policies.decide import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorLoad:
    """What the door saw: per-minute rows for the ledger, and the demand right now."""

    minutes: tuple[Mapping[str, Any], ...]  # rows of `loads`
    images_per_second: float
    waiting: int
    counted_since: datetime | None = None  # minutes before it are not among these; None: none is left out


class DoorSeam(Protocol):
    """The stable address, as the loop sees it. It never raises: a door that is away is None."""

    def publish(self, serving: ServingSet) -> None: ...

    def load(self, after: datetime) -> DoorLoad | None: ...

    def in_flight(self, replica_id: str) -> int | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One deployment's surroundings. Clock, providers, probes and door are swapped in a simulation; nothing else is."""

    deployment: str
    digest: str  # of the spec's part that a replica runs by
    payload: Mapping[str, Any]  # what a replica is started with
    #: the spec in the policies' words: at a moment (holidays, overrides), by the start that was measured until then
    wishes: Callable[[datetime, float | None], Policy]
    clock: Clock
    ledger: Ledger
    providers: Mapping[str, Provider]
    probes: Probes
    door: DoorSeam

    def policy(self, now: datetime) -> Policy:
        """The wishes at a moment, by what the ledger knows now. A tick asks for them by what it has just seen."""
        with self.ledger.read() as tx:
            return self.wishes(now, fleet.start_seconds(tx, self.deployment))
