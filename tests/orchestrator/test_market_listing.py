"""How the simulated market lists its machines: late, for a while after their end, stale, and twice."""

from time import process_time

from orchestrator.clock import VirtualClock
from orchestrator.providers import State
from orchestrator.providers.simulated import Kind, Outage
from tests.orchestrator.market import NOW, ask, at, listed, listings, market, trouble


def test_a_machine_is_listed_late_each_at_a_moment_of_its_own_before_the_deadline() -> None:
    clock = VirtualClock(NOW)
    provider = market(clock, listing_delay_seconds=10)
    tokens = [f"t{number}" for number in range(50)]
    for token in tokens:
        provider.launch(ask(token))
    assert list(provider.instances()) == []
    shown: dict[str, float] = {}
    for second in range(1, 11):
        clock.jump(at(second))
        shown |= {one.token: second for one in provider.instances() if one.token not in shown}
    assert sorted(shown) == sorted(tokens)  # by the delay, and so before the deadline
    assert provider.listing_deadline_seconds == 15
    assert len(set(shown.values())) > 5
    again = market(other := VirtualClock(NOW), listing_delay_seconds=10)
    for token in tokens:
        again.launch(ask(token))
    other.jump(at(5))
    assert {one.token for one in again.instances()} == {token for token, second in shown.items() if second <= 5}


def test_a_machine_that_ended_is_listed_for_a_while_and_never_forgotten() -> None:
    clock = VirtualClock(NOW)
    provider = market(clock, listed_after_end_seconds=100, listing_delay_seconds=10)
    provider.launch(ask("a"))
    provider.launch(ask("b"))
    clock.sleep(50)
    provider.terminate("m-a")
    clock.sleep(99)
    assert listed(provider, "a").ended_at == at(50)
    clock.sleep(1)
    assert [one.token for one in provider.instances()] == ["b"]
    clock.sleep(1000)
    assert provider.launch(ask("a")) == "m-a"  # the token is used up
    provider.terminate("m-a")
    assert [one.token for one in provider.instances()] == ["b"]
    assert [(one.token, one.ended_at) for one in provider.rented()] == [("a", at(50)), ("b", None)]
    assert provider.meter()["a"] == 1_234_567 * 50 // 3600


def test_what_ended_is_not_looked_at_for_ever() -> None:
    """A month has thousands of machines, and a listing at every tick."""
    clock = VirtualClock(NOW)
    provider = market(clock)
    for number in range(3000):
        provider.launch(ask(f"t{number}"))
        provider.terminate(f"m-t{number}")
    provider.launch(ask())
    clock.sleep(3600)
    assert [one.token for one in provider.instances()] == ["a"]

    def seconds() -> float:
        start = process_time()
        for _ in range(50):
            provider.instances()
        return (process_time() - start) / 50

    assert min(seconds() for _ in range(5)) < 0.0003  # 3,000 dataclasses would take ten times that
    assert len(provider.rented()) == len(provider.meter()) == 3001


def test_a_stale_listing_is_as_it_was() -> None:
    clock = VirtualClock(NOW)
    provider = market(clock, listing_delay_seconds=30, troubles=(trouble(Kind.STALE, 100, 200),))
    for token in ("ends", "stops", "starts"):
        provider.launch(ask(token))
    clock.jump(at(80))
    provider.stop("starts")
    clock.jump(at(110))
    provider.terminate("m-ends")
    provider.stop("stops")
    provider.start("starts")
    provider.launch(ask("new"))
    clock.jump(at(139))
    assert [one.token for one in provider.instances()] == ["ends", "stops", "starts"]
    ends, stops, starts = provider.instances()
    assert (ends.state, ends.ended_at) == (State.RUNNING, None)
    assert (stops.state, stops.stopped_at) == (State.RUNNING, None)
    assert (starts.state, starts.stopped_at) == (State.STOPPED, at(80))
    clock.jump(at(140))
    ends, stops, starts, new = provider.instances()
    assert (ends.state, ends.ended_at) == (State.GONE, at(110))
    assert (stops.state, stops.stopped_at) == (State.STOPPED, at(110))
    assert (starts.state, starts.stopped_at) == (State.STARTING, None)
    assert (new.token, new.state) == ("new", State.STARTING)


def test_a_stale_listing_is_never_later_than_the_deadline_and_does_not_know_of_a_notice() -> None:
    clock = VirtualClock(NOW)
    outage = Outage(zone="sim-1", start=at(600), end=at(700))
    provider = market(clock, listing_delay_seconds=30, outages=(outage,), troubles=(trouble(Kind.STALE, 0, 9999),))
    provider.launch(ask())
    clock.jump(at(29))
    assert listings(provider, "a") == []
    clock.jump(at(30))
    assert listed(provider, "a").launched_at == NOW
    clock.jump(at(509))
    assert listed(provider, "a").reclaim_at is None
    clock.jump(at(510))  # announced at 480
    assert listed(provider, "a").reclaim_at == at(600)
    clock.jump(at(629))
    assert (listed(provider, "a").state, listed(provider, "a").preempted) == (State.RUNNING, False)
    clock.jump(at(630))
    assert (listed(provider, "a").state, listed(provider, "a").preempted) == (State.GONE, True)


def test_a_stale_listing_keeps_what_ended_as_long_as_it_should() -> None:
    clock = VirtualClock(NOW)
    stale = trouble(Kind.STALE, 0, 9999)
    provider = market(clock, listing_delay_seconds=30, listed_after_end_seconds=100, troubles=(stale,))
    provider.launch(ask())
    clock.jump(at(50))
    provider.terminate("m-a")
    clock.jump(at(179))
    assert listed(provider, "a").state is State.GONE
    clock.jump(at(180))
    assert listings(provider, "a") == []


def test_a_doubled_listing_says_it_twice_the_second_time_as_it_was() -> None:
    clock = VirtualClock(NOW)
    provider = market(clock, listing_delay_seconds=30, troubles=(trouble(Kind.DOUBLED, 100, 200),))
    provider.launch(ask("a"))
    clock.jump(at(110))
    provider.terminate("m-a")
    provider.launch(ask("b"))
    clock.jump(at(139))
    assert [one.state for one in listings(provider, "a")] == [State.GONE, State.RUNNING]
    assert len(listings(provider, "b")) == 1
    clock.jump(at(140))
    assert [one.ended_at for one in listings(provider, "a")] == [at(110), at(110)]
    assert len(listings(provider, "b")) == 2
    clock.jump(at(200))
    assert len(provider.instances()) == 2
