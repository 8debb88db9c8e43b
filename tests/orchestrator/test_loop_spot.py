"""The loop with spot machines: on demand for what is missing, replacement before stop, and a memory in the ledger."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator import replay
from orchestrator.providers import NoCapacity
from orchestrator.providers.simulated import Kind, Outage, Trouble
from policies import budget, spot
from policies.plan import Drain, Launch
from policies.snapshot import Purchase
from policies.windows import Schedule
from tests.orchestrator.bent import Dark
from tests.orchestrator.scene import CLOSES, DAYTIME, NOW, OPENS, SPOT, Scene, always, offer

DEAR = offer(9, price=1_000_000)
POOLS = (offer(1, SPOT, 300_000), offer(2, SPOT, 300_000), offer(3, SPOT, 300_000))
STEADY = Purchase.ON_DEMAND


def spotted(home: Path, replicas: int = 2, **policy: object) -> Scene:
    """Three spot pools, and on demand; room for as many again."""
    market = {name: policy.pop(name) for name in ("offers", "outages", "troubles", "start") if name in policy}
    wanted = {"schedule": always(replicas, 2 * replicas), "start_seconds": 20.0, **policy}
    return Scene(home, **{"offers": (*POOLS, DEAR), "notice_seconds": 0.0, **market}, policy=wanted)


def kinds(scene: Scene) -> Counter[str]:
    return Counter(str(machine.purchase) for machine in scene.ready())


def kept(scene: Scene) -> dict[str, object]:
    (row,) = (row for row in scene.rows("beliefs") if row.policy == "placement")
    return dict(row.memory)


def test_on_demand_is_launched_only_when_spot_has_refused(home: Path) -> None:
    scene = spotted(home)
    first = scene.tick()
    assert Counter(str(one.offer.purchase) for one in first.actions if isinstance(one, Launch)) == {"spot": 2}
    scene.run(60)
    assert not any(machine.purchase is STEADY for machine in scene.machines(over=True))
    assert kinds(scene)["on_demand"] == 0
    assert kinds(scene)["spot"] >= 2
    assert scene.quiet()
    scene.settle()


def test_at_rest_it_plans_nothing_and_writes_nothing_but_reviews(home: Path) -> None:
    scene = spotted(home)
    scene.run(120, 1)
    seen: set[object] = set()
    actions = len(scene.rows("intents"))
    scene.run(3600, 10, lambda: seen.update(row.updated_at for row in scene.rows("beliefs")))
    assert len(scene.rows("intents")) == actions
    assert len(seen) <= 7, "one review in ten minutes"


def test_a_loss_is_covered_by_spot_where_it_is_given_and_on_demand_a_second_later_where_not(home: Path) -> None:
    loss = Outage(zone="sim-1", start=NOW + timedelta(hours=1), end=NOW + timedelta(hours=3))
    scene = spotted(home, outages=(loss,), availability=0.9)
    scene.run(3590, 10)
    assert {machine.zone for machine in scene.ready()} == {"sim-1"}
    scene.clock.jump(loss.start)
    plan = scene.tick()
    bought = [one.offer for one in plan.actions if isinstance(one, Launch)]
    assert {(one.zone, one.purchase) for one in bought} == {("sim-2", SPOT)}
    scene.market.crash(next(one.token for one in scene.machines() if one.zone == "sim-2"))
    scene.market.faults.before += [NoCapacity("none left")] * 2
    scene.clock.sleep(1)
    refused = scene.tick()
    scene.clock.sleep(1)
    covered = (*refused.actions, *scene.tick().actions)
    steady = [one for one in covered if isinstance(one, Launch) and one.offer.purchase is STEADY]
    assert steady
    assert all("spot replicas are missing" in one.reason for one in steady)
    fewest: list[int] = []
    scene.run(40, 1)
    scene.run(3600, 5, lambda: fewest.append(len(scene.door.inside)))
    assert min(fewest) >= 2, "nobody leaves before another serves"
    assert kinds(scene) == {"spot": 2}
    assert {machine.zone for machine in scene.ready()} <= {"sim-2", "sim-3"}
    scene.settle()


def test_a_pool_that_refused_is_left_alone_by_the_placement_alone(home: Path) -> None:
    scene = spotted(home, 1)
    scene.market.faults.before.append(NoCapacity("none left"))
    scene.run(60, 1)
    asked = Counter(row.payload["offer"] for row in scene.rows("intents") if row.kind == "launch")
    assert asked["simulated/sim-1/spot"] == 1
    assert [machine.zone for machine in scene.ready()] == ["sim-2"]
    at = kept(scene)["pools"].index("simulated/sim-1/spot")  # type: ignore[attr-defined]
    assert kept(scene)["own"]["pools"][at]["refusals"] == 1  # type: ignore[index]
    scene.settle()


def test_the_night_teaches_nothing_and_the_morning_starts_from_what_was_known(home: Path) -> None:
    schedule: Schedule = replace(DAYTIME, min=2, max=4)
    scene = spotted(home, start=OPENS, schedule=schedule)
    scene.run(1800, 30)
    scene.clock.jump(CLOSES)
    scene.run(60, 5)
    assert scene.market.running() == ()
    slept = kept(scene)
    scene.run(3600, 60)
    assert kept(scene) == slept
    assert all(pool["held_since"] is None for pool in slept["own"]["pools"])  # type: ignore[index]
    assert slept["own"]["short_hours"] < 0.1 and not slept["own"]["reached"]  # type: ignore[index]
    scene.clock.jump(OPENS + timedelta(days=3))  # Monday
    scene.longest_tick = 1e6
    scene.run(120, 5)
    assert kinds(scene)["spot"] >= 2
    assert kept(scene)["own"]["hours"] < 13  # type: ignore[index]


def test_a_budget_for_spot_alone_takes_whole_pools_however_young(home: Path) -> None:
    limit = budget.Budget(daily_micros=1, at=((0.0, budget.Brake.SPOT_ONLY),))
    scene = spotted(home, 4, limit=limit, base_on_demand=1, availability=0.999)
    scene.run(60)
    assert kinds(scene)["on_demand"] == 0
    assert kinds(scene)["spot"] >= 4
    assert scene.quiet()
    scene.settle()


def test_the_base_is_never_spot_whatever_the_policy(home: Path) -> None:
    for policy in ("hazard", "spothedge", "round-robin"):
        (home / policy).mkdir()
        scene = spotted(home / policy, 3, base_on_demand=1, placing=policy)
        scene.run(300, 5)
        assert kinds(scene)["on_demand"] >= 1
        assert len(scene.ready()) >= 3
        assert scene.quiet()
        scene.settle()


def test_a_guarded_fleet_survives_the_loss_of_any_pool(home: Path) -> None:
    scene = spotted(home, 2, guard=True)
    scene.run(7200, 30)
    zones = Counter(machine.zone for machine in scene.ready())
    assert len(scene.ready()) - max(zones.values()) >= 2
    scene.settle()


def test_one_surge_is_enough_to_get_from_on_demand_to_spot(home: Path) -> None:
    """Invariants say that there are never more than the maximum and the surge."""
    scene = spotted(home, 3, schedule=always(3, 3))
    scene.run(300, 5)
    assert kinds(scene)["spot"] == 3
    assert scene.quiet()
    scene.settle()


def share_served(scene: Scene, hours: int) -> float:
    """The share of ticks of 15 s in which as many as wanted were in the door, after the first half hour."""
    ready: list[bool] = []
    scene.run(1800, 15)
    scene.run(hours * 3600, 15, lambda: ready.append(len(scene.door.inside) >= scene.policy.schedule.min))
    return sum(ready) / len(ready)


@pytest.mark.parametrize("replicas", [1, 2])
def test_without_surge_one_on_demand_makes_room_for_spot_as_the_promise_allows(home: Path, replicas: int) -> None:
    down = Outage(zone="sim-1", start=NOW, end=NOW + timedelta(hours=1))
    scene = spotted(
        home,
        replicas,
        offers=(POOLS[0], DEAR),
        outages=(down,),
        schedule=always(replicas, replicas),
        surge=0,
        availability=0.95,
    )
    assert share_served(scene, 5) >= 0.95
    assert kinds(scene) == {"spot": replicas}
    scene.settle()


@pytest.mark.parametrize(("promise", "fewest", "most"), [(0.95, 1, 16), (0.999, 0, 0)])
def test_without_surge_a_pool_that_is_down_is_asked_no_oftener_than_the_promise_allows(
    home: Path, promise: float, fewest: int, most: int
) -> None:
    """A refusal costs two starts of 20 s: at most 40 s out of 0.7 of what is left open in 5 h."""
    down = Outage(zone="sim-1", start=NOW, end=NOW + timedelta(days=9))
    market = {"offers": (POOLS[0], DEAR), "outages": (down,)}
    scene = spotted(home, 1, **market, schedule=always(1, 1), surge=0, availability=promise)
    assert share_served(scene, 5) >= promise
    assert kinds(scene) == {"on_demand": 1}
    assert fewest <= sum(row.kind == "drain" for row in scene.rows("intents")) <= most
    scene.settle()


def test_the_fleet_follows_the_target_at_once(home: Path) -> None:
    scene = spotted(home, schedule=always(1, 8))
    scene.run(60)
    scene.door.images_per_second = 4.0
    minute = scene.clock.now().replace(second=0)
    scene.door.minutes = [{"deployment": "ocr", "instance_id": "ocr-1", "at": minute, "images": 240}]
    scene.run(60)
    assert len(scene.ready()) >= 3
    scene.door.images_per_second = 0.0
    scene.run(20 * 60, 20)
    assert len(scene.ready()) <= 2
    assert kinds(scene)["on_demand"] == 0
    scene.settle()


def test_a_changed_spec_replaces_spot_machines_one_by_one(home: Path) -> None:
    scene = spotted(home, 3, schedule=always(3, 3), availability=0.9)
    scene.run(300, 5)
    scene.digest = "second"
    fewest: list[int] = []
    scene.run(600, 2, lambda: fewest.append(len(scene.door.inside)))
    assert min(fewest) >= 3
    assert {machine.digest for machine in scene.machines()} == {"second"}
    assert kinds(scene) == {"spot": 3}
    scene.settle()


def test_what_cannot_be_reached_is_held(home: Path) -> None:
    scene = spotted(home)
    scene.run(300, 5)
    before = set(scene.market.running())
    scene.provider = Dark(scene.market)
    scene.run(1800, 30)
    assert set(scene.market.running()) == before
    scene.provider = scene.market
    scene.run(300, 5)
    assert set(scene.market.running()) == before
    scene.settle()


@pytest.mark.parametrize("hours", [-30, -1, 1, 30])
def test_a_clock_that_jumps_changes_no_machine(home: Path, hours: int) -> None:
    scene = spotted(home)
    scene.run(300, 5)
    before = set(scene.market.running())
    scene.clock.set(hours)
    scene.run(900, 10)
    assert set(scene.market.running()) == before
    scene.market.lose(next(iter(before)))
    scene.run(300, 5)
    assert len(scene.ready()) >= 2


def test_an_owned_machine_comes_first_and_spot_carries_the_rest(home: Path) -> None:
    box = offer(8, Purchase.OWNED, 10_000, capacity=1)
    scene = spotted(home, 3, offers=(*POOLS, DEAR, box))
    scene.run(300, 5)
    assert kinds(scene)["owned"] == 1
    assert kinds(scene)["spot"] >= 2
    assert scene.quiet()
    scene.run(3600, 60)
    assert kinds(scene)["owned"] == 1


@pytest.mark.parametrize("spot", [False, True], ids=["rented-on-demand", "rented-on-spot"])
def test_an_owned_machine_that_comes_back_takes_its_place_again(home: Path, spot: bool) -> None:
    """The rented one that stood in for it stayed for good, and was paid for beside a machine that is free."""
    box = offer(8, Purchase.OWNED, 10_000, capacity=1)
    away = Trouble(kind=Kind.DROUGHT, zone="sim-8", start=NOW, end=NOW + timedelta(minutes=10))
    scene = spotted(home, 1, offers=(*POOLS, DEAR, box), troubles=(away,))
    scene.policy = replace(scene.policy, spot=spot)
    scene.run(1800, 10)
    assert kinds(scene) == {"spot" if spot else "on_demand": 1}
    served = {len(scene.door.inside)}
    for _ in range(240):
        scene.run(30, 10)
        served.add(len(scene.door.inside))
    assert kinds(scene) == {"owned": 1}
    assert min(served) == 1
    assert scene.quiet()
    launches = len(scene.rows("instances"))
    scene.run(3600, 60)
    assert len(scene.rows("instances")) == launches


def test_every_decision_on_spot_can_be_made_again_from_the_ledger(home: Path) -> None:
    loss = Outage(zone="sim-1", start=NOW + timedelta(minutes=10), end=NOW + timedelta(hours=1))
    scene = spotted(home, outages=(loss,))
    scene.run(1800, 10)
    rows = [row for row in scene.rows("ticks") if row.snapshot is not None]
    assert len(rows) >= 2
    for row in rows:
        assert replay.differences(replay.again(row.snapshot, lambda now, start: scene.policy), row.plan) == ()
    no_spot = replace(scene.policy, spot=False)
    other = replay.differences(replay.again(rows[0].snapshot, lambda now, start: no_spot), rows[0].plan)
    assert any(line.startswith("then, not now: launch simulated/sim-1/spot") for line in other)
    assert not any(line.startswith("now, not then: launch simulated/sim-1/spot") for line in other)


def test_what_is_thought_of_the_pools_can_be_said(home: Path) -> None:
    scene = spotted(home, availability=0.9)
    scene.market.faults.before.append(NoCapacity("none left"))
    scene.run(900, 10)
    lines = spot.story(kept(scene), scene.clock.now())
    assert any("2 wanted" in line and "losses per hour expected, up for" in line for line in lines)
    assert any("ready 100.00% of the last" in line for line in lines)
    scene.market.lose(scene.market.running()[0])
    scene.tick()
    assert any("left alone until" in line for line in spot.story(kept(scene), scene.clock.now()))


def test_a_notice_is_met_elsewhere(home: Path) -> None:
    loss = Outage(zone="sim-1", start=NOW + timedelta(minutes=10), end=NOW + timedelta(hours=1))
    scene = Scene(
        home,
        offers=(*POOLS, DEAR),
        outages=(loss,),
        notice_seconds=120.0,
        policy={"schedule": always(1, 2), "start_seconds": 20.0, "availability": 0.9},
    )
    scene.run(470, 10)
    assert [machine.zone for machine in scene.ready()] == ["sim-1"]
    scene.clock.jump(loss.start - timedelta(seconds=119))
    plan = scene.tick()
    assert any(isinstance(one, Drain) for one in plan.actions)
    assert {one.offer.zone for one in plan.actions if isinstance(one, Launch)} <= {"sim-2", "sim-3", "sim-9"}
    scene.run(600, 10)
    assert {machine.zone for machine in scene.ready()} <= {"sim-2", "sim-3"}
    scene.settle()
