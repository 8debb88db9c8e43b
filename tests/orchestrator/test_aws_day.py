"""A working day on AWS, as a script has it, on a clock that nobody waits for: from nothing to nothing."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from orchestrator.billing import HOUR
from orchestrator.ledger import deployments, fleet, leases, offers
from orchestrator.ledger.fleet import Machine
from orchestrator.ledger.store import Ledger, open_ledger
from orchestrator.reports.month import of_ledger
from policies import windows
from policies.lifecycle import Status
from policies.snapshot import Purchase
from tests.orchestrator import aws_proxy as aws
from tests.orchestrator.aws_day import Day, begun
from tests.orchestrator.aws_proxy import bare
from tests.orchestrator.driven_aws import CompressedClock
from tests.orchestrator.scene import SPEED
from tests.orchestrator.tiny import until

pytest.importorskip("flask", reason="moto's server needs Flask")

MORNING = datetime(2026, 11, 20, tzinfo=UTC)  # a Friday
SECOND = timedelta(seconds=1)
DAYTIME = windows.Schedule(
    zone=ZoneInfo("UTC"),
    windows=(windows.Window(days=frozenset(range(5)), start_minute=8 * 60, end_minute=20 * 60),),
    min=2,
    max=2,
    prewarm_seconds=60,
)
SPOT_MICROS, ON_DEMAND_MICROS = 157_800, 526_000
BESIDE_MICROS = 80_000 * 100 // 730 + 5_000  # a volume and an address


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-20T{text}+00:00")


def passes(day: Day, until: datetime, step_seconds: float = 300) -> list[Machine]:
    """Ticks until then, and one then."""
    machines = day.tick()
    while (left := (until - day.clock.now()).total_seconds()) > 0:
        machines = day.tick(min(step_seconds, left))
    return machines


def comes(day: Day, condition: Callable[[list[Machine]], bool], within_seconds: int) -> list[Machine]:
    """Ticks every ten seconds until it holds."""
    end = day.clock.now() + within_seconds * SECOND
    machines = day.tick()
    while not condition(machines):
        assert day.clock.now() < end, [(one.status, one.offer_id) for one in machines]
        machines = day.tick(10)
    return machines


def serve(count: int) -> Callable[[list[Machine]], bool]:
    return lambda machines: sum(one.status is Status.READY for one in machines) >= count


def on_spot(machines: list[Machine]) -> Machine:
    return next(one for one in machines if one.status is Status.READY and one.purchase is Purchase.SPOT)


def metered(cloud: aws.Cloud) -> int:
    """What EC2's own account of the day comes to."""
    total = 0
    for life in cloud.lives.values():
        assert life.ended_at is not None
        lasted = life.ended_at - life.launched_at
        total += BESIDE_MICROS * (lasted // SECOND) // 3600
        if not (life.spot and life.taken_back and lasted < HOUR):
            price = SPOT_MICROS if life.spot else ON_DEMAND_MICROS
            total += price * max(lasted // SECOND, 60) // 3600
    return total


def put_up(ledger: Ledger, **changes: object) -> None:
    spec: dict[str, object] = {"name": "ocr", "model": "ppocr", "provider": "aws", "currency": "USD"}
    spec["aws"] = {"region": aws.REGION, "instance_types": [aws.TYPE], "image": "ami-1"}
    spec["schedule"] = {"timezone": "UTC", "windows": ["Mon-Fri 08:00-20:00"], "prewarm": "60s"}
    with ledger.write() as tx:
        deployments.put_up(tx, "ocr", json.dumps({**spec, **changes}), "/specs/ocr.yaml", MORNING)


@pytest.mark.slow
def test_a_day_with_two_preemptions_and_a_drought(home: Path) -> None:
    with begun(home, MORNING + 7 * HOUR) as day:
        day.schedule = DAYTIME
        put_up(day.ledger)
        assert passes(day, at("07:55")) == []
        comes(day, serve(2), 600)
        assert at("07:58") < day.clock.now() < at("08:05")

        # a notice: out of the door in the same tick, and EC2 ends the machine
        machines = passes(day, at("10:00"))
        first = on_spot(machines)
        launches = len(day.cloud.sent)
        day.cloud.announce(bare(first.provider_id))
        day.tick(1)
        assert first.id not in day.door.inside
        assert len(day.cloud.sent) > launches
        passes(day, day.clock.now() + 119 * SECOND, 10)
        day.cloud.take_back(bare(first.provider_id))
        comes(day, serve(2), 600)
        assert day.machine(first.id).status is Status.PREEMPTED

        # no notice, and its zone is dry for two hours
        machines = passes(day, at("13:00"))
        second = on_spot(machines)
        zone = str(second.offer_id).split("/")[1]
        day.cloud.dry.add(zone)
        day.cloud.take_back(bare(second.provider_id))
        machines = comes(day, serve(2), 900)
        assert all(f"/{zone}/" not in str(one.offer_id) or one.launched_at < at("13:00") for one in machines)
        passes(day, at("15:00"))
        day.cloud.dry.clear()
        assert serve(2)(passes(day, at("19:55")))

        # closed
        comes(day, lambda machines: machines == [], 3600)
        assert at("20:00") <= day.clock.now() < at("20:10")
        passes(day, at("22:00"), 600)
        assert day.cloud.alive() == []
        assert {life.token for life in day.cloud.lives.values()} == {form["ClientToken"] for form in day.cloud.sent}
        report = of_ledger(day.ledger, "2026-11", day.clock.now())
        assert report.total_micros == metered(day.cloud)


class Script:
    """What befalls the machines, each thing once its time has come; nobody tells the daemon.

    Beside the script, so that a daemon has something to do when it is killed, one is taken back every now and then.
    """

    def __init__(self, cloud: aws.Cloud, chance: random.Random) -> None:
        self._cloud = cloud
        self._chance = chance
        self._next = at("08:30")
        self._steps: list[tuple[datetime, Callable[[], bool]]] = [
            (at("10:00"), self._announce),
            (at("10:02"), self._take_back),
            (at("13:00"), self._dry_up),
            (at("15:00"), self._flow),
        ]
        self._noticed = ""

    def go_on(self, now: datetime) -> None:
        """What is due and can be done. A step that finds no machine waits for one."""
        while self._steps and self._steps[0][0] <= now and self._steps[0][1]():
            self._steps.pop(0)
        if self._next <= now < at("19:30"):
            self._next = now + self._chance.uniform(300, 1500) * SECOND
            if lost := self._spot():
                self._cloud.take_back(lost)

    @property
    def over(self) -> bool:
        return not self._steps

    def _spot(self) -> str:
        alive = {one.id for one in self._cloud.alive()}
        return next((name for name, life in list(self._cloud.lives.items()) if life.spot and name in alive), "")

    def _announce(self) -> bool:
        self._noticed = self._spot()
        if self._noticed:
            self._cloud.announce(self._noticed)
        return bool(self._noticed)

    def _take_back(self) -> bool:
        if self._cloud.lives[self._noticed].ended_at is None:
            self._cloud.take_back(self._noticed)
        return True

    def _dry_up(self) -> bool:
        lost = self._spot()
        if lost:
            self._cloud.dry.add(self._cloud.instance(lost).placement)
            self._cloud.take_back(lost)
        return bool(lost)

    def _flow(self) -> bool:
        self._cloud.dry.clear()
        return True


def lived(home: Path, kills: int, times_as_fast: float, seconds_of_life: float, seed: int = 1) -> None:
    """The day with a daemon that is killed at random moments; at its end nothing is left, and everything is booked."""
    chance = random.Random(seed)
    ledger = open_ledger(home)
    with ledger.write() as tx:
        offers.add_profile(tx, SPEED, MORNING)
    put_up(ledger, replicas={"min": 2, "max": 40}, spot={"policy": "hazard"})
    clock = CompressedClock(time.time(), at("07:30"), times_as_fast)
    with aws.running(clock) as cloud, (home / "daemon.log").open("w") as log:
        aws.furnish(cloud)
        script = Script(cloud, chance)
        command = [sys.executable, "-m", "tests.orchestrator.driven_aws", str(home), *clock.arguments()]
        killed = 0
        while killed < kills or clock.now() < at("20:30") or not script.over:
            assert clock.now() < at("23:59"), f"the day was too short for {kills} kills: {killed}"
            before = generation(ledger)
            daemon = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                if chance.random() < 0.9:  # the others die while they start
                    until(lambda before=before: generation(ledger) > before, 120, "it never took over")
                end = time.monotonic() + seconds_of_life * chance.uniform(0.0, 2.0)
                while time.monotonic() < end:
                    script.go_on(clock.now())
                    time.sleep(0.02)
            finally:
                daemon.kill()
                daemon.wait()
            killed += 1
        daemon = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            until(lambda: not cloud.alive() and settled(ledger), 120, "something was left behind")
        finally:
            daemon.kill()
            daemon.wait()
        tokens = [life.token for life in cloud.lives.values()]
        assert len(tokens) == len(set(tokens)) > 4
        assert of_ledger(ledger, "2026-11", clock.now()).total_micros == metered(cloud)


def generation(ledger: Ledger) -> int:
    """How many daemons have acted so far."""
    with ledger.read() as tx:
        held = leases.held(tx)
    return 0 if held is None else held.generation


def settled(ledger: Ledger) -> bool:
    with ledger.read() as tx:
        return not fleet.machines(tx, "ocr")


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_day_with_200_kills_leaves_nothing_behind(home: Path) -> None:
    lived(home, 200, 40.0, 2.5)
