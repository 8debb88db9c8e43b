"""What the ledger learns late: machines it forgot, ends it was not told, prices that were published behind time."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from orchestrator.billing import accrued
from orchestrator.ledger import offers
from orchestrator.providers import Priced, Request
from orchestrator.providers.simulated import Move, SimulatedProvider
from orchestrator.scheduler import tick
from policies.lifecycle import Status
from tests.orchestrator.bent import Bent, Hiding
from tests.orchestrator.scene import NOW, Scene, offer


class Behind(Bent):
    """The price of one offer is published minutes after it came into force."""

    def __init__(self, market: SimulatedProvider, offer_id: str, until: datetime, scene: Scene) -> None:
        super().__init__(market)
        self.prices = lambda since: self._published(since, offer_id, until, scene)

    def _published(self, since: datetime, offer_id: str, until: datetime, scene: Scene) -> Sequence[Priced] | None:
        known = self.market.prices(since) or ()
        early = scene.truth.now() < until
        return [one for one in known if not (early and one.offer_id == offer_id and one.effective_at > NOW)]


def forgotten(token: str) -> Request:
    payload = {"deployment": "ocr", "offer": offer().id, "digest": "first"}
    return Request(token=token, offer=offer(), payload=payload)


def test_a_machine_that_only_the_provider_knows_is_adopted_and_kept(home: Path) -> None:
    scene = Scene(home)
    scene.market.launch(forgotten("f" * 40))
    scene.clock.sleep(30)
    tick(scene.world)
    (machine,) = scene.machines()
    assert machine.status is Status.READY, "it is probed before it is judged"
    assert machine.launched_at == NOW
    assert scene.market.running() == ("f" * 40,), "nothing else is launched"


def test_what_is_over_when_it_is_adopted_is_booked_and_held_against_nobody(home: Path) -> None:
    scene = Scene(home)
    scene.market.launch(forgotten("f" * 40))
    scene.clock.sleep(600)
    scene.market.crash("f" * 40)
    scene.clock.sleep(60)
    tick(scene.world)
    machine = next(one for one in scene.machines(over=True) if one.token == "f" * 40)
    assert machine.status is Status.ENDED
    booked = sum(accrued(charge, scene.clock.now()) or 0 for charge in scene.sight().charges[machine.id])
    assert booked == scene.market.meter()["f" * 40]
    with scene.ledger.read() as tx:
        assert offers.get(tx, offer().id).refusals == 0


def test_a_machine_that_was_over_before_it_was_ever_listed_is_booked(home: Path) -> None:
    scene = Scene(home)
    scene.tick()
    (token,) = scene.market.running()
    scene.provider = Hiding(scene.market, {token})
    for _ in range(6):
        scene.clock.sleep(5)
        tick(scene.world)
    assert token not in scene.market.running(), "given up, and ended to be certain"
    scene.provider = scene.market
    scene.longest_tick = 30.0
    scene.clock.sleep(5)
    tick(scene.world)
    scene.settle()  # the ledger equals the meter


def test_a_price_that_is_published_after_a_later_one_of_another_zone_is_not_lost(home: Path) -> None:
    one, other = offer(1, price=1_000_000), offer(2, price=2_000_000)
    minute = timedelta(minutes=1)
    scene = Scene(
        home,
        offers=(one, other),
        moves=(
            Move(offer_id=one.id, at=NOW + 5 * minute, price_per_hour_micros=9_000_000),
            Move(offer_id=other.id, at=NOW + 7 * minute, price_per_hour_micros=2_500_000),
        ),
    )
    scene.provider = Behind(scene.market, one.id, NOW + 20 * minute, scene)
    scene.run(3600, 60)
    scene.settle()  # the ledger equals the meter
