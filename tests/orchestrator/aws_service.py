"""A deployment on a simulated AWS with machines that stand here, and a real door to the street."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import httpx

from orchestrator.clock import SystemClock
from orchestrator.doorway import HttpDoor, published
from orchestrator.ledger import fleet, offers
from orchestrator.ledger.fleet import Machine
from orchestrator.ledger.store import Ledger
from orchestrator.pinning import Pins
from orchestrator.probes import HttpProbes
from orchestrator.providers.aws.provider import AwsProvider
from orchestrator.providers.aws.settings import Installation
from orchestrator.scheduler import tick
from orchestrator.spec import parse
from orchestrator.world import World
from policies.decide import Policy
from policies.lifecycle import Status
from tests.orchestrator import aws_proxy as aws
from tests.orchestrator.aws_park import Park
from tests.orchestrator.batch import opened
from tests.orchestrator.scene import SPEED, always

SPEC = "{name: ocr, model: ppocr, provider: local, local: {price_per_hour: 1.80}, door: {listen: 127.0.0.1:0}}"
VISITORS = 3


@dataclass
class Visitors:
    """They ask again and again, each on a connection of its own, and count what they are answered."""

    url: str
    said: Counter[str] = field(default_factory=Counter)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Visitors":
        self._threads = [threading.Thread(target=self._visit, daemon=True) for _ in range(VISITORS)]
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for one in self._threads:
            one.join(60)

    def _visit(self) -> None:
        with httpx.Client(timeout=60, trust_env=False) as client:
            while not self._over.is_set():
                try:
                    answer = client.post(f"{self.url}/v1/ocr", files={"file": ("a.png", b"an image")})
                    self.said[str(answer.status_code)] += 1
                except httpx.HTTPError as error:
                    self.said[repr(error)] += 1
                time.sleep(0.01)


class Later(SystemClock):
    """Time passes as it does, but it is later."""

    ahead = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.ahead


@dataclass
class Service:
    """One deployment on AWS with a door to the street."""

    cloud: aws.Cloud
    park: Park
    ledger: Ledger
    world: World
    clock: Later
    url: str

    def tick(self) -> list[Machine]:
        """A tick, then what was launched is switched on, and what was ended off. Returns who is not over."""
        tick(self.world)
        self.park.switch_on()
        self.park.switch_off()
        with self.ledger.read() as tx:
            return list(fleet.machines(tx, "ocr"))

    def serving(self, count: int) -> list[Machine]:
        """Ticks until so many serve, some of them on spot, and nobody else is there."""
        end = time.monotonic() + 120
        while True:
            machines = self.tick()
            if len(machines) == count and all(one.status is Status.READY for one in machines):
                return machines
            assert time.monotonic() < end, [(one.status, one.url) for one in machines]
            time.sleep(0.1)

    def over(self, machine: Machine) -> Machine:
        """What has become of it."""
        with self.ledger.read() as tx:
            (found,) = [one for one in fleet.machines(tx, "ocr", over=True) if one.id == machine.id]
        return found

    def inside(self) -> set[str]:
        """Whom the door sends requests to."""
        serving = published(self.park.home, "ocr")
        return {one.id for one in serving.replicas} if serving else set()


@contextmanager
def begun(home: Path, folder: Path, replicas: int) -> Iterator[Service]:
    """With so many machines wanted, and none there yet. Their files lie in the folder."""
    clock = Later()
    with aws.running(clock) as cloud:
        aws.furnish(cloud)
        ledger = opened(home, "ocr")
        with ledger.write() as tx:
            offers.add_profile(tx, SPEED, clock.now())
        park = Park(cloud, home, folder)
        ours = Installation(str(home).encode())
        policy = Policy(
            model="ppocr",
            schedule=always(replicas, replicas),
            providers=("aws",),
            spot=True,
            currency="USD",
            start_seconds=1.0,
        )
        door = HttpDoor(home, "ocr")
        probes = HttpProbes(Pins(home).transport())
        world = World(
            deployment="ocr",
            digest="first",
            payload={"deployment": "ocr", "model": "ppocr", "engine": {}},
            wishes=lambda _, __: policy,
            clock=clock,
            ledger=ledger,
            providers={"aws": AwsProvider(home, clock, aws.settings(), ours, watch=park.watch(ours), spot_seconds=0)},
            probes=probes,
            door=door,
        )
        try:
            yield Service(cloud, park, ledger, world, clock, door.ensure(parse(SPEC)))
        finally:
            door.stop()
            door.close()
            probes.close()
            park.close()
