"""The simulated market: what becomes of its machines while nothing is wrong with it."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.clock import VirtualClock
from orchestrator.providers import (
    Misconfigured,
    NoCapacity,
    ProviderError,
    QuotaExceeded,
    State,
    Throttled,
    Unreachable,
)
from orchestrator.providers.simulated import Conditions, Move, Outage, SimulatedProvider
from tests.orchestrator.market import ELSEWHERE, NOW, ON_DEMAND, SPOT, ask, at, listed, listings, market


@pytest.mark.parametrize("error", [Throttled("slow down"), Unreachable("no answer"), NoCapacity("none")])
def test_an_error_before_the_effect_leaves_nothing(error: ProviderError) -> None:
    provider = market()
    provider.faults.before.append(error)
    with pytest.raises(type(error)):
        provider.launch(ask())
    assert (provider.running(), list(provider.instances())) == ((), [])
    provider.launch(ask())
    provider.faults.before.append(error)
    with pytest.raises(type(error)):
        provider.terminate("m-a")
    assert provider.running() == ("a",)


def test_an_error_after_the_effect_leaves_one_machine_and_the_call_may_be_repeated() -> None:
    provider = market()
    provider.faults.after.append(Unreachable("no answer"))
    with pytest.raises(Unreachable):
        provider.launch(ask())
    assert provider.running() == ("a",)
    assert provider.launch(ask()) == "m-a"
    assert provider.running() == ("a",)
    provider.faults.after.append(Throttled("slow down"))
    with pytest.raises(Throttled):
        provider.terminate("m-a")
    assert provider.running() == ()
    provider.terminate("m-a")


def test_an_offer_of_yesterdays_spec_is_a_misconfiguration() -> None:
    with pytest.raises(Misconfigured, match="no longer on offer"):
        market().launch(ask(offer=replace(SPOT, id="simulated/elsewhere")))


def test_capacity_counts_those_that_are_not_over() -> None:
    provider = market(offers=(replace(SPOT, capacity=1),))
    provider.launch(ask("a"))
    with pytest.raises(NoCapacity):
        provider.launch(ask("b"))
    provider.launch(ask("a"))  # it is the same one
    provider.terminate("m-a")
    provider.launch(ask("b"))
    assert provider.running() == ("b",)


def test_the_accounts_quota_counts_machines_of_every_offer_and_stopped_ones_too() -> None:
    provider = market(quota=2)
    provider.launch(ask("a"))
    provider.launch(ask("b", ON_DEMAND))
    provider.stop("b")
    with pytest.raises(QuotaExceeded, match="2 machines"):
        provider.launch(ask("c", ELSEWHERE))
    assert provider.launch(ask("b", ON_DEMAND)) == "m-b"  # it is there
    provider.terminate("m-b")
    provider.launch(ask("c", ELSEWHERE))
    assert provider.running() == ("a", "c")


def test_it_boots_and_answers_when_it_has_booted() -> None:
    clock = VirtualClock(NOW)
    provider = market(clock)
    provider.launch(ask())
    clock.sleep(59)
    assert (listed(provider, "a").state, provider.health("sim://a")) == (State.STARTING, None)
    assert not provider.drain("sim://a")
    clock.sleep(1)
    health = provider.health("sim://a")
    assert listed(provider, "a").state is State.RUNNING
    assert health is not None and (health.ready, health.draining) == (True, False)
    assert provider.drain("sim://a")
    health = provider.health("sim://a")
    assert health is not None and (health.ready, health.draining) == (False, True)
    assert (provider.health("sim://b"), provider.drain("sim://b")) == (None, False)


# outages


def test_an_outage_is_announced_takes_back_and_refuses_until_it_is_over() -> None:
    clock = VirtualClock(NOW)
    outage = Outage(zone="sim-1", start=at(3600), end=at(7200))
    provider = market(clock, outages=(outage,), notice_seconds=120)
    provider.launch(ask())
    provider.launch(ask("mine", ON_DEMAND))
    clock.jump(at(3600 - 121))
    assert listed(provider, "a").reclaim_at is None
    clock.sleep(1)
    assert listed(provider, "a").reclaim_at == outage.start
    assert listed(provider, "mine").reclaim_at is None
    clock.jump(at(7199))  # nobody looked meanwhile
    ended = listed(provider, "a")
    assert (ended.state, ended.preempted, ended.ended_at) == (State.GONE, True, outage.start)
    assert listed(provider, "mine").state is State.RUNNING
    with pytest.raises(NoCapacity):
        provider.launch(ask("b"))
    clock.jump(outage.end)
    provider.launch(ask("b"))
    assert provider.running() == ("mine", "b")


def test_an_outage_without_notice_takes_back_at_once() -> None:
    clock = VirtualClock(NOW)
    provider = market(clock, outages=(Outage(zone="sim-1", start=at(300), end=at(400), notice=False),))
    provider.launch(ask())
    clock.jump(at(299.999999))
    assert (listed(provider, "a").state, listed(provider, "a").reclaim_at) == (State.RUNNING, None)
    clock.jump(at(300))
    assert (listed(provider, "a").state, listed(provider, "a").ended_at) == (State.GONE, at(300))


def test_a_short_outage_is_announced_until_it_comes() -> None:
    """Shorter than its notice."""
    clock = VirtualClock(NOW)
    provider = market(clock, outages=(Outage(zone="sim-1", start=at(300), end=at(310)),), notice_seconds=120)
    provider.launch(ask())
    for second in (180, 200, 250, 299):
        clock.jump(at(second))
        assert listed(provider, "a").reclaim_at == at(300), second


def test_overlapping_outages_are_one() -> None:
    clock = VirtualClock(NOW)
    outages = tuple(Outage(zone="sim-1", start=at(start), end=at(end)) for start, end in ((10, 100), (20, 30)))
    provider = market(clock, outages=outages)
    clock.jump(at(50))
    with pytest.raises(NoCapacity):
        provider.launch(ask())
    clock.jump(at(100))
    provider.launch(ask())


# stopped by somebody


def test_a_stopped_machine_keeps_its_disk_and_boots_when_it_is_started_again() -> None:
    clock = VirtualClock(NOW)
    provider = market(clock)
    provider.launch(ask())
    clock.jump(at(100))
    assert provider.drain("sim://a")
    provider.stop("a")
    provider.stop("a")
    provider.start("a")  # it is still stopping
    clock.jump(at(200))
    found = listed(provider, "a")
    assert (found.state, found.stopped_at, found.ended_at) == (State.STOPPED, at(100), None)
    assert (provider.health("sim://a"), provider.drain("sim://a")) == (None, False)
    assert provider.running() == ("a",)  # its disk costs
    provider.start("a")
    provider.start("a")
    assert (listed(provider, "a").state, listed(provider, "a").stopped_at) == (State.STARTING, None)
    clock.jump(at(259))
    assert provider.health("sim://a") is None
    clock.jump(at(260))
    health = provider.health("sim://a")
    assert health is not None and health.ready and not health.draining
    assert listed(provider, "a").state is State.RUNNING


def test_a_machine_that_ends_while_it_is_stopped_says_since_when() -> None:
    clock = VirtualClock(NOW)
    provider = market(clock)
    provider.launch(ask())
    clock.jump(at(100))
    provider.stop("a")
    clock.jump(at(150))
    provider.terminate("m-a")
    provider.start("a")  # too late
    provider.stop("a")
    found = listed(provider, "a")
    assert (found.state, found.stopped_at, found.ended_at) == (State.GONE, at(100), at(150))


def test_nobody_takes_back_what_does_not_run_and_without_capacity_it_stays_off() -> None:
    clock = VirtualClock(NOW)
    outages = tuple(Outage(zone="sim-1", start=at(start), end=at(start + 100)) for start in (300, 500))
    provider = market(clock, outages=outages)
    provider.launch(ask())
    provider.stop("a")
    clock.jump(at(350))
    assert (listed(provider, "a").state, listed(provider, "a").reclaim_at) == (State.STOPPED, None)
    provider.start("a")
    assert listed(provider, "a").state is State.STOPPED
    clock.jump(at(400))
    provider.start("a")
    assert (listed(provider, "a").state, listed(provider, "a").reclaim_at) == (State.STARTING, at(500))
    clock.jump(at(500))
    assert (listed(provider, "a").preempted, listed(provider, "a").ended_at) == (True, at(500))


# by itself


def test_the_next_event_is_the_next_moment_at_which_something_changes() -> None:
    provider = market(
        outages=(Outage(zone="sim-1", start=at(1000), end=at(2000)),),
        moves=(Move(offer_id=SPOT.id, at=at(300), price_per_hour_micros=1),),
        listing_delay_seconds=10,
    )
    provider.launch(ask())
    moments, after = [], provider.next_event(NOW)
    while after is not None:
        moments.append((after - NOW).total_seconds())
        after = provider.next_event(after)
    assert moments[1:] == [60, 300, 880, 1000, 2000]  # booted, dearer, announced, taken back, had again
    assert 0 < moments[0] <= 10  # listed


def test_a_market_in_a_file_is_the_same_one_for_everybody(tmp_path: Path) -> None:
    clock = VirtualClock(NOW)
    conditions = Conditions(offers=(SPOT,), outages=(Outage(zone="sim-1", start=at(500), end=at(600)),))

    def opened() -> SimulatedProvider:
        return SimulatedProvider(clock, conditions, tmp_path / "market.json")

    opened().launch(ask())
    clock.jump(at(100))
    opened().stop("a")
    clock.jump(at(200))
    opened().start("a")
    opened().launch(ask("b"))
    opened().stop("b")
    clock.jump(at(550))
    assert (listed(opened(), "a").ended_at, listed(opened(), "b").stopped_at) == (at(500), at(200))
    assert opened().meter() == {"a": 1_234_567 * 100 // 3600 + 1_234_567 * 300 // 3600, "b": 0}
    assert opened().rented()[0].stops == ((at(100), at(200)),)


def test_two_markets_of_the_same_conditions_live_the_same_life() -> None:
    def life() -> list[object]:
        clock = VirtualClock(NOW)
        provider = market(clock, listing_delay_seconds=30, outages=(Outage(zone="sim-1", start=at(90), end=at(95)),))
        seen: list[object] = []
        for number in range(20):
            if not 90 <= (clock.now() - NOW) / timedelta(seconds=1) < 95:
                provider.launch(ask(f"t{number}"))
            clock.sleep(7)
            seen += [provider.instances(), provider.meter(), listings(provider, "t3")]
        return seen

    assert life() == life()


def test_a_market_in_a_file_has_the_price_of_its_spec_from_when_the_spec_says_it(tmp_path: Path) -> None:
    """Else a price that is edited would be billed from the launch on."""
    clock = VirtualClock(NOW)
    kept = SimulatedProvider(clock, Conditions(offers=(SPOT,)), tmp_path / "market.json")
    assert kept.prices(NOW) is None
    assert SimulatedProvider(clock, Conditions(offers=(SPOT,))).prices(NOW)
