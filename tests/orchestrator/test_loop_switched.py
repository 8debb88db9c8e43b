"""Machines that somebody switches off and on again: what they cost is booked to the micro-unit, and they leave."""

import random
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.billing import Terms
from orchestrator.ledger.checks import check
from orchestrator.providers import Throttled
from orchestrator.providers.simulated import Move
from policies.lifecycle import Status
from tests.orchestrator.scene import NOW, SPOT, Scene, always, booked, offer

TERMS = Terms(minimum_seconds=60, first_hour_free=True, disk_per_hour_micros=123_457)


def switched(home: Path, seed: int = 0, **more: object) -> Scene:
    """A market whose price moves every few minutes."""
    drawn = random.Random(seed)
    moves = tuple(
        Move(
            offer_id=offer().id,
            at=NOW + timedelta(microseconds=drawn.randrange(7_200_000_000)),
            price_per_hour_micros=drawn.randrange(3_000_000),
        )
        for _ in range(20)
    )
    return Scene(home, terms=TERMS, moves=moves, **more)


def sound(scene: Scene) -> None:
    with scene.ledger.read() as tx:
        wrong = {name: found for name, found in check(tx).items() if found}
    assert not wrong


def spells(scene: Scene, machine: str) -> list[tuple[int, int | None]]:
    """Of its booked time at one price each: seconds since NOW."""
    return [
        (round((one.started_at - NOW).total_seconds()), one.ended_at and round((one.ended_at - NOW).total_seconds()))
        for one in booked(scene.ledger)[machine]
        if one.price_per_hour_micros != TERMS.disk_per_hour_micros
    ]


def test_off_and_on_between_two_ticks_is_booked_as_it_was_and_the_machine_stays(home: Path) -> None:
    scene = Scene(home, terms=TERMS)
    scene.run(60)
    scene.clock.sleep(100)
    scene.longest_tick = 130.0
    (token,) = scene.market.running()
    scene.market.stop(token)
    scene.clock.sleep(30)
    scene.market.start(token)
    scene.tick()
    assert spells(scene, "ocr-1") == [(0, 160), (190, None)]
    scene.run(60)
    assert scene.statuses() == {"ocr-1": Status.READY}, "it answers again, and nobody noticed more than a pause"
    assert spells(scene, "ocr-1") == [(0, 160), (190, None)]
    scene.settle()
    sound(scene)


def test_one_that_comes_back_was_replaced_meanwhile_so_it_leaves_and_costs_what_it_ran(home: Path) -> None:
    scene = Scene(home, terms=TERMS)
    scene.run(60)
    (token,) = scene.market.running()
    scene.market.stop(token)
    scene.market.faults.before += [Throttled("slow down")] * 4  # it is not ended at once
    scene.run(2, 1)
    assert scene.statuses()["ocr-1"] is Status.STOPPED
    assert spells(scene, "ocr-1") == [(0, 60)]
    scene.market.start(token)
    scene.clock.sleep(3)
    scene.tick()
    assert spells(scene, "ocr-1")[:2] == [(0, 60), (62, None)], "since it was switched on, not since it was seen"
    scene.run(120)
    assert scene.statuses(over=True)["ocr-1"] is Status.ENDED
    scene.settle()
    sound(scene)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("purchase", ["on_demand", "spot"])
def test_whatever_was_switched_when_the_ledger_equals_the_meter(home: Path, seed: int, purchase: str) -> None:
    """Ticks, switches and price moves at random moments; some switches are seen, most are not."""
    drawn = random.Random(seed)
    more = {"offers": (offer(), offer(1, SPOT, 400_000))} if purchase == "spot" else {}
    scene = switched(home, seed, policy={"schedule": always(2, 2)}, **more)
    scene.longest_tick = 4000.0
    scene.run(60)
    for _ in range(20):
        for token in scene.market.running():
            for _ in range(drawn.randrange(4)):
                drawn.choice((scene.market.stop, scene.market.start))(token)
                scene.clock.sleep(drawn.choice((0.0, 0.3, 7.000003, drawn.uniform(0, 200))))
        scene.market.faults.before += [Throttled("slow down")] * drawn.randrange(3)
        scene.tick()
        sound(scene)
    scene.market.faults.before.clear()
    scene.settle()
    sound(scene)
