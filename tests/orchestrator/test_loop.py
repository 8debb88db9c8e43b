"""The loop against a market, in scenarios. Every tick is checked by every invariant."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from orchestrator.ledger import fleet, offers
from orchestrator.providers import (
    Listed,
    Misconfigured,
    NoCapacity,
    ProviderError,
    QuotaExceeded,
    Request,
    Throttled,
    Unreachable,
)
from orchestrator.providers.simulated import Outage, SimulatedProvider
from policies import budget
from policies.disruption import Disruption
from policies.lifecycle import OVER, Status
from policies.snapshot import Purchase
from policies.windows import Override, Schedule, Window
from tests.orchestrator.scene import NOW, Scene, always, offer

SPOT = Purchase.SPOT
DAYTIME = Schedule(
    zone=ZoneInfo("Asia/Shanghai"),
    windows=(Window(days=frozenset(range(5)), start_minute=8 * 60, end_minute=20 * 60),),
    prewarm_seconds=60,
)
OPENS = datetime(2026, 11, 20, 0, tzinfo=UTC)  # 08:00 in Shanghai
CLOSES = datetime(2026, 11, 20, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


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


# losses


def test_a_notice_is_answered_before_the_loss(home: Path) -> None:
    """The replacement is launched elsewhere in the tick that sees it; nobody ends the old one but the market."""
    loss = Outage(zone="sim-1", start=NOW + timedelta(minutes=10), end=NOW + timedelta(hours=1))
    scene = Scene(home, offers=(offer(1, SPOT, 400_000), offer(2, SPOT, 500_000)), outages=(loss,), notice_seconds=120)
    scene.run(60)
    assert scene.ready()[0].zone == "sim-1"
    scene.clock.jump(loss.start - timedelta(seconds=120))
    plan = scene.tick()
    assert [type(action).__name__ for action in plan.actions] == ["Drain", "Launch"]
    assert scene.door.inside == []
    scene.run(25)
    assert [machine.zone for machine in scene.ready()] == ["sim-2"]
    assert scene.door.inside == ["ocr-3"]  # numbered by its intent
    scene.run(120)
    assert scene.statuses(over=True) == {"ocr-1": Status.PREEMPTED, "ocr-3": Status.READY}
    assert not any(row.kind == "terminate" for row in scene.rows("intents"))
    assert scene.quiet()
    scene.settle()


def test_a_loss_without_notice_is_replaced_by_the_tick_that_sees_it(home: Path) -> None:
    scene = Scene(home, offers=(offer(1, SPOT, 400_000), offer(2, SPOT, 500_000)))
    scene.run(60)
    (before,) = scene.ready()
    scene.market.lose(before.token)
    scene.clock.sleep(1)
    plan = scene.tick()
    assert [type(action).__name__ for action in plan.actions] == ["Launch"]
    assert scene.door.inside == []
    assert scene.statuses(over=True)[before.id] == Status.PREEMPTED
    scene.run(25)
    assert len(scene.ready()) == 1
    scene.settle()


def test_a_machine_that_ends_by_itself_is_replaced(home: Path) -> None:
    scene = Scene(home)
    scene.run(120)
    scene.market.crash(scene.ready()[0].token)
    scene.run(40, 1)
    assert scene.statuses(over=True) == {"ocr-1": Status.FAILED, "ocr-2": Status.READY}
    scene.settle()


def test_a_notice_while_it_boots_replaces_it_and_it_is_ended_if_nobody_takes_it(home: Path) -> None:
    """It never comes up, and its market never keeps its word: it does not live forever."""
    scene = Scene(home, offers=(offer(1, SPOT, 400_000), offer(2, SPOT, 500_000)), boot_seconds=3600.0)
    scene.run(5)
    (booting,) = scene.machines()
    said = NOW + timedelta(seconds=60)
    scene.provider = Announcing(scene.market, booting.token, said)
    scene.run(5)
    assert len(scene.live()) == 2
    scene.run(120, 10)
    assert booting.token in scene.market.running()  # it is the market's to end
    scene.run(300, 10)
    assert booting.token not in scene.market.running()
    scene.settle()


def test_a_machine_that_vanishes_from_the_listing_is_ended_for_certain(home: Path) -> None:
    scene = Scene(home)
    scene.run(60)
    (before,) = scene.ready()
    hiding = scene.provider = Hiding(scene.market, {before.token})
    scene.run(30, 1)
    assert before.token not in scene.market.running()
    assert scene.statuses(over=True)[before.id] in OVER
    assert len(scene.live()) == 1
    hiding.tokens.clear()
    scene.run(30, 1)
    assert len(scene.ready()) == 1
    scene.policy = replace(scene.policy, wanted=False)
    scene.run(20, 1)
    assert scene.machines() == ()  # `halve down` comes to an end


def test_a_machine_that_was_only_hidden_for_a_moment_stays(home: Path) -> None:
    scene = Scene(home)
    scene.run(60)
    hiding = scene.provider = Hiding(scene.market, {scene.ready()[0].token})
    scene.run(3, 1)
    hiding.tokens.clear()
    scene.run(10, 1)
    assert (scene.launches(), len(scene.ready())) == (1, 1)
    scene.settle()


# launches that go wrong


@pytest.mark.parametrize("refusal", [NoCapacity("none left"), QuotaExceeded("vcpus"), Misconfigured("no such image")])
def test_a_refusal_goes_to_the_next_zone_and_the_first_is_left_alone_for_longer_and_longer(
    home: Path, refusal: ProviderError
) -> None:
    scene = Scene(home, offers=(offer(1, price=100), offer(2, price=200)))
    scene.market.faults.before.append(refusal)
    scene.tick()
    assert list(scene.statuses(over=True).values()) == [Status.FAILED]
    scene.clock.sleep(1)
    plan = scene.tick()
    assert any("refused 1 times: left alone until" in note for note in plan.notes)
    assert [machine.zone for machine in scene.live()] == ["sim-2"]
    scene.run(30)
    assert [machine.zone for machine in scene.ready()] == ["sim-2"]
    scene.settle()


def test_back_off_doubles_and_ends_with_a_success(home: Path) -> None:
    scene = Scene(home)
    scene.market.faults.before += [NoCapacity("none left")] * 4
    scene.run(200, 1)
    asked = [row.opened_at for row in scene.rows("intents") if row.kind == "launch"]
    waits = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(asked)]
    assert [round(wait, -1) for wait in waits] == [10, 20, 40, 80]
    assert len(scene.ready()) == 1
    scene.run(120, 10)
    with scene.ledger.read() as tx:
        assert offers.get(tx, "simulated/sim-1/on_demand").refusals == 0
    scene.settle()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", [Throttled("slow down"), Unreachable("no answer")])
def test_an_uncertain_launch_is_repeated_with_the_same_token(home: Path, error: ProviderError, after: bool) -> None:
    scene = Scene(home)
    (scene.market.faults.after if after else scene.market.faults.before).append(error)
    scene.run(30, 1)
    assert (scene.launches(), len(scene.market.rented()), len(scene.ready())) == (1, 1, 1)
    scene.settle()


def test_repeated_calls_are_not_hammered(home: Path) -> None:
    scene = Scene(home)
    counting = scene.provider = Counting(scene.market)
    scene.market.faults.before += [Throttled("slow down")] * 1000
    scene.run(60, 1)
    assert 3 <= counting.launches <= 10
    scene.market.faults.before.clear()
    scene.run(60, 1)
    assert len(scene.ready()) == 1


def test_a_launch_that_nobody_ever_answers_is_given_up_and_the_next_zone_is_tried(home: Path) -> None:
    scene = Scene(home, offers=(offer(1, price=100), offer(2, price=200)), policy={"patience": QUICK})
    scene.provider = Zoned(scene.market, "sim-1", Unreachable("no answer"))
    scene.run(200, 2)
    assert [machine.zone for machine in scene.ready()] == ["sim-2"]
    scene.settle()


def test_a_replica_that_is_never_ready_is_replaced_and_its_pool_backs_off(home: Path) -> None:
    scene = Scene(home, boot_seconds=10**9, policy={"patience": QUICK})
    scene.run(1200, 5)
    starts = [machine.requested_at for machine in scene.machines(over=True)]
    waits = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(starts)]
    assert len(waits) >= 4
    assert waits == sorted(waits)
    assert waits[-1] > 2 * waits[0]
    assert len(scene.market.running()) <= 1
    scene.settle()


def test_a_crash_loop_backs_off_even_though_it_is_ready_each_time(home: Path) -> None:
    scene = Scene(home, boot_seconds=2.0)
    for _ in range(900):
        scene.tick()
        for machine in scene.ready():
            if scene.clock.now() - (machine.ready_at or NOW) >= timedelta(seconds=3):
                scene.market.crash(machine.token)
        scene.clock.sleep(1)
    assert scene.launches() <= 8
    scene.settle()


def test_a_listing_that_is_late_changes_nothing(home: Path) -> None:
    scene = Scene(home, listing_delay_seconds=30.0)
    scene.run(120, 5)
    assert (scene.launches(), len(scene.ready())) == (1, 1)
    scene.settle()


def test_a_launch_taken_back_before_it_was_listed_is_booked_and_replaced(home: Path) -> None:
    scene = Scene(home, listing_delay_seconds=30.0, offers=(offer(1, SPOT, 100), offer(2, SPOT, 200)))
    scene.run(5, 1)
    scene.market.lose(scene.market.running()[0])
    scene.run(120, 5)
    assert len(scene.ready()) == 1
    assert list(scene.statuses(over=True).values()).count(Status.PREEMPTED) == 1
    scene.settle()


def test_down_while_a_launch_is_uncertain_ends_what_was_launched(home: Path) -> None:
    """The answer was lost, the listing is late: the intent is void only when nothing was seen for long enough."""
    scene = Scene(home, listing_delay_seconds=10.0)
    scene.market.faults.after.append(Unreachable("no answer"))
    scene.tick()
    assert len(scene.market.running()) == 1
    scene.policy = replace(scene.policy, wanted=False)
    scene.run(30, 1)
    assert scene.market.running() == ()
    scene.settle()


def test_nothing_is_void_while_nobody_can_look(home: Path) -> None:
    """The launch took effect, and then the provider was unreachable for an hour: unseen is not evidence."""
    scene = Scene(home)
    scene.market.faults.after.append(Unreachable("no answer"))
    scene.tick()
    scene.policy = replace(scene.policy, wanted=False)
    scene.provider = Dark(scene.market)
    scene.longest_tick = 3700.0
    scene.run(3600, 60)
    assert list(scene.statuses().values()) == [Status.REQUESTED]
    scene.provider = scene.market
    scene.run(10, 1)
    assert scene.market.running() == ()
    scene.settle()


def test_a_launch_that_arrives_after_it_was_void_is_ended_and_booked(home: Path) -> None:
    """A stopped daemon wakes and still sends the launch that its successor has given up."""
    scene = Scene(home)
    scene.market.faults.before.append(Unreachable("no answer"))
    scene.tick()
    (asked,) = scene.machines()
    scene.policy = replace(scene.policy, wanted=False)
    scene.run(20, 1)
    assert scene.statuses(over=True) == {asked.id: Status.FAILED}
    scene.market.launch(Request(token=asked.token, offer=offer(), payload={}))
    scene.run(20, 1)
    assert scene.market.running() == ()
    scene.settle()


def test_an_unreachable_provider_is_held_and_served_on(home: Path) -> None:
    scene = Scene(home, policy={"schedule": always(1, 3)})
    scene.run(60)
    scene.provider = Dark(scene.market)
    scene.door.images_per_second = 100.0
    scene.run(600, 10)
    assert (scene.launches(), scene.door.inside) == (1, ["ocr-1"])
    assert any("cannot be reached" in note for note in scene.plans[-1].notes)
    scene.provider = scene.market
    scene.run(60)
    assert len(scene.ready()) == 3
    scene.settle()


def test_machines_of_ours_that_the_ledger_does_not_know_are_said_aloud_and_left_alone(home: Path) -> None:
    scene = Scene(home)
    scene.run(30)
    scene.market.launch(Request(token="stranger", offer=offer(), payload={}))
    from orchestrator.scheduler import tick

    plan = tick(scene.world)
    assert any("m-stranger" in note for note in plan.notes)
    assert "stranger" in scene.market.running()


# ready, and then


def test_a_silent_replica_is_withdrawn_at_once_and_replaced_after_a_while(home: Path) -> None:
    scene = Scene(home, policy={"schedule": always(2, 2)})
    scene.run(60)
    one, other = scene.ready()
    deaf = scene.probes = Deaf(scene.market, {f"sim://{one.token}"})
    scene.clock.sleep(1)
    scene.tick()
    assert scene.door.inside == [other.id]
    scene.run(20, 1)
    deaf.urls.clear()  # it was only busy
    scene.clock.sleep(1)
    scene.tick()
    assert (scene.door.inside, scene.launches()) == ([one.id, other.id], 2)
    deaf.urls.add(f"sim://{one.token}")
    scene.run(35, 1)
    assert scene.launches() == 3
    scene.run(60, 1)
    assert one.id not in scene.statuses()
    assert len(scene.ready()) == 2
    scene.settle()


def test_when_none_answers_the_door_keeps_them(home: Path) -> None:
    """Probes that fail everywhere at once say more about the prober, or about the load, than about the replicas."""
    scene = Scene(home, policy={"schedule": always(2, 2)})
    scene.run(60)
    scene.probes = Deaf(scene.market)
    scene.clock.sleep(1)
    scene.tick()
    assert scene.door.inside == ["ocr-1", "ocr-2"]


def test_a_replica_that_drains_by_itself_is_replaced(home: Path) -> None:
    scene = Scene(home)
    scene.run(60)
    (before,) = scene.ready()
    scene.market.drain(f"sim://{before.token}")
    scene.run(40, 1)
    assert scene.statuses(over=True)[before.id] == Status.ENDED
    assert len(scene.ready()) == 1
    scene.settle()


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


# money


def test_a_budget_that_is_spent_closes_and_says_so(home: Path) -> None:
    limit = budget.Budget(daily_micros=200_000, at=((0.5, budget.Step.WARN), (1.0, budget.Step.STOP)))
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


def test_prices_are_written_down_once_however_long_it_runs(home: Path) -> None:
    scene = Scene(home)
    scene.run(600, 5)
    assert len(scene.rows("prices")) == 1
    assert len(scene.rows("ticks")) <= 25  # a quiet minute is one row


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
    scene.run(60)
    assert len(scene.ready()) == 2
    scene.settle()


def test_every_decision_is_kept_and_can_be_made_again(home: Path) -> None:
    from orchestrator import replay
    from policies.decide import decide

    scene = Scene(home)
    scene.run(60)
    kept = [row for row in scene.rows("ticks") if row.snapshot is not None]
    assert len(kept) == 1
    again = decide(replay.from_json(kept[0].snapshot), scene.policy)
    assert (again.target.replicas, again.target.reason) == (kept[0].target, kept[0].reason)
    assert [type(action).__name__.lower() for action in again.actions] == [
        action["kind"] for action in kept[0].plan["actions"]
    ]


# the world, bent


QUICK = Disruption(start_seconds=60.0)


class Bent:
    """A provider that does what the market does, but for what a test bends."""

    name = "simulated"

    def __init__(self, market: SimulatedProvider) -> None:
        self.market = market
        self.listing_deadline_seconds = market.listing_deadline_seconds

    def offers(self) -> Any:
        return self.market.offers()

    def instances(self) -> Any:
        return self.market.instances()

    def launch(self, request: Request) -> str:
        return self.market.launch(request)

    def terminate(self, provider_id: str) -> None:
        self.market.terminate(provider_id)


class Dark(Bent):
    """Nobody answers."""

    def offers(self) -> Any:
        raise Unreachable("network is down")

    instances = launch = terminate = lambda self, *_: self.offers()


class Hiding(Bent):
    """Some machines are not listed."""

    def __init__(self, market: SimulatedProvider, tokens: set[str]) -> None:
        super().__init__(market)
        self.tokens = tokens

    def instances(self) -> list[Listed]:
        return [one for one in self.market.instances() if one.token not in self.tokens]


class Announcing(Bent):
    """One machine is said to be taken back at a moment."""

    def __init__(self, market: SimulatedProvider, token: str, at: datetime) -> None:
        super().__init__(market)
        self.token, self.at = token, at

    def instances(self) -> list[Listed]:
        return [replace(one, reclaim_at=self.at) if one.token == self.token else one for one in self.market.instances()]


class Zoned(Bent):
    """Launches in one zone fail."""

    def __init__(self, market: SimulatedProvider, zone: str, error: ProviderError) -> None:
        super().__init__(market)
        self.zone, self.error = zone, error

    def launch(self, request: Request) -> str:
        if request.offer.zone == self.zone:
            raise self.error
        return self.market.launch(request)


class Counting(Bent):
    launches = 0

    def launch(self, request: Request) -> str:
        self.launches += 1
        return self.market.launch(request)


class Repriced(Bent):
    """Everything costs something else now."""

    def __init__(self, market: SimulatedProvider, price: int) -> None:
        super().__init__(market)
        self.price = price

    def offers(self) -> Any:
        return [replace(one, price_per_hour_micros=self.price) for one in self.market.offers()]


class Deaf:
    """Probes that some replicas, or all, do not answer."""

    def __init__(self, market: SimulatedProvider, urls: set[str] | None = None) -> None:
        self.market, self.urls = market, urls if urls is not None else set()
        self.all = urls is None

    def health(self, url: str) -> Any:
        return None if self.all or url in self.urls else self.market.health(url)

    def drain(self, url: str) -> bool:
        return not self.all and url not in self.urls and self.market.drain(url)


def test_the_pace_of_repetition_is_bounded() -> None:
    opened = fleet.Intent(
        id=1,
        deployment="ocr",
        kind="launch",
        instance_id="ocr-1",
        token="t",
        payload={},
        reason="",
        opened_at=NOW,
        attempted_at=None,
        attempts=0,
    )
    assert opened.due(NOW)
    for attempts, wait in ((1, 1), (2, 2), (3, 4), (6, 30), (100, 30)):
        tried = replace(opened, attempts=attempts, attempted_at=NOW)
        assert not tried.due(NOW + timedelta(seconds=wait) - SECOND / 2)
        assert tried.due(NOW + timedelta(seconds=wait))
        assert tried.due(NOW - timedelta(hours=1))  # the clock was set back
