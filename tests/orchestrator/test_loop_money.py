"""What the loop spends and where it stops; and what it makes of clocks that jump."""

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from orchestrator import replay
from orchestrator.ledger.checks import check
from orchestrator.ledger.fleet import Machine
from orchestrator.providers import (
    NoCapacity,
)
from orchestrator.providers.simulated import Move, Outage
from policies import budget
from policies.decide import decide
from policies.snapshot import Purchase
from tests.orchestrator.bent import Hiding, Repriced
from tests.orchestrator.scene import NOW, QUICK, SPOT, Scene, always, offer

# money


def test_a_budget_that_is_spent_closes_and_says_so(home: Path) -> None:
    limit = budget.Budget(daily_micros=200_000, at=((0.5, budget.Brake.WARN), (1.0, budget.Brake.STOP)))
    scene = Scene(home, policy={"limit": limit})
    scene.run(360, 10)  # 1.234567 an hour: a tenth of that is half the budget
    assert any("warn" in note for note in scene.plans[-1].notes)
    assert scene.door.inside == ["ocr-1"]
    scene.run(400, 10)
    assert scene.market.running() == ()
    assert scene.door.serving is not None
    assert not scene.door.serving.open
    assert "daily budget" in scene.door.serving.reason
    scene.clock.jump(NOW + timedelta(hours=13))  # another day
    scene.run(30)
    assert scene.door.inside
    scene.settle()


def test_a_spent_budget_does_not_keep_requests_waiting_for_what_will_not_come(home: Path) -> None:
    limit = budget.Budget(daily_micros=20_000)
    scene = Scene(home, policy={"limit": limit, "schedule": always(0, 1)})
    scene.door.waiting = 1
    scene.run(120, 5)
    assert scene.market.running() == ()
    assert scene.door.serving is not None
    assert (scene.door.serving.open, scene.door.serving.starting) == (False, False)


def test_a_budget_in_another_currency_than_the_prices_is_converted(home: Path) -> None:
    """A dollar is seven yuan: 1 USD an hour has spent 3.5 CNY after half an hour."""
    limit = budget.Budget(daily_micros=3_000_000)
    dollars = offer(1, price=1_000_000, currency="USD")
    rates = {"USD": Fraction(7)}
    scene = Scene(home, offers=(dollars,), policy={"limit": limit, "currency": "CNY", "rates": rates})
    scene.run(1500, 60)
    assert len(scene.market.running()) == 1
    scene.run(120, 10)
    assert scene.market.running() == ()
    scene.settle()


def test_a_changed_price_closes_one_charge_and_opens_the_next(home: Path) -> None:
    scene = Scene(home)
    scene.run(3600, 600)
    scene.provider = Repriced(scene.market, 2_000_000)
    scene.run(3600, 600)
    first, second = scene.sight().charges["ocr-1"]
    assert (first.price_per_hour_micros, second.price_per_hour_micros) == (1_234_567, 2_000_000)
    assert (first.ended_at, second.ended_at) == (second.started_at, None)


def owned_box(home: Path, least: int, most: int, **more: Any) -> Scene:
    box = offer(1, Purchase.OWNED, price=1_800_000)
    return Scene(home, offers=(box,), policy={"schedule": always(least, most), **more})


def seconds_charged(scene: Scene) -> float:
    """Of a box that is down: what was charged, which must be one stretch after the other."""
    parts = sorted((part for charges in scene.sight().charges.values() for part in charges), key=lambda p: p.started_at)
    assert all(before.ended_at == after.started_at for before, after in pairwise(parts))
    return sum((part.ended_at - part.started_at).total_seconds() for part in parts if part.ended_at is not None)


def seconds_rented(scene: Scene) -> float:
    rented = scene.market.rented()
    ends = [one.ended_at for one in rented if one.ended_at is not None]
    assert len(ends) == len(rented)
    return (max(ends) - min(one.launched_at for one in rented)).total_seconds()


def close_and_check(scene: Scene) -> None:
    scene.policy = replace(scene.policy, wanted=False)
    scene.run(120)
    assert scene.market.running() == ()
    assert seconds_charged(scene) == seconds_rented(scene)
    with scene.ledger.read() as tx:
        assert not any(check(tx).values()), check(tx)


@pytest.mark.parametrize("purchase", [Purchase.SPOT, Purchase.ON_DEMAND])
def test_who_has_become_dearer_than_another_leaves_when_that_one_serves(home: Path, purchase: Purchase) -> None:
    here, there = offer(1, purchase, price=1_000_000), offer(2, price=2_000_000)
    rises = Move(offer_id=here.id, at=NOW + timedelta(hours=2), price_per_hour_micros=9_000_000)
    scene = Scene(home, offers=(here, there), moves=(rises,))
    scene.run(2 * 3600, 300)
    assert [machine.offer_id for machine in scene.ready()] == [here.id]
    scene.run(1800, 30, each=lambda: _some(scene.ready()))
    assert [machine.offer_id for machine in scene.machines()] == [there.id]
    assert scene.quiet()
    scene.settle()  # both were paid for while the second started, and the ledger equals the meter


def _some(machines: list[Machine]) -> None:
    assert machines


def test_a_box_is_paid_once_however_many_engines_run_on_it(home: Path) -> None:
    scene = owned_box(home, 2, 2)
    scene.run(3600, 60)
    assert len(scene.ready()) == 2
    close_and_check(scene)


def test_a_surge_replacement_on_the_same_box_takes_the_charge_over(home: Path) -> None:
    scene = owned_box(home, 1, 1)
    scene.run(600, 30)
    scene.digest = "second"
    scene.run(600, 5)
    assert [machine.digest for machine in scene.ready()] == ["second"]
    assert len(scene.market.rented()) == 2
    close_and_check(scene)


@pytest.mark.parametrize("place", [0, 1])
def test_an_engine_that_dies_hands_its_charge_to_the_other(home: Path, place: int) -> None:
    scene = owned_box(home, 2, 2)
    scene.run(600, 30)
    scene.market.crash(scene.market.running()[place])
    scene.run(600, 30)
    close_and_check(scene)


@pytest.mark.parametrize("place", [0, 1])
def test_an_engine_that_vanishes_and_comes_back_pays_nothing_twice(home: Path, place: int) -> None:
    scene = owned_box(home, 2, 2)
    scene.run(60)
    scene.provider = Hiding(scene.market, {scene.market.running()[place]})
    scene.run(60)
    scene.provider = scene.market
    scene.run(60)
    close_and_check(scene)


def test_prices_are_written_down_once_however_long_it_runs(home: Path) -> None:
    scene = Scene(home)
    scene.run(600, 5)
    assert len(scene.rows("prices")) == 1
    assert len(scene.rows("ticks")) <= 25  # a quiet minute is one row


# time


@pytest.mark.parametrize("hours", [-30, -1, 1, 30])
def test_a_clock_that_jumps_neither_doubles_nor_loses(home: Path, hours: int) -> None:
    scene = Scene(home, policy={"schedule": always(2, 2)})
    scene.run(60)
    before = set(scene.market.running())
    scene.clock.set(hours)
    scene.run(60, 1)
    assert set(scene.market.running()) == before
    assert len(scene.door.inside) == 2


@pytest.mark.parametrize("hours", [-30, -1, 1, 30])
def test_a_clock_that_jumps_while_something_is_under_way_still_gets_there(home: Path, hours: int) -> None:
    """A refusal that is remembered, a drain that waits, a launch that is uncertain: none waits for yesterday's time."""
    scene = Scene(home, offers=(offer(1),), policy={"schedule": always(1, 2), "patience": QUICK})
    scene.run(60)
    scene.door.busy["ocr-1"] = 1
    scene.digest = "second"
    scene.market.faults.before += [NoCapacity("none left")] * 3
    scene.run(40, 1)
    scene.clock.set(hours)
    scene.run(300, 2)
    assert [machine.digest for machine in scene.ready()] == ["second"]
    scene.policy = replace(scene.policy, wanted=False)
    scene.run(120, 2)
    assert (scene.market.running(), scene.machines()) == ((), ())


def test_a_daemon_that_was_away_for_hours_finds_its_way(home: Path) -> None:
    loss = Outage(zone="sim-1", start=NOW + timedelta(hours=4.5), end=NOW + timedelta(hours=4.6))
    scene = Scene(home, offers=(offer(1, SPOT),), outages=(loss,), policy={"schedule": always(2, 2)})
    scene.run(60)
    scene.clock.sleep(5 * 3600)
    scene.longest_tick = 5 * 3600.0
    scene.run(450)  # a pool that took machines back rests
    assert len(scene.ready()) == 2
    scene.settle()


def test_every_decision_is_kept_and_can_be_made_again(home: Path) -> None:
    scene = Scene(home)
    scene.run(60)
    kept = [row for row in scene.rows("ticks") if row.snapshot is not None]
    assert len(kept) == 1
    again = decide(replay.from_json(kept[0].snapshot), scene.policy)
    assert (again.target.replicas, again.target.reason) == (kept[0].target, kept[0].reason)
    assert [type(action).__name__.lower() for action in again.actions] == [
        action["kind"] for action in kept[0].plan["actions"]
    ]
