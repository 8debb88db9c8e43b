"""The loop itself over machines on AWS: launched, noticed, replaced, settled."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

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

pytest.importorskip("flask", reason="moto's server needs Flask")

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@dataclass
class Engines:
    """Engines that answer as soon as their machine runs, and are asked to drain."""

    drained: list[str] = field(default_factory=list)

    def health(self, url: str) -> Health | None:
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


@pytest.fixture
def day(home: Path) -> Iterator[Day]:
    clock = VirtualClock(NOW)
    with aws.running(clock) as cloud:
        aws.furnish(cloud)
        ledger = opened(home, "ocr")
        with ledger.write() as tx:
            offers.add_profile(tx, SPEED, NOW)
        yield Day(cloud, clock, ledger, aws.provider(home, clock))


def ready(day: Day) -> list[Machine]:
    """Until some machine serves and none starts."""
    for _ in range(20):
        machines = day.tick(30)
        if machines and all(one.status is Status.READY for one in machines):
            return machines
    raise AssertionError([one.status for one in machines])


def bare(machine: Machine) -> str:
    return str(machine.provider_id).rpartition("/")[2]


def spot(day: Day) -> Machine:
    """A spot machine that serves."""
    for _ in range(10):
        for one in ready(day):
            if one.purchase is Purchase.SPOT:
                return one
    raise AssertionError("none was launched")


def test_a_notice_takes_a_machine_out_of_the_door_and_replaces_it_in_one_tick(day: Day) -> None:
    machine = spot(day)
    assert machine.id in day.door.inside
    before = len(day.cloud.sent)
    day.cloud.announce(bare(machine))
    after = day.tick(1)
    assert machine.id not in day.door.inside
    assert len(day.cloud.sent) > before or any(one.status is Status.READY for one in after if one.id != machine.id)
    assert machine.url in day.engines.drained
    assert day.cloud.calls.count(("ec2", "TerminateInstances")) == 0  # in its first hour EC2 ends it, and bills nothing
    day.clock.sleep(119)
    day.cloud.take_back(bare(machine))
    day.tick(1)
    ended = day.machine(machine.id)
    assert ended.status is Status.PREEMPTED
    assert day.cost_micros(ended, charges.COMPUTE) == 0  # the free first hour
    assert (day.cost_micros(ended, charges.DISK) or 0) > 0  # its disk is nobody's gift
    assert all(one.status is Status.READY for one in ready(day))


def test_a_lack_of_capacity_is_met_in_another_pool(day: Day) -> None:
    day.cloud.refuse("RunInstances", "InsufficientInstanceCapacity", 500, times=1)
    machines = ready(day)
    with day.ledger.read() as tx:
        failed = [one for one in fleet.machines(tx, "ocr", over=True) if one.status is Status.FAILED]
    assert "NoCapacity: InsufficientInstanceCapacity" in str(failed[0].reason)
    assert failed[0].offer_id not in {one.offer_id for one in machines}
    assert len(day.cloud.alive()) == len(machines)  # what was refused left nothing


def test_closed_leaves_nothing_and_the_ledger_is_what_the_machines_cost(day: Day) -> None:
    machine = ready(day)[0]
    day.schedule = always(0, 0)
    for _ in range(40):
        if not day.tick(30):
            break
    assert day.cloud.alive() == []
    ended = day.machine(machine.id)
    assert ended.status is Status.ENDED
    assert ended.launched_at is not None and ended.ended_at is not None
    seconds = (ended.ended_at - ended.launched_at) // timedelta(seconds=1)
    price = 157_800 if machine.purchase is Purchase.SPOT else 526_000
    assert day.cost_micros(ended, charges.COMPUTE) == price * seconds // 3600
