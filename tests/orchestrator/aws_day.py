"""A deployment on AWS on a clock of its own: the real loop, ledger and provider, and engines that are ready at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.billing import accrued
from orchestrator.clock import VirtualClock
from orchestrator.ledger import charges, fleet, offers
from orchestrator.ledger.fleet import Machine
from orchestrator.ledger.store import Ledger
from orchestrator.probes import Health
from orchestrator.providers.aws.provider import AwsProvider
from orchestrator.scheduler import tick
from orchestrator.world import World
from policies.decide import Policy
from policies.lifecycle import Status
from policies.snapshot import Purchase
from tests.orchestrator import aws_proxy as aws
from tests.orchestrator.batch import opened
from tests.orchestrator.scene import SPEED, FakeDoor, always


@dataclass
class Engines:
    """Engines that answer as soon as their machine runs, and are asked to drain."""

    drained: list[str] = field(default_factory=list)
    slow: bool = False  # they have not come up yet

    def health(self, url: str) -> Health | None:
        if self.slow:
            return None
        return Health(ready=url not in self.drained, draining=url in self.drained)

    def drain(self, url: str) -> bool:
        self.drained.append(url)
        return True


@dataclass
class Day:
    """One deployment on AWS, on a clock of its own."""

    cloud: aws.Cloud
    clock: VirtualClock
    ledger: Ledger
    provider: AwsProvider
    schedule: Any = field(default_factory=always)
    door: FakeDoor = field(default_factory=FakeDoor)
    engines: Engines = field(default_factory=Engines)

    def tick(self, seconds: float = 0.0) -> list[Machine]:
        """Some time passes, then a tick. Returns the machines that are not over."""
        self.clock.sleep(seconds)
        policy = Policy(model="ppocr", schedule=self.schedule, providers=("aws",), spot=True, currency="USD")
        world = World(
            deployment="ocr",
            digest="first",
            payload={"deployment": "ocr", "model": "ppocr", "engine": {}},
            wishes=lambda _, __: policy,
            clock=self.clock,
            ledger=self.ledger,
            providers={"aws": self.provider},
            probes=self.engines,
            door=self.door,
        )
        tick(world)
        with self.ledger.read() as tx:
            return list(fleet.machines(tx, "ocr"))

    def machine(self, machine_id: str) -> Machine:
        with self.ledger.read() as tx:
            (one,) = [one for one in fleet.machines(tx, "ocr", over=True) if one.id == machine_id]
        return one

    def cost_micros(self, machine: Machine, kind: str) -> int | None:
        """What the ledger says that its time, or its disk, has cost."""
        with self.ledger.read() as tx:
            found = [accrued(one, self.clock.now()) for one in charges.booked(tx, kind)[machine.id]]
        return sum(one for one in found if one is not None)


@contextmanager
def begun(home: Path, now: datetime) -> Iterator[Day]:
    """At that moment nothing runs yet."""
    clock = VirtualClock(now)
    with aws.running(clock) as cloud:
        aws.furnish(cloud)
        ledger = opened(home, "ocr")
        with ledger.write() as tx:
            offers.add_profile(tx, SPEED, now)
        yield Day(cloud, clock, ledger, aws.provider(home, clock))


def ready(day: Day) -> list[Machine]:
    """Until some machine serves and none starts."""
    for _ in range(20):
        machines = day.tick(30)
        if machines and all(one.status is Status.READY for one in machines):
            return machines
    raise AssertionError([one.status for one in machines])


def spot(day: Day) -> Machine:
    """A spot machine that serves."""
    for _ in range(10):
        for one in ready(day):
            if one.purchase is Purchase.SPOT:
                return one
    raise AssertionError("none was launched")
