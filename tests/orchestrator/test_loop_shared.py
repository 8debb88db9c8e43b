"""Two deployments on one market: a price that moves is everybody's, whoever sees it first."""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ledger import deployments, fleet
from orchestrator.ledger.checks import check
from orchestrator.providers import Priced, Throttled
from orchestrator.providers.simulated import Kind, Move, SimulatedProvider, Trouble
from orchestrator.scheduler import tick
from orchestrator.world import World
from tests.orchestrator.bent import Bent, Repriced
from tests.orchestrator.market import listed
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
        if row.ended_at is None and row.kind == "compute" and row.amount_micros is None
    }


@pytest.mark.parametrize("first", ["ocr", "second"])
def test_a_price_move_reprices_every_deployment(home: Path, first: str) -> None:
    scene, second = shared(home, moves=(Move(offer_id=offer().id, at=MOVED, price_per_hour_micros=DEARER),))
    assert len(running_prices(scene)) == 2
    scene.clock.jump(MOVED + timedelta(seconds=7))
    for world in sorted((scene.world, second), key=lambda world: world.deployment != first):
        tick(world)
    assert running_prices(scene) == {"ocr": (DEARER, 600), "second": (DEARER, 600)}


@pytest.mark.parametrize("over", [False, True])
def test_what_became_of_another_deployments_machine_is_for_its_own_tick_to_say(home: Path, over: bool) -> None:
    """Its price is everybody's news, its charge goes on until its status says why not: the two agree at any time."""
    scene, second = shared(home, moves=(Move(offer_id=offer().id, at=MOVED, price_per_hour_micros=DEARER),))
    theirs = next(one for one in scene.market.rented() if one.token in live(scene, "second"))
    scene.clock.jump(MOVED - timedelta(seconds=60))
    scene.market.stop(theirs.token)
    scene.clock.jump(MOVED + timedelta(seconds=7))
    if over:
        scene.market.terminate(listed(scene.market, theirs.token).provider_id)
    for world in (scene.world, second):
        tick(world)
        with scene.ledger.read() as tx:
            wrong = {name: found for name, found in check(tx).items() if found}
        assert not wrong


def live(scene: Scene, deployment: str) -> frozenset[str]:
    with scene.ledger.read() as tx:
        return fleet.live_tokens(tx, deployment)


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


@pytest.mark.parametrize("listing", ["answers", "is put off"])
def test_a_late_price_is_booked_for_the_machines_of_every_deployment(home: Path, listing: str) -> None:
    """Only the tick that hears of it hears it as news, and it may hear of nothing else."""
    scene, second = shared(home)
    early = Priced(offer_id=offer().id, price_per_hour_micros=DEARER, currency="CNY", effective_at=NOW)
    again = replace(early, price_per_hour_micros=offer().price_per_hour_micros, effective_at=NOW + timedelta(seconds=5))
    bent = PutOff(scene.market) if listing == "is put off" else Bent(scene.market)
    bent.prices = lambda since: (early, again)
    scene.provider = bent
    tick(scene.world)
    tick(replace(second, providers=scene.world.providers))
    missing = (DEARER - offer().price_per_hour_micros) * 5 // 3600  # type: ignore[operator]
    corrected = {row.deployment: row.amount_micros for row in scene.rows("charges") if row.corrects}
    assert corrected.keys() == {"ocr", "second"}
    assert all(abs(amount - missing) <= 1 for amount in corrected.values())


class PutOff(Bent):
    """Prices are told, and nothing else."""

    def instances(self) -> Any:
        raise Throttled("slow down")


class Priceless(Bent):
    """What is on offer is told, and not since when it costs what it costs."""

    def __init__(self, market: SimulatedProvider) -> None:
        super().__init__(market)
        self.prices = self._put_off
        self.asked_since: list[datetime] = []

    def _put_off(self, since: datetime) -> Any:
        self.asked_since.append(since)
        raise Throttled("slow down")


def test_a_price_without_its_date_is_not_taken_for_a_price_of_now(home: Path) -> None:
    """Its provider dates its prices: what is in force since when is learned when it can be asked again."""
    scene, _ = shared(home, moves=(Move(offer_id=offer().id, at=MOVED, price_per_hour_micros=DEARER),))
    scene.clock.jump(MOVED + timedelta(seconds=7))
    before = len(scene.rows("prices"))
    scene.provider = Priceless(scene.market)
    tick(scene.world)
    assert len(scene.rows("prices")) == before
    scene.provider = scene.market
    tick(scene.world)
    assert running_prices(scene)["ocr"] == (DEARER, 600)


def test_after_the_clock_was_set_back_prices_are_asked_for_from_before_now_on(home: Path) -> None:
    scene, _ = shared(home, moves=(Move(offer_id=offer().id, at=MOVED, price_per_hour_micros=DEARER),))
    scene.clock.jump(MOVED + timedelta(seconds=7))
    tick(scene.world)
    scene.clock.set(-48)
    scene.provider = asked = Priceless(scene.market)
    tick(scene.world)
    assert asked.asked_since[0] < scene.clock.now()
