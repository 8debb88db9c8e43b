"""The loop against a market, in scenarios: opening, serving, changing, closing. Invariants after every tick."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.ledger import tables
from policies.lifecycle import Status
from policies.snapshot import Purchase
from policies.windows import Override
from tests.orchestrator.bent import Deaf
from tests.orchestrator.scene import CLOSES, DAYTIME, OPENS, SECOND, SPOT, Scene, always, offer

# opening and closing


def test_it_starts_serves_and_ends_to_the_micro_unit(home: Path) -> None:
    scene = Scene(home)
    scene.run(25)
    assert list(scene.statuses().values()) == [Status.READY]
    assert scene.door.inside == ["ocr-1"]
    assert scene.quiet()
    scene.run(600, 30)
    assert scene.launches() == 1
    scene.settle()
    assert list(scene.statuses(over=True).values()) == [Status.ENDED]
    assert scene.door.serving is not None
    assert (scene.door.serving.open, scene.door.inside) == (False, [])


def test_it_is_warm_when_it_opens_and_drains_before_it_ends(home: Path) -> None:
    scene = Scene(home, start=OPENS - timedelta(minutes=5), policy={"schedule": DAYTIME})
    scene.run(239, 10)
    assert (scene.launches(), scene.door.inside) == (0, [])
    scene.clock.jump(OPENS - timedelta(seconds=60))
    scene.run(59, 1)
    assert (len(scene.ready()), scene.door.inside) == (1, [])  # warm, and not in the door
    assert scene.door.serving is not None
    assert (scene.door.serving.open, scene.door.serving.opens_at) == (False, OPENS)
    scene.clock.jump(OPENS)
    scene.tick()
    assert (scene.door.serving.open, scene.door.inside) == (True, ["ocr-1"])
    scene.door.minutes = []
    scene.run(11 * 3600, 1800)
    scene.clock.jump(CLOSES - SECOND)
    scene.tick()
    scene.door.busy["ocr-1"] = 2
    scene.clock.jump(CLOSES)
    scene.longest_tick = 1.0
    scene.tick()
    following = datetime(2026, 11, 23, tzinfo=UTC)  # Monday
    assert (scene.door.serving.open, scene.door.serving.opens_at) == (False, following)
    assert scene.statuses() == {"ocr-1": Status.DRAINING}
    scene.run(10, 1)
    assert len(scene.market.running()) == 1  # what is in flight finishes first
    scene.door.busy["ocr-1"] = 0
    scene.run(2, 1)
    assert scene.market.running() == ()
    assert scene.statuses(over=True) == {"ocr-1": Status.ENDED}
    scene.settle()


def test_a_drain_that_takes_too_long_is_cut_short(home: Path) -> None:
    scene = Scene(home)
    scene.run(25)
    scene.door.busy["ocr-1"] = 1
    scene.policy = replace(scene.policy, wanted=False)
    scene.run(59, 1)
    assert len(scene.market.running()) == 1
    scene.run(3, 1)
    assert scene.market.running() == ()


def test_what_is_in_flight_counts_even_when_the_door_is_away(home: Path) -> None:
    """Neither the door nor the replica can say: then the whole drain time is given."""
    scene = Scene(home)
    scene.run(25)
    scene.door.away = True
    scene.probes = Deaf(scene.market)
    scene.policy = replace(scene.policy, wanted=False)
    scene.run(55, 5)
    assert len(scene.market.running()) == 1
    scene.run(10, 5)
    assert scene.market.running() == ()


def test_closing_while_it_still_boots_ends_it(home: Path) -> None:
    scene = Scene(home)
    scene.run(10)
    scene.policy = replace(scene.policy, wanted=False)
    scene.run(5)
    assert scene.market.running() == ()
    scene.settle()


def test_a_closed_deployment_launches_nothing(home: Path) -> None:
    closed = datetime(2026, 11, 21, 12, tzinfo=UTC)  # Saturday
    scene = Scene(home, start=closed, policy={"schedule": DAYTIME})
    scene.door.waiting = 5
    scene.run(600, 60)
    assert scene.launches() == 0


def test_an_override_opens_and_closes(home: Path) -> None:
    saturday = datetime(2026, 11, 21, 4, tzinfo=UTC)
    scene = Scene(home, start=saturday, policy={"schedule": DAYTIME})
    scene.run(10)
    assert scene.launches() == 0
    held = Override(state="open", until=saturday + timedelta(hours=1))
    scene.policy = replace(scene.policy, schedule=replace(DAYTIME, override=held))
    scene.run(30)
    assert scene.door.inside == ["ocr-1"]
    shut = Override(state="closed", until=saturday + timedelta(hours=1))
    scene.policy = replace(scene.policy, schedule=replace(DAYTIME, override=shut))
    scene.run(15)
    assert scene.market.running() == ()
    assert scene.door.serving is not None
    assert "held closed" in scene.door.serving.reason


# a changed spec


@pytest.mark.parametrize(("count", "surge"), [(1, 1), (3, 1), (4, 2), (2, 0), (1, 0)])
def test_a_changed_spec_replaces_one_by_one(home: Path, count: int, surge: int) -> None:
    scene = Scene(home, policy={"schedule": always(count, count), "surge": surge})
    scene.run(60)
    assert len(scene.ready()) == count
    scene.digest = "second"
    fewest: list[int] = []
    scene.run(400, 2, lambda: fewest.append(len(scene.door.inside)))
    assert min(fewest) >= (count if surge else count - 1)
    assert {machine.digest for machine in scene.machines()} == {"second"}
    assert (len(scene.ready()), scene.launches()) == (count, 2 * count)
    assert scene.quiet()
    scene.settle()


def test_a_spec_changed_while_it_starts_does_not_start_the_old_one(home: Path) -> None:
    scene = Scene(home)
    scene.run(5)
    scene.digest = "second"
    scene.run(60)
    assert [(machine.digest, machine.status) for machine in scene.machines()] == [("second", Status.READY)]
    scene.settle()


def test_a_machine_that_the_spec_no_longer_allows_is_replaced(home: Path) -> None:
    scene = Scene(home, offers=(offer(1, SPOT, 100), offer(1, price=900)))
    scene.run(60)
    assert scene.ready()[0].purchase is SPOT
    scene.policy = replace(scene.policy, spot=False)
    inside: list[int] = []
    scene.run(60, 1, lambda: inside.append(len(scene.door.inside)))
    assert [machine.purchase for machine in scene.ready()] == [Purchase.ON_DEMAND]
    assert min(inside) == 1
    scene.settle()


# demand


def test_it_grows_with_the_load_holds_and_shrinks_when_the_burst_is_long_over(home: Path) -> None:
    scene = Scene(home, policy={"schedule": always(1, 4)})
    scene.run(30)
    scene.door.images_per_second = 4.0  # 2 a second each, planned with 70 % of that
    minute = scene.clock.now().replace(second=0)
    scene.door.minutes = [{"deployment": "ocr", "instance_id": "ocr-1", "at": minute, "images": 240}]
    scene.run(30)
    assert len(scene.ready()) == 3
    scene.door.images_per_second = 0.0
    scene.run(8 * 60, 30)
    assert len(scene.ready()) == 3
    scene.run(4 * 60, 30)
    assert len(scene.ready()) == 1
    scene.settle()


def test_it_scales_to_zero_and_the_first_request_wakes_it(home: Path) -> None:
    scene = Scene(home, policy={"schedule": always(0, 2)})
    scene.run(60)
    assert (scene.launches(), scene.quiet()) == (0, True)
    assert scene.door.serving is not None
    assert (scene.door.serving.open, scene.door.serving.starting) == (True, True)
    scene.door.waiting = 1
    scene.run(30, 1)
    assert scene.door.inside == ["ocr-1"]
    scene.door.waiting = 0
    minute = scene.clock.now().replace(second=0)
    scene.door.minutes = [{"deployment": "ocr", "instance_id": "ocr-1", "at": minute, "images": 1}]
    scene.run(9 * 60, 30)
    assert len(scene.ready()) == 1
    scene.run(3 * 60, 10)
    assert scene.market.running() == ()
    scene.settle()


def test_a_door_that_is_away_is_no_evidence_of_anything(home: Path) -> None:
    scene = Scene(home, policy={"schedule": always(0, 4)})
    scene.door.images_per_second = 4.0
    scene.run(60)
    assert len(scene.ready()) == 3
    scene.door.away = True
    scene.run(1200, 60)
    assert len(scene.ready()) == 3
    scene.settle()


def test_an_unmeasured_gpu_is_tried_on_one_machine_and_measured_while_it_serves(home: Path) -> None:
    new = offer(1, gpu="L4")
    scene = Scene(home, offers=(new,), policy={"schedule": always(1, 4), "try_unmeasured": True})
    with scene.ledger.write() as tx:
        tx.execute(tables.profiles.delete())
    scene.door.images_per_second, scene.door.waiting = 9.0, 3
    scene.run(120)
    assert len(scene.live()) == 1, "one is enough of what nobody measured"
    assert any("one unmeasured at a time" in note for note in scene.plans[-1].notes)
    busy = {"deployment": "ocr", "instance_id": "ocr-1", "images": 240, "latency_ms_sum": 59_000.0}
    idle = {**busy, "images": 5, "latency_ms_sum": 900.0}
    start = scene.clock.now().replace(second=0)
    for minute in range(4):
        scene.clock.jump(start + timedelta(minutes=minute + 1))
        at = {"at": start + timedelta(minutes=minute), "latency_ms_p95": 250.0}
        scene.door.minutes.append({**(idle if minute == 1 else busy), **at})
        scene.longest_tick = 60.0
        scene.tick()
    (profile,) = scene.rows("profiles")
    assert (profile.gpu, profile.images_per_second, profile.p95_ms, profile.source) == ("L4", 4.0, 250.0, "observed")
    scene.run(60)
    assert len(scene.ready()) == 4, "9 a second over 70 % of 4"
