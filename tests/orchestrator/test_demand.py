"""What the decision is told of the demand: past days, what was decided before, and what nobody watched."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.ledger import deployments, ticks
from orchestrator.world import DoorLoad
from tests.orchestrator.scene import FakeDoor, Scene, always

MINUTE = timedelta(minutes=1)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@dataclass
class YoungDoor(FakeDoor):
    """A door that began to count at some time, and knows nothing of before."""

    since: datetime | None = None

    def load(self, after: datetime) -> DoorLoad | None:
        told = super().load(after)
        return None if told is None else replace(told, counted_since=self.since)


def watch(scene: Scene, start: datetime, minutes: int, requests: int) -> None:
    """Minutes that a door has counted, and that the ledger remembers."""
    rows = [
        {"deployment": "ocr", "instance_id": "", "at": start + MINUTE * number, "requests": requests, "images": 0}
        for number in range(minutes)
    ]
    with scene.ledger.write() as tx:
        deployments.record_loads(tx, rows)


def test_what_past_days_asked_for_is_ready_one_cold_start_ahead(home: Path) -> None:
    scene = Scene(home, policy={"schedule": always(1, 6), "start_seconds": 120.0})
    noon = scene.clock.now()
    rush = noon + timedelta(minutes=30)
    for back in (1, 2, 3, 7, 8):
        watch(scene, rush - timedelta(days=back), 20, 240)  # 4 a second, for which it takes 3
        watch(scene, noon - timedelta(days=back), 30, 6)
    scene.run(27 * 60, 60)
    assert len(scene.ready()) == 1
    scene.clock.jump(rush - timedelta(seconds=119))
    plan = scene.tick()
    assert plan.target.replicas == 3 and "as on past days" in plan.target.reason
    scene.run(110, 10)
    assert scene.clock.now() < rush and len(scene.ready()) == 3
    scene.settle()


def test_past_days_are_none_of_the_business_of_a_fleet_that_cannot_grow(home: Path) -> None:
    scene = Scene(home, policy={"schedule": always(1, 1)})
    for back in (1, 2, 3, 7, 8):
        watch(scene, scene.clock.now() - timedelta(days=back), 20, 240)
    assert "as on past days" not in scene.tick().target.reason


def test_after_a_restart_of_everything_nobody_leaves_until_it_was_watched_for_a_while(home: Path) -> None:
    scene = Scene(home, policy={"schedule": always(1, 4)})
    scene.door.images_per_second = 4.0
    scene.run(120, 10)
    assert len(scene.ready()) == 3
    scene.clock.jump(scene.clock.now() + timedelta(hours=1))  # the controller was off
    began = scene.clock.now()
    scene.door = YoungDoor(since=began.replace(second=0))
    scene.run(7 * 60, 30)
    assert len(scene.ready()) == 3
    scene.run(4 * 60, 30)
    assert len(scene.ready()) == 1
    scene.settle()


def test_a_door_that_was_restarted_between_two_minutes_left_nothing_unwatched(home: Path) -> None:
    scene = Scene(home, policy={"schedule": always(1, 4)})
    scene.door.images_per_second = 4.0
    scene.run(60, 10)
    scene.door.images_per_second = 0.0
    began = scene.clock.now()
    watch(scene, began, 15, 0)
    scene.run(11 * 60, 60)
    scene.door = YoungDoor(since=scene.clock.now())
    scene.run(60, 10)
    assert len(scene.ready()) == 1


def test_what_was_decided_and_when_it_rose_is_read_from_the_ledger(home: Path) -> None:
    scene = Scene(home, policy={"schedule": always(1, 4)})
    scene.run(60, 10)
    rose = scene.clock.now()
    scene.door.images_per_second = 2.0
    scene.run(30, 10)
    scene.door.images_per_second = 0.01  # no minute was written down: only what was decided holds it
    scene.run(9 * 60, 30)
    assert len(scene.ready()) == 2
    with scene.ledger.read() as tx:
        decided = ticks.targets(tx, "ocr", rose - timedelta(seconds=1))
    assert decided[0][1] == 1 and decided[0][0] < rose
    assert (rose, 2) in decided and {count for at, count in decided if at > rose} == {2}
    scene.run(2 * 60, 30)
    assert len(scene.ready()) == 1
    scene.settle()


def test_while_a_provider_loses_machines_in_the_dark_they_are_replaced(home: Path) -> None:
    """To hold means what was decided, not what is left of it."""
    scene = Scene(home, policy={"schedule": always(1, 4)})
    scene.door.images_per_second = 4.0
    scene.run(60, 10)
    scene.door.away = True
    lost = scene.ready()[0]
    scene.market.terminate(str(lost.provider_id))
    scene.run(180, 10)
    assert len(scene.ready()) == 3
