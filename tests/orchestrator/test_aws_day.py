"""A working day on AWS, as a script has it, on a clock that nobody waits for: from nothing to nothing."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from orchestrator.billing import HOUR
from orchestrator.ledger import deployments
from orchestrator.ledger.fleet import Machine
from orchestrator.reports.month import of_ledger
from policies import windows
from policies.lifecycle import Status
from policies.snapshot import Purchase
from tests.orchestrator import aws_proxy as aws
from tests.orchestrator.aws_day import Day, bare, begun

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


@pytest.mark.slow
def test_a_day_with_two_preemptions_and_a_drought(home: Path) -> None:
    with begun(home, MORNING + 7 * HOUR) as day:
        day.schedule = DAYTIME
        spec = {"name": "ocr", "model": "ppocr", "provider": "aws", "currency": "USD"}
        spec["aws"] = {"region": aws.REGION, "instance_types": [aws.TYPE], "bucket": "b"}
        with day.ledger.write() as tx:
            deployments.put_up(tx, "ocr", json.dumps(spec), "/specs/ocr.yaml", MORNING)
        assert passes(day, at("07:55")) == []
        comes(day, serve(2), 600)
        assert at("07:58") < day.clock.now() < at("08:05")

        # a notice: out of the door in the same tick, and EC2 ends the machine
        machines = passes(day, at("10:00"))
        first = on_spot(machines)
        launches = len(day.cloud.sent)
        day.cloud.announce(bare(first))
        day.tick(1)
        assert first.id not in day.door.inside
        assert len(day.cloud.sent) > launches
        passes(day, day.clock.now() + 119 * SECOND, 10)
        day.cloud.take_back(bare(first))
        comes(day, serve(2), 600)
        assert day.machine(first.id).status is Status.PREEMPTED

        # no notice, and its zone is dry for two hours
        machines = passes(day, at("13:00"))
        second = on_spot(machines)
        zone = str(second.offer_id).split("/")[1]
        day.cloud.dry.add(zone)
        day.cloud.take_back(bare(second))
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
