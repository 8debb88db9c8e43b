"""A world in which anything may go wrong at a chosen effect: before or after a call, a probe, the door, or a commit."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import _GeneratorContextManager, contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

from orchestrator.door import ServingSet
from orchestrator.ledger.store import Ledger, Transaction
from orchestrator.probes import Health, Probes
from orchestrator.providers import Listed, Priced, Provider, Request
from orchestrator.world import DoorLoad, DoorSeam, World
from policies.snapshot import Offer


class Crash(BaseException):
    """The process is gone: nothing catches this."""


class Fuse:
    """Names every effect as it passes, and lets `blow` do something at it."""

    def __init__(self, blow: Callable[[int, str], None]) -> None:
        self.blow = blow
        self.passed: list[str] = []

    def at(self, name: str) -> None:
        self.passed.append(name)
        self.blow(len(self.passed) - 1, name)

    @contextmanager
    def around(self, name: str) -> Iterator[None]:
        self.at(f"before {name}")
        yield
        self.at(f"after {name}")


def crash_at(index: int) -> Fuse:
    """Blows at the effect of this number."""

    def blow(number: int, name: str) -> None:
        if number == index:
            raise Crash(name)

    return Fuse(blow)


class FusedLedger(Ledger):
    """Its transactions are named after the function that opens them."""

    def __init__(self, ledger: Ledger, fuse: Fuse) -> None:
        super().__init__(ledger.engine, ledger.key)
        self.generation = ledger.generation
        self._fuse = fuse

    def write(self) -> "_GeneratorContextManager[Transaction]":
        return self._written(sys._getframe(1).f_code.co_name.lstrip("_"))

    @contextmanager
    def _written(self, who: str) -> Iterator[Transaction]:
        with super().write() as tx:
            yield tx
            self._fuse.at(f"before the commit of {who}")
        self._fuse.at(f"after the commit of {who}")


class FusedProvider:
    """A provider that only looks is left alone; one that acts passes the fuse."""

    def __init__(self, provider: Provider, fuse: Fuse) -> None:
        self.name = provider.name
        self.listing_deadline_seconds = provider.listing_deadline_seconds
        self.terms = provider.terms
        self._provider, self._fuse = provider, fuse

    def offers(self) -> Sequence[Offer]:
        return self._provider.offers()

    def prices(self, since: datetime) -> Sequence[Priced] | None:
        return self._provider.prices(since)

    def instances(self) -> Sequence[Listed]:
        return self._provider.instances()

    def launch(self, request: Request) -> str:
        with self._fuse.around("launching"):
            return self._provider.launch(request)

    def terminate(self, provider_id: str) -> None:
        with self._fuse.around("terminating"):
            self._provider.terminate(provider_id)


class FusedProbes:
    """Probes that ask are left alone; the request to drain passes the fuse."""

    def __init__(self, probes: Probes, fuse: Fuse) -> None:
        self._probes, self._fuse = probes, fuse

    def health(self, url: str) -> Health | None:
        return self._probes.health(url)

    def drain(self, url: str) -> bool:
        with self._fuse.around("draining"):
            return self._probes.drain(url)


class FusedDoor:
    """A door that tells is left alone; what it is told passes the fuse."""

    def __init__(self, door: DoorSeam, fuse: Fuse) -> None:
        self._door, self._fuse = door, fuse

    def publish(self, serving: ServingSet) -> None:
        with self._fuse.around("publishing"):
            self._door.publish(serving)

    def load(self, after: datetime) -> DoorLoad | None:
        return self._door.load(after)

    def in_flight(self, replica_id: str) -> int | None:
        return self._door.in_flight(replica_id)


def fused(world: World, fuse: Fuse) -> World:
    """The same world with a fuse in everything that has an effect."""
    parts: dict[str, Any] = {
        "ledger": FusedLedger(world.ledger, fuse),
        "providers": {name: FusedProvider(one, fuse) for name, one in world.providers.items()},
        "probes": FusedProbes(world.probes, fuse),
        "door": FusedDoor(world.door, fuse),
    }
    return replace(world, **parts)
