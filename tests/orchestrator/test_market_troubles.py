"""The simulated market in trouble: one test or more for every kind."""

from collections.abc import Callable

import pytest

from orchestrator.clock import VirtualClock
from orchestrator.providers import Misconfigured, NoCapacity, ProviderError, State, Throttled, Unreachable
from orchestrator.providers.simulated import Kind, Outage, SimulatedProvider
from tests.orchestrator.market import ELSEWHERE, NOW, ON_DEMAND, SPOT, ask, at, listed, market, trouble

Call = Callable[[SimulatedProvider], object]
CALLS: dict[str, Call] = {
    "offers": lambda provider: provider.offers(),
    "prices": lambda provider: provider.prices(NOW),
    "instances": lambda provider: provider.instances(),
    "launch": lambda provider: provider.launch(ask("new", ON_DEMAND)),
    "again": lambda provider: provider.launch(ask("a", ON_DEMAND)),
    "terminate": lambda provider: provider.terminate("m-a"),
    "nobody": lambda provider: provider.terminate("m-nobody"),
}
#: which calls raise what during a trouble, and whether they take effect
FAILS: dict[Kind, dict[str, type[ProviderError]]] = {
    Kind.UNREACHABLE: dict.fromkeys(CALLS, Unreachable),
    Kind.SILENT: dict.fromkeys(("launch", "again", "terminate", "nobody"), Unreachable),
    Kind.THROTTLED: dict.fromkeys(("instances", "launch", "again", "terminate", "nobody"), Throttled),
    Kind.DROUGHT: {"launch": NoCapacity},
    Kind.REFUSING: {"launch": Misconfigured},
    Kind.STALE: {},
    Kind.DOUBLED: {},
    Kind.NEVER_READY: {},
    Kind.STILLBORN: {},
}
EFFECTLESS = {Kind.UNREACHABLE, Kind.THROTTLED}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", Kind)
def test_which_calls_fail_how_and_only_while_it_lasts(kind: Kind, name: str) -> None:
    clock = VirtualClock(NOW)
    provider = market(clock, troubles=(trouble(kind, 100, 200),))
    provider.launch(ask("a", ON_DEMAND))
    clock.jump(at(150))
    expected = FAILS[kind].get(name)
    if expected is None:
        CALLS[name](provider)
    else:
        with pytest.raises(expected):
            CALLS[name](provider)
    effect = kind not in EFFECTLESS
    assert ("a" in provider.running()) is not (name == "terminate" and effect)
    assert ("new" in provider.running()) is (name == "launch" and effect and expected in (None, Unreachable))
    for moment in (99, 200):  # before it and after it nothing is wrong
        clock.jump(at(moment))
        CALLS[name](provider)


def test_trouble_begins_with_its_start_and_is_over_at_its_end() -> None:
    clock = VirtualClock(NOW)
    provider = market(clock, troubles=(trouble(Kind.UNREACHABLE, 100, 200),))
    answers = []
    for moment in (99.999999, 100, 199.999999, 200):
        clock.jump(at(moment))
        try:
            provider.offers()
            answers.append(True)
        except Unreachable:
            answers.append(False)
    assert answers == [True, False, False, True]
    assert [provider.next_event(at(moment)) for moment in (0, 100, 200)] == [at(100), at(200), None]


def test_in_one_zone_only_what_is_there_suffers() -> None:
    clock = VirtualClock(NOW)
    here = (trouble(kind, 100, 200, "sim-1") for kind in (Kind.UNREACHABLE, Kind.THROTTLED))
    provider = market(clock, troubles=(*here, trouble(Kind.DROUGHT, 300, 400, "sim-1")))
    provider.launch(ask("a", ON_DEMAND))
    provider.launch(ask("b", ELSEWHERE))
    clock.jump(at(150))
    assert len(provider.offers()) == 3 == len(provider.instances()) + 1
    assert (provider.health("sim://a"), provider.drain("sim://a")) == (None, False)
    assert provider.health("sim://b") is not None
    with pytest.raises(Unreachable):
        provider.terminate("m-a")
    with pytest.raises(Unreachable):
        provider.launch(ask("c", SPOT))
    provider.terminate("m-b")
    provider.launch(ask("d", ELSEWHERE))
    clock.jump(at(350))
    with pytest.raises(NoCapacity):
        provider.launch(ask("e", SPOT))
    provider.launch(ask("e", ELSEWHERE))
    assert provider.running() == ("a", "d", "e")


def test_unreachable_replicas_do_not_answer_and_go_on_running() -> None:
    clock = VirtualClock(NOW)
    provider = market(clock, troubles=(trouble(Kind.UNREACHABLE, 100, 200),))
    provider.launch(ask())
    clock.jump(at(150))
    assert (provider.health("sim://a"), provider.drain("sim://a")) == (None, False)
    clock.jump(at(200))
    health = provider.health("sim://a")
    assert health is not None and health.ready and not health.draining
    assert provider.meter() == {"a": 1_234_567 * 200 // 3600}


def test_even_a_refusal_is_not_heard_in_silence() -> None:
    outage = Outage(zone="sim-1", start=at(0), end=at(100))
    provider = market(troubles=(trouble(Kind.SILENT),), outages=(outage,))
    with pytest.raises(Unreachable):
        provider.launch(ask())
    assert provider.running() == ()


def test_a_drought_is_one_on_demand_too_and_takes_nothing_back() -> None:
    clock = VirtualClock(NOW)
    provider = market(clock, troubles=(trouble(Kind.DROUGHT, 100, 200),))
    provider.launch(ask())
    clock.jump(at(150))
    for offer in (SPOT, ON_DEMAND, ELSEWHERE):
        with pytest.raises(NoCapacity):
            provider.launch(ask("b", offer))
    assert provider.running() == ("a",)


# machines that come to nothing


def test_a_machine_that_never_answers_runs_and_costs() -> None:
    clock = VirtualClock(NOW)
    provider = market(clock, troubles=(trouble(Kind.NEVER_READY, 100, 200, "sim-1"),))
    provider.launch(ask("before", ON_DEMAND))
    clock.jump(at(150))
    provider.launch(ask("mute", ON_DEMAND))
    provider.launch(ask("elsewhere", ELSEWHERE))
    clock.jump(at(3750))
    assert [one.state for one in provider.instances()] == [State.RUNNING] * 3
    assert [provider.health(f"sim://{one}") is None for one in provider.running()] == [False, True, False]
    assert not provider.drain("sim://mute")
    assert provider.meter()["mute"] == 3_000_001


def test_a_stillborn_machine_ends_half_way_through_its_boot_and_nobody_took_it() -> None:
    clock = VirtualClock(NOW)
    provider = market(clock, troubles=(trouble(Kind.STILLBORN, 100, 200),))
    provider.launch(ask("before"))
    clock.jump(at(150))
    provider.launch(ask("a"))
    assert provider.next_event(clock.now()) == at(180)
    clock.jump(at(179))
    assert listed(provider, "a").state is State.STARTING
    clock.jump(at(1000))
    found = listed(provider, "a")
    assert (found.state, found.ended_at, found.preempted) == (State.GONE, at(180), False)
    assert provider.running() == ("before",)
    assert provider.meter()["a"] == 1_234_567 * 30 // 3600


def test_whatever_ends_a_stillborn_machine_first_ends_it() -> None:
    clock = VirtualClock(NOW)
    outages = (Outage(zone="sim-1", start=at(20), end=at(25)),)
    provider = market(clock, outages=outages, troubles=(trouble(Kind.STILLBORN),))
    for token, offer in (("taken", SPOT), ("died", ON_DEMAND), ("ended", ON_DEMAND)):
        provider.launch(ask(token, offer))
    clock.jump(at(10))
    provider.terminate("m-ended")
    clock.jump(at(500))
    ends = {one.token: (one.ended_at, one.preempted) for one in provider.rented()}
    assert ends == {"taken": (at(20), True), "died": (at(30), False), "ended": (at(10), False)}
