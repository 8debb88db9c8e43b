"""What is lost, goes silent or never starts is replaced, once, and nothing of it is leaked."""

import contextlib
import itertools
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.ledger import offers
from orchestrator.ledger.intents import Intent
from orchestrator.providers import (
    Misconfigured,
    NoCapacity,
    ProviderError,
    QuotaExceeded,
    Request,
    Throttled,
    Unreachable,
)
from orchestrator.providers.simulated import Outage
from orchestrator.scheduler import tick
from policies.lifecycle import OVER, Status
from tests.orchestrator.bent import Announcing, Bent, Counting, Dark, Deaf, Hiding, Zoned
from tests.orchestrator.scene import NOW, QUICK, SECOND, SPOT, Scene, always, offer

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
    (asked,) = scene.rows("intents")
    assert (asked.state, asked.error) == ("failed", f"{type(refusal).__name__}: {refusal}")
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
    assert [row.state for row in scene.rows("intents") if row.kind == "launch"] == ["done"]  # not void: it came
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
    plan = tick(scene.world)
    assert any("m-stranger" in note for note in plan.notes)
    assert "stranger" in scene.market.running()


def test_the_pace_of_repetition_is_bounded() -> None:
    opened = Intent(
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


# what nobody thought of


class Clumsy(Bent):
    """A provider with a mistake in it."""

    def launch(self, request: Request) -> str:
        raise KeyError("InstanceId")


def test_a_mistake_in_one_call_keeps_no_other_from_being_made(home: Path) -> None:
    """It is said, and it is not repeated at every tick; but who should go goes."""
    scene = Scene(home, policy={"schedule": always(2, 2)})
    scene.run(60)
    gone, _ = scene.ready()
    scene.provider = Clumsy(scene.market)
    scene.market.lose(gone.token)
    with pytest.raises(KeyError):
        scene.run(10, 1)
    launch = next(row for row in scene.rows("intents") if row.state == "open" and row.kind == "launch")
    assert (launch.attempts, launch.error) == (1, "KeyError: 'InstanceId'")
    scene.policy = replace(scene.policy, wanted=False)
    for _ in range(30):
        scene.clock.sleep(1)
        with contextlib.suppress(KeyError):
            scene.tick()
    assert not scene.market.running()
    assert not scene.machines()
