"""Whether requests are kept at the door: only while a replica may be expected, else callers hear when to come again."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from orchestrator import act
from orchestrator.providers import NoCapacity
from orchestrator.providers.simulated import Outage
from policies.snapshot import Purchase
from tests.orchestrator.bent import Dark
from tests.orchestrator.scene import NOW, QUICK, SPOT, Scene, always, offer

OWNED = Purchase.OWNED
FULL = [NoCapacity("none left")]


def told(scene: Scene) -> tuple[bool, datetime | None]:
    """Whether to wait, and else when to come again, as the door hears it."""
    assert scene.door.serving is not None and scene.door.serving.open and not scene.door.inside
    return scene.door.serving.starting, scene.door.serving.again_at


def test_who_asks_first_is_waited_for_and_who_starts_too(home: Path) -> None:
    scene = Scene(home, policy={"schedule": always(0, 1)})
    scene.tick()
    assert told(scene) == (True, None), "a request is what wakes it"
    scene.door.waiting = 1
    scene.tick()
    scene.clock.sleep(1)
    scene.tick()
    assert scene.live() and told(scene) == (True, None)


@pytest.mark.parametrize("least", [0, 1])
def test_nobody_waits_for_an_hour_once_the_runaway_bound_is_reached(home: Path, least: int) -> None:
    many = tuple(offer(zone) for zone in range(40))
    scene = Scene(home, offers=many, policy={"schedule": always(least, 1)})
    scene.market.faults.before += FULL * 100
    scene.door.waiting = 1
    scene.run(29, 1)
    assert scene.launches() == 30 and told(scene) == (True, None), "one was launched just now"
    scene.clock.sleep(1)
    scene.tick()
    frees = NOW + timedelta(hours=1)
    assert told(scene) == (False, frees)
    scene.door.waiting = 0
    scene.clock.jump(frees - timedelta(seconds=1))
    scene.tick()
    assert told(scene) == (False, frees), "the first request could not wake it either"
    scene.clock.jump(frees)
    scene.tick()
    assert told(scene) == (True, None)


def test_who_is_left_alone_for_longer_than_a_request_is_kept_is_not_waited_for(home: Path) -> None:
    scene = Scene(home)
    scene.market.faults.before += FULL * 100
    for wait in (10, 20):
        scene.tick()
        scene.clock.sleep(1)
        scene.tick()
        assert told(scene) == (True, None), f"after {wait} s it is asked again"
        scene.clock.sleep(wait - 1)
    scene.tick()
    scene.clock.sleep(1)
    scene.tick()
    asked_again = scene.clock.now() + timedelta(seconds=39)
    assert told(scene) == (False, asked_again)
    scene.clock.sleep(10)
    scene.tick()
    assert told(scene) == (True, None), "as long as a request is kept"


def test_spot_pools_that_rest_say_until_when(home: Path) -> None:
    gone = Outage(zone="sim-1", start=NOW + timedelta(minutes=5), end=NOW + timedelta(hours=2))
    scene = Scene(home, offers=(offer(1, SPOT),), outages=(gone,))
    scene.run(150, 5)
    assert scene.door.inside
    scene.run(240, 5)
    starting, again_at = told(scene)
    assert not starting and again_at is not None
    scene.clock.jump(again_at - timedelta(seconds=31))
    assert not scene.tick().actions and told(scene) == (False, again_at)
    scene.clock.jump(again_at + timedelta(seconds=1))
    assert scene.tick().actions, "it is true"


def test_the_one_place_is_waited_for_while_another_leaves_it(home: Path) -> None:
    only = offer(1, capacity=1)
    scene = Scene(home, offers=(only,), policy={"patience": QUICK, "surge": 0})
    scene.run(60)
    scene.door.busy["ocr-1"] = 1
    scene.digest = "second"
    scene.tick()
    scene.clock.sleep(1)
    scene.tick()
    assert not scene.live() and told(scene) == (True, None)


def test_who_may_be_asked_again_between_the_decision_and_the_word_to_the_door_is_waited_for(home: Path) -> None:
    """Found in the whole: by the decision's clock it was left alone for three more milliseconds, by the door's not."""
    scene = Scene(home)
    scene.market.faults.before += FULL
    scene.tick()
    scene.clock.jump(NOW + timedelta(seconds=9.997))
    assert not scene.tick().actions
    scene.clock.sleep(0.005)
    act.publish(scene.world, scene.plans[-1], scene.machines())
    assert told(scene) == (True, None)


def test_a_bound_that_ends_between_the_decision_and_the_word_to_the_door_is_no_bound(home: Path) -> None:
    many = tuple(offer(zone) for zone in range(40))
    scene = Scene(home, offers=many)
    scene.market.faults.before += FULL * 100
    scene.run(31, 1)
    scene.clock.jump(NOW + timedelta(hours=1) - timedelta(milliseconds=3))
    assert not scene.tick().actions
    scene.clock.sleep(0.005)
    act.publish(scene.world, scene.plans[-1], scene.machines())
    assert told(scene) == (True, None)


def test_a_bound_that_ends_while_every_offer_is_left_alone_brings_nobody(home: Path) -> None:
    """The door heard that somebody may be expected, and callers waited in vain."""
    scene = Scene(home, offers=tuple(offer(zone) for zone in range(3)))
    scene.market.faults.before += FULL * 100
    scene.run(3500, 5)
    frees = NOW + timedelta(hours=1)
    assert scene.launches() == 30
    starting, again_at = told(scene)
    assert not starting and again_at is not None and again_at > frees, "the bound ends before, and helps nobody"
    for at in (frees, frees + timedelta(seconds=20), frees + timedelta(seconds=40)):
        scene.clock.jump(at)
        assert not scene.tick().actions and told(scene) == (False, again_at)
    scene.clock.jump(again_at)
    assert scene.tick().actions, "it is true"


@pytest.mark.parametrize("lived", [40, 120])
def test_the_successor_of_one_that_died_is_waited_for_at_every_moment(home: Path, lived: int) -> None:
    """One that died young counts as a refusal, so its offer is left alone for ten seconds first."""
    scene = Scene(home, offers=(offer(1, OWNED, capacity=1),))
    scene.run(lived, 1)
    (engine,) = scene.ready()
    scene.market.crash(engine.token)
    seen: list[bool] = []

    def look() -> None:
        if not scene.door.inside:
            seen.append(told(scene)[0])

    scene.run(60, 1, look)
    assert scene.door.inside and len(seen) >= 20 and all(seen)


def test_a_provider_that_is_away_for_longer_than_a_request_is_kept_is_not_waited_for(home: Path) -> None:
    scene = Scene(home, policy={"schedule": always(0, 1)})
    scene.run(120, 10)
    scene.provider = Dark(scene.market)
    scene.door.waiting = 1
    for _ in range(3):
        scene.tick()
        assert told(scene) == (True, None), "it may be back before a request that has just come is given up"
        scene.clock.sleep(10)
    scene.clock.sleep(1)
    scene.tick()
    assert told(scene) == (False, None)
    scene.provider = scene.market
    scene.tick()
    assert told(scene) == (True, None)
