"""Two deployments on one market: a price that moves is everybody's, whoever sees it first."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.ledger import deployments
from orchestrator.providers import Priced
from orchestrator.providers.simulated import Kind, Move, Trouble
from orchestrator.scheduler import tick
from orchestrator.world import World
from tests.orchestrator.bent import Bent, Repriced
from tests.orchestrator.scene import NOW, Scene, offer

MOVED = NOW + timedelta(seconds=600)
DEARER = 2_000_000


def shared(home: Path, **market: object) -> tuple[Scene, World]:
    """The scene's deployment, and another one beside it."""
    scene = Scene(home, **market)
    with scene.ledger.write() as tx:
        deployments.put_up(tx, "second", "spec", "second.yaml", NOW)
    second = replace(scene.world, deployment="second", payload={**scene.world.payload, "deployment": "second"})
    for _ in range(10):
        tick(scene.world)
        tick(second)
        scene.clock.sleep(5)
    return scene, second


def running_prices(scene: Scene) -> dict[str, tuple[int | None, int]]:
    """By deployment: the price of its open charge, and since when, in seconds."""
    return {
        row.deployment: (row.price_per_hour_micros, (row.started_at - NOW).seconds)
        for row in scene.rows("charges")
        if row.ended_at is None and row.kind == "compute"
    }


@pytest.mark.parametrize("first", ["ocr", "second"])
def test_a_price_move_reprices_every_deployment(home: Path, first: str) -> None:
    scene, second = shared(home, moves=(Move(offer_id=offer().id, at=MOVED, price_per_hour_micros=DEARER),))
    assert len(running_prices(scene)) == 2
    scene.clock.jump(MOVED + timedelta(seconds=7))
    for world in sorted((scene.world, second), key=lambda world: world.deployment != first):
        tick(world)
    assert running_prices(scene) == {"ocr": (DEARER, 600), "second": (DEARER, 600)}


@pytest.mark.parametrize("first", ["ocr", "second"])
def test_so_does_one_that_is_dated_when_it_is_seen(home: Path, first: str) -> None:
    scene, second = shared(home)
    scene.provider = Repriced(scene.market, DEARER)
    both = (scene.world, replace(second, providers=scene.world.providers))
    seen_at = (scene.clock.now() - NOW).seconds
    for world in sorted(both, key=lambda world: world.deployment != first):
        tick(world)
        scene.clock.sleep(5)
    assert running_prices(scene) == {"ocr": (DEARER, seen_at), "second": (DEARER, seen_at)}


def test_a_move_that_was_seen_while_no_machine_was_counts_as_soon_as_they_are(home: Path) -> None:
    """Prices were answered, and the listing was put off: the news must outlive the tick that heard it."""
    throttled = Trouble(kind=Kind.THROTTLED, start=MOVED, end=MOVED + timedelta(seconds=20))
    move = Move(offer_id=offer().id, at=MOVED, price_per_hour_micros=DEARER)
    scene, second = shared(home, moves=(move,), troubles=(throttled,))
    for seconds in (10, 30):
        scene.clock.jump(MOVED + timedelta(seconds=seconds))
        for world in (scene.world, second):
            tick(world)
    assert running_prices(scene) == {"ocr": (DEARER, 600), "second": (DEARER, 600)}


def test_a_price_of_before_that_is_learned_late_holds_from_then_on(home: Path) -> None:
    scene, _ = shared(home)
    late = Priced(
        offer_id=offer().id, price_per_hour_micros=DEARER, currency="CNY", effective_at=NOW - timedelta(days=1)
    )
    bent = Bent(scene.market)
    bent.prices = lambda since: (late,)
    scene.provider = bent
    learned = (scene.clock.now() - NOW).seconds
    for _ in range(3):
        tick(scene.world)
        scene.clock.sleep(5)
    assert running_prices(scene)["ocr"] == (DEARER, learned)
