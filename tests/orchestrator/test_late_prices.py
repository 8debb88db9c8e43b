"""Prices that are published hours after they came into force, in any order: the ledger comes to what the bill says."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator import billing
from orchestrator.ledger import offers
from orchestrator.ledger.fleet import ADOPTED
from orchestrator.providers.simulated import Conditions, Move
from orchestrator.scheduler import tick
from orchestrator.simulation.shared_market import Late, SharedMarket
from orchestrator.spending import spend
from tests.orchestrator.batch import opened
from tests.orchestrator.bent import Hiding
from tests.orchestrator.scene import NOW, SPEED, Scene, booked, offer

MINUTE = timedelta(minutes=1)
HERE, THERE = offer(), offer(zone=2, price=9_000_000)


def move(id: str, minutes: int, price: int) -> Move:
    return Move(offer_id=id, at=NOW + minutes * MINUTE, price_per_hour_micros=price)


def scene(home: Path, moves: tuple[Move, ...], published: dict[int, int]) -> Scene:
    """A market whose moves at those minutes are published at these."""
    late = [
        Late(move=one, published_at=NOW + published[minute] * MINUTE)
        for one in moves
        if (minute := (one.at - NOW) // MINUTE) in published
    ]
    found = Scene(home)
    conditions = Conditions(offers=(HERE, THERE), boot_seconds=20.0, moves=moves)
    found.market = found.provider = found.probes = SharedMarket(found.truth, conditions, (), late)
    return found


def booked_and_metered(scene: Scene) -> tuple[int, int]:
    rows = [row for rows in booked(scene.ledger).values() for row in rows]
    return sum(billing.accrued(row, scene.clock.now()) or 0 for row in rows), sum(scene.market.meter().values())


def test_a_price_that_is_published_when_its_machine_is_over_is_booked(home: Path) -> None:
    here = scene(home, (move(HERE.id, 10, 5_000_000),), {10: 180})
    here.run(1200, 60.0)
    here.policy = replace(here.policy, wanted=False)
    here.run(120)
    assert not here.market.running()
    booked_then, metered = booked_and_metered(here)
    assert booked_then < metered, "nobody could know the price yet"
    here.clock.sleep(180 * 60)
    here.tick()
    booked_now, metered = booked_and_metered(here)
    assert booked_now == metered


def test_two_prices_that_are_published_after_a_later_one_are_both_booked(home: Path) -> None:
    moves = move(HERE.id, 10, 5_000_000), move(HERE.id, 20, 7_000_000), move(THERE.id, 30, 8_000_000)
    here = scene(home, moves, {10: 50, 20: 40})
    here.run(3600, 60.0)
    booked_now, metered = booked_and_metered(here)
    assert abs(booked_now - metered) <= 2, "of a machine that runs, but for what is rounded down where it was cut"
    here.settle()


def test_what_is_spent_knows_of_a_late_price_while_its_machine_runs(home: Path) -> None:
    """A dear hour that ended before anybody heard of it: no budget can wait for the end of what never ends."""
    moves = move(HERE.id, 10, 90_000_000), move(HERE.id, 70, 1_234_567)
    here = scene(home, moves, {10: 100, 70: 90})
    here.run(6600, 60.0)
    assert here.market.running()
    with here.ledger.read() as tx:
        spent = spend(tx, "ocr", here.clock.now(), here.policy).month_micros
    booked_now, metered = booked_and_metered(here)
    assert metered > 90_000_000
    assert abs(spent - metered) <= 2
    assert abs(booked_now - metered) <= 2
    before = len(booked(here.ledger)["ocr-1"])
    here.run(600, 60.0)
    assert len(booked(here.ledger)["ocr-1"]) == before, "booked once"
    here.settle()


@pytest.mark.parametrize("listed_late", [False, True])
def test_prices_of_the_whole_life_of_an_adopted_machine_are_asked_for(home: Path, listed_late: bool) -> None:
    """A ledger that begins anew knows no price at all, and one that has begun knows none of so long ago."""
    here = scene(home, (move(HERE.id, 30, 5_000_000), move(HERE.id, 90, 7_000_000)), {})
    here.run(600)
    here.ledger = opened(home / "anew", "ocr")
    here.clock.jump(NOW + timedelta(hours=40))
    with here.ledger.write() as tx:
        offers.add_profile(tx, SPEED, NOW)
    if listed_late:
        here.provider = Hiding(here.market, {one.token for one in here.market.rented()})
        here.policy = replace(here.policy, wanted=False)
        tick(here.world)
        here.provider, here.policy = here.market, replace(here.policy, wanted=True)
    tick(here.world)
    assert [one.reason for one in here.machines()] == [ADOPTED]
    here.policy = replace(here.policy, wanted=False)
    for _ in range(20):
        here.clock.sleep(5)
        tick(here.world)
    booked_now, metered = booked_and_metered(here)
    assert booked_now == metered
