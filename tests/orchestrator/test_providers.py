"""One suite for every provider, and what only one of them can do wrong."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest

from orchestrator.clock import VirtualClock
from orchestrator.files import read_json, write_json
from orchestrator.providers import (
    Listed,
    Misconfigured,
    NoCapacity,
    Provider,
    ProviderError,
    Request,
    State,
    Throttled,
    Unreachable,
)
from orchestrator.providers.local import KEEP_ENDED, KILL_AFTER, LocalProvider, engine_command, held, is_held
from orchestrator.providers.simulated import Conditions, Outage, SimulatedProvider
from policies.snapshot import Offer, Purchase
from tests.orchestrator.tiny import THIS_MACHINE, local, replicas, until

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SIMULATED = Offer(
    id="simulated/sim-1/spot",
    provider="simulated",
    zone="sim-1",
    instance_type="tiny",
    gpu="tiny",
    purchase=Purchase.SPOT,
    price_per_hour_micros=1_234_567,
    currency="CNY",
)


@dataclass(frozen=True, kw_only=True)
class Rig:
    """A provider on a clock of its own, which can be made anew on what it left behind."""

    anew: Callable[[], Provider]
    clock: VirtualClock
    offer: Offer
    home: Path
    end: Callable[[str], None]  # a machine ends by itself

    def request(self, token: str, **payload: object) -> Request:
        return Request(token=token, offer=self.offer, payload={"model": "tiny", "engine": {}, **payload})

    def running(self) -> int:
        """How many machines really are up, whatever the provider says."""
        if self.offer is THIS_MACHINE:
            locks = list((self.home / "replicas").glob("*/lock"))
            # a process that has just been started has no environment for an instant
            until(lambda: len(replicas(self.home)) >= sum(map(is_held, locks)))
            return len(replicas(self.home))
        provider = self.anew()
        assert isinstance(provider, SimulatedProvider)
        return len(provider.running())


@pytest.fixture(params=["local", "simulated"])
def rig(request: pytest.FixtureRequest, home: Path) -> Rig:
    clock = VirtualClock(NOW)
    conditions = Conditions(offers=(SIMULATED,), boot_seconds=0)

    def kill(token: str) -> None:
        for process in replicas(home):
            if process.environ()["HALVE_REPLICA"] == str(home / "replicas" / token):
                process.kill()
                process.wait(5)

    if request.param == "local":
        return Rig(anew=lambda: local(home, clock=clock), clock=clock, offer=THIS_MACHINE, home=home, end=kill)

    def market() -> SimulatedProvider:
        return SimulatedProvider(clock, conditions, home / "simulated.json")

    return Rig(anew=market, clock=clock, offer=SIMULATED, home=home, end=lambda token: market().crash(token))


def listed(provider: Provider, token: str) -> Listed:
    (one,) = [one for one in provider.instances() if one.token == token]
    return one


def gone(provider: Provider, token: str) -> Listed:
    return until(lambda: one if (one := listed(provider, token)).state is State.GONE else None)


def end(provider: Provider, provider_id: str) -> None:
    """Terminate; as the loop does, again when the provider asks for that."""

    def heard() -> bool:
        with suppress(Unreachable, Throttled):
            provider.terminate(provider_id)
            return True
        return False

    until(heard)


def test_offers_are_its_own_and_priced(rig: Rig) -> None:
    provider = rig.anew()
    assert list(provider.offers()) == [rig.offer]
    assert {offer.provider for offer in provider.offers()} == {provider.name}
    assert provider.listing_deadline_seconds > 0


def test_nothing_is_listed_before_anything_was_launched(rig: Rig) -> None:
    assert list(rig.anew().instances()) == []


def test_a_token_is_one_machine_however_often_it_is_asked_for(rig: Rig) -> None:
    provider = rig.anew()
    ids = {provider.launch(rig.request("a")) for _ in range(3)} | {rig.anew().launch(rig.request("a"))}
    assert len(ids) == 1
    assert [one.token for one in provider.instances()] == ["a"]
    assert listed(provider, "a").provider_id in ids
    assert rig.running() == 1


def test_two_tokens_are_two_machines(rig: Rig) -> None:
    provider = rig.anew()
    assert provider.launch(rig.request("a")) != provider.launch(rig.request("b"))
    assert {one.token for one in provider.instances()} == {"a", "b"}
    assert rig.running() == 2


def test_a_token_is_one_machine_when_many_ask_at_once(rig: Rig) -> None:
    """Threads with providers of their own, as processes would have them: flock does not care which."""

    def ask(provider: Provider) -> str | None:
        with suppress(Throttled):  # somebody else is at it: ask again
            return provider.launch(rig.request("a"))
        return None

    with ThreadPoolExecutor(8) as threads:
        said = set(threads.map(ask, [rig.anew() for _ in range(8)])) - {None}
    assert said == {rig.anew().launch(rig.request("a"))}
    assert rig.running() == 1


LAUNCHES = """
import sys
from tests.orchestrator.test_providers import launch_from_outside
launch_from_outside(*sys.argv[1:])
"""


def launch_from_outside(kind: str, home: str) -> None:
    clock = VirtualClock(NOW)
    conditions = Conditions(offers=(SIMULATED,), boot_seconds=0)
    outside = (
        local(Path(home), clock=clock)
        if kind == "local"
        else SimulatedProvider(clock, conditions, Path(home) / "simulated.json")
    )
    offer = THIS_MACHINE if kind == "local" else SIMULATED
    print(outside.launch(Request(token="a", offer=offer, payload={"model": "tiny", "engine": {}})), flush=True)


def test_a_token_is_one_machine_from_another_process_too(rig: Rig) -> None:
    inside = rig.anew()
    command = [sys.executable, "-c", LAUNCHES, inside.name, str(rig.home)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    assert inside.launch(rig.request("a")) == said
    assert listed(inside, "a").provider_id == said
    assert listed(inside, "a").state is not State.GONE  # it has outlived the process that launched it
    assert rig.running() == 1


def test_what_others_launch_is_not_forgotten_by_whoever_came_first(rig: Rig) -> None:
    """Two deployments of one home have a provider object each."""
    one, other = rig.anew(), rig.anew()
    one.launch(rig.request("a"))
    other.launch(rig.request("b"))
    one.launch(rig.request("c"))
    for provider in (one, other, rig.anew()):
        assert {each.token for each in provider.instances()} == {"a", "b", "c"}
    assert rig.running() == 3


def test_terminate_ends_it_and_it_is_listed_with_its_times(rig: Rig) -> None:
    provider = rig.anew()
    provider_id = provider.launch(rig.request("a"))
    rig.clock.sleep(90)
    end(provider, provider_id)
    ended = gone(provider, "a")
    assert (ended.launched_at, ended.ended_at) == (NOW, NOW + timedelta(seconds=90))
    assert not ended.preempted
    rig.clock.sleep(3000)
    assert gone(rig.anew(), "a").ended_at == ended.ended_at  # and that is when it ended, whoever looks when
    assert rig.running() == 0


def test_terminating_again_or_what_never_was_is_success(rig: Rig) -> None:
    provider = rig.anew()
    provider_id = provider.launch(rig.request("a"))
    provider.terminate("m-nobody")
    provider.terminate("nobody")
    for _ in range(3):
        end(provider, provider_id)
    gone(provider, "a")
    end(rig.anew(), provider_id)
    assert [one.token for one in provider.instances()] == ["a"]


def test_launching_after_the_end_starts_nothing(rig: Rig) -> None:
    provider = rig.anew()
    provider_id = provider.launch(rig.request("a"))
    end(provider, provider_id)
    ended = gone(provider, "a")
    rig.clock.sleep(60)
    assert provider.launch(rig.request("a")) == provider_id == rig.anew().launch(rig.request("a"))
    assert listed(provider, "a") == ended
    assert rig.running() == 0


def test_a_machine_that_ends_by_itself_is_listed_as_gone_and_not_as_preempted(rig: Rig) -> None:
    provider = rig.anew()
    provider.launch(rig.request("a"))
    provider.launch(rig.request("b"))
    rig.clock.sleep(10)
    rig.end("a")
    ended = gone(provider, "a")
    assert (ended.ended_at, ended.preempted) == (NOW + timedelta(seconds=10), False)
    assert listed(provider, "b").state is not State.GONE


def test_everything_outlives_the_provider_object(rig: Rig) -> None:
    first = rig.anew()
    provider_id = first.launch(rig.request("a"))
    before = until(lambda: one if (one := listed(first, "a")).url else None)
    rig.clock.sleep(30)
    second = rig.anew()
    assert listed(second, "a") == before
    end(second, provider_id)
    assert gone(first, "a").ended_at == NOW + timedelta(seconds=30)


def test_a_home_that_cannot_be_written_is_a_typed_error(rig: Rig) -> None:
    """Nothing but ProviderError leaves a provider. A file where the folder should be stops root as well."""
    (rig.home / "replicas").write_text("in the way")
    (rig.home / "simulated.lock").mkdir()
    provider = rig.anew()
    with pytest.raises(NoCapacity if provider.name == "local" else Unreachable):
        provider.launch(rig.request("a"))
    with suppress(ProviderError):
        provider.terminate("a")
    (rig.home / "replicas").unlink()
    (rig.home / "simulated.lock").rmdir()
    provider.launch(rig.request("a"))
    assert [one.token for one in provider.instances()] == ["a"]


@contextmanager
def no_room() -> Iterator[None]:
    """As good as a full disk: no file of this process may grow."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_is_a_typed_error_and_nothing_is_half_launched(rig: Rig) -> None:
    provider = rig.anew()
    with no_room(), pytest.raises(ProviderError):
        provider.launch(rig.request("a"))
    assert rig.running() == 0
    assert all(one.state is State.GONE for one in provider.instances())
    provider.launch(rig.request("b"))
    assert rig.running() == 1


# local alone


def test_it_answers_where_it_says(home: Path) -> None:
    provider = local(home)
    provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))
    url = until(lambda: listed(provider, "a").url)
    assert httpx.get(f"{url}/healthz", trust_env=False).json()["status"] == "ready"


def test_kill_9_of_a_replica_is_seen_at_once_with_its_last_words(home: Path) -> None:
    provider = local(home)
    provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))
    (process,) = replicas(home)
    with (home / "replicas" / "a" / "engine.log").open("a") as log:
        log.write("a line\nthe last words\n\n")
    process.kill()
    process.wait(5)
    found = listed(provider, "a")
    assert (found.state, found.detail) == (State.GONE, "the last words")


def test_a_replica_that_ignores_sigterm_is_killed(home: Path) -> None:
    clock = VirtualClock(NOW)
    provider = local(home, "deaf", clock=clock)
    provider_id = provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))
    until(lambda: listed(provider, "a").url)
    end(provider, provider_id)
    clock.sleep(KILL_AFTER.total_seconds() - 1)
    end(provider, provider_id)
    (process,) = replicas(home)
    with pytest.raises(psutil.TimeoutExpired):
        process.wait(0.3)
    clock.sleep(1)
    end(provider, provider_id)
    gone(provider, "a")


def test_a_child_that_holds_on_to_the_lock_is_ended_too(home: Path) -> None:
    """The replica is killed, the process that does its work is not: it would hold its memory, and the lock, forever."""
    provider = local(home, "forks")
    provider_id = provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))
    until(lambda: listed(provider, "a").url)
    assert len(replicas(home)) == 2
    leader = next(process for process in replicas(home) if process.ppid() == os.getpid())
    leader.kill()
    leader.wait(5)
    assert listed(provider, "a").state is State.RUNNING
    end(provider, provider_id)
    gone(provider, "a")
    assert replicas(home) == []


def test_a_pid_that_was_given_out_again_is_nobody_of_ours(home: Path) -> None:
    """Every note in the folder names a stranger; the lock and the token do not."""
    stranger = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    try:
        provider = local(home)
        provider_id = provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))
        until(lambda: listed(provider, "a").url)
        (mine,) = replicas(home)
        forged = {"pid": stranger.pid, "create_time": psutil.Process(stranger.pid).create_time()}
        write_json(home / "replicas" / "a" / "process.json", forged)
        announced = read_json(home / "replicas" / "a" / "announce.json") or {}
        write_json(home / "replicas" / "a" / "announce.json", {**announced, **forged})
        end(local(home), provider_id)
        mine.wait(5)
        gone(provider, "a")
        assert stranger.poll() is None
        assert listed(local(home), "a").state is State.GONE  # the stranger does not bring it back
        end(local(home), provider_id)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_copied_home_does_not_end_what_the_original_runs(home: Path) -> None:
    """It has the same installation key, and so the same tokens."""
    copy = home / "copy"
    copy.mkdir()
    for each in (home, copy):
        local(each).launch(Request(token="a", offer=THIS_MACHINE, payload={}))
    until(lambda: len(replicas(home)) == 2)
    end(local(copy), "a")
    gone(local(copy), "a")
    assert listed(local(home), "a").state is State.RUNNING


def test_a_crash_between_the_note_and_the_start_is_a_machine_that_ended(home: Path) -> None:
    """`started.json` was written, the process never came: the token is used up, nothing runs, the listing says so."""
    folder = home / "replicas" / "a"
    folder.mkdir(parents=True)
    write_json(folder / "started.json", {"launched_at": NOW.isoformat(), "payload": {}})
    clock = VirtualClock(NOW + timedelta(seconds=5))
    provider = local(home, clock=clock)
    assert provider.launch(Request(token="a", offer=THIS_MACHINE, payload={})) == "a"
    found = listed(provider, "a")
    assert (found.state, found.launched_at, found.ended_at) == (State.GONE, NOW, NOW + timedelta(seconds=5))
    assert replicas(home) == []


def test_a_crash_before_the_note_leaves_nothing_behind(home: Path) -> None:
    (home / "replicas" / "a").mkdir(parents=True)
    (home / "replicas" / "a" / "lock").touch()
    provider = local(home)
    assert list(provider.instances()) == []
    provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))
    assert listed(provider, "a").state is State.RUNNING


def test_who_only_looks_does_not_keep_others_from_starting_for_good(home: Path) -> None:
    """The lock is taken by somebody who has not started anything: neither `launched` nor two machines."""
    folder = home / "replicas" / "a"
    folder.mkdir(parents=True)
    provider = local(home)
    with held(folder / "lock"), pytest.raises(Throttled):
        provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))
    assert list(provider.instances()) == []
    provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))
    assert listed(provider, "a").state is State.RUNNING


def test_lookers_do_not_see_each_other(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    with ThreadPoolExecutor(8) as threads:
        assert not any(threads.map(lambda _: is_held(tmp_path / "lock"), range(2000)))


def test_a_program_that_is_not_there_is_a_misconfiguration(home: Path) -> None:
    clock = VirtualClock(NOW)
    provider = LocalProvider(home, clock, THIS_MACHINE, lambda payload, announce: [str(home / "no-such-program")])
    with pytest.raises(Misconfigured, match="no-such-program"):
        provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))


def test_ended_replicas_are_forgotten_after_some_days(home: Path) -> None:
    clock = VirtualClock(NOW)
    provider = local(home, "dies", clock=clock)
    provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))
    assert gone(provider, "a").detail == "the model is not there"
    clock.sleep(KEEP_ENDED.total_seconds() + 1)
    assert list(provider.instances()) == []
    assert list((home / "replicas").iterdir()) == []


def test_a_replica_gets_none_of_the_daemons_secrets(home: Path) -> None:
    code = "import os, sys; sys.exit(' '.join(sorted(os.environ)))"
    provider = LocalProvider(
        home, VirtualClock(NOW), THIS_MACHINE, lambda payload, announce: [sys.executable, "-S", "-c", code]
    )
    os.environ["HALVE_TEST_SECRET"] = "1"
    try:
        provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))
    finally:
        del os.environ["HALVE_TEST_SECRET"]
    assert {"HALVE_REPLICA", "PATH"} <= set(gone(provider, "a").detail.split())
    assert "HALVE_TEST_SECRET" not in gone(provider, "a").detail


def test_the_engines_command_is_a_function_of_the_payload(tmp_path: Path) -> None:
    payload = {"deployment": "ocr", "model": "ppocr", "engine": {"workers": 2, "threads": 1}, "offer": "local/this"}
    again = json.loads(json.dumps(payload))
    command = engine_command(payload, tmp_path / "announce.json")
    assert command == engine_command(again, tmp_path / "announce.json")
    assert command[1:3] == ["-m", "inference"]
    assert command[-6:] == ["--model", "ppocr", "--workers", "2", "--threads", "1"]


# simulated alone


def market(clock: VirtualClock, **conditions: object) -> SimulatedProvider:
    return SimulatedProvider(clock, replace(Conditions(offers=(SIMULATED,), boot_seconds=60), **conditions))


def ask(token: str = "a", offer: Offer = SIMULATED) -> Request:
    return Request(token=token, offer=offer, payload={})


@pytest.mark.parametrize("error", [Throttled("slow down"), Unreachable("no answer"), NoCapacity("none")])
def test_an_error_before_the_effect_leaves_nothing(error: ProviderError) -> None:
    provider = market(VirtualClock(NOW))
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
    provider = market(VirtualClock(NOW))
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
        market(VirtualClock(NOW)).launch(ask(offer=replace(SIMULATED, id="simulated/elsewhere")))


def test_capacity_counts_those_that_run() -> None:
    clock = VirtualClock(NOW)
    provider = market(clock, offers=(replace(SIMULATED, capacity=1),))
    provider.launch(ask("a"))
    with pytest.raises(NoCapacity):
        provider.launch(ask("b"))
    provider.launch(ask("a"))  # it is the same one
    provider.terminate("m-a")
    provider.launch(ask("b"))
    assert provider.running() == ("b",)


def test_it_boots_is_listed_late_and_answers_when_it_has_booted() -> None:
    clock = VirtualClock(NOW)
    provider = market(clock, listing_delay_seconds=10)
    provider.launch(ask())
    assert list(provider.instances()) == []
    clock.sleep(10)
    assert (listed(provider, "a").state, provider.health("sim://a")) == (State.STARTING, None)
    assert not provider.drain("sim://a")
    clock.sleep(50)
    health = provider.health("sim://a")
    assert listed(provider, "a").state is State.RUNNING
    assert health is not None and (health.ready, health.draining) == (True, False)
    assert provider.drain("sim://a")
    health = provider.health("sim://a")
    assert health is not None and (health.ready, health.draining) == (False, True)
    assert (provider.health("sim://b"), provider.drain("sim://b")) == (None, False)


def test_an_outage_is_announced_takes_back_and_refuses_until_it_is_over() -> None:
    clock = VirtualClock(NOW)
    outage = Outage(zone="sim-1", start=NOW + timedelta(hours=1), end=NOW + timedelta(hours=2))
    provider = market(clock, outages=(outage,), notice_seconds=120)
    provider.launch(ask())
    clock.jump(outage.start - timedelta(seconds=121))
    assert listed(provider, "a").reclaim_at is None
    clock.sleep(1)
    assert listed(provider, "a").reclaim_at == outage.start
    clock.jump(outage.start + timedelta(minutes=59))  # nobody looked meanwhile
    ended = listed(provider, "a")
    assert (ended.state, ended.preempted, ended.ended_at) == (State.GONE, True, outage.start)
    with pytest.raises(NoCapacity):
        provider.launch(ask("b"))
    clock.jump(outage.end)
    provider.launch(ask("b"))
    assert provider.meter() == {"a": 1_234_567, "b": 0}


def test_the_meter_counts_every_microsecond_and_rounds_down() -> None:
    clock = VirtualClock(NOW)
    provider = market(clock)
    provider.launch(ask())
    clock.jump(NOW + timedelta(seconds=7, microseconds=3))
    assert provider.meter() == {"a": 1_234_567 * 7_000_003 // 3_600_000_000}
    assert provider.meter(NOW) == {"a": 0}
    provider.terminate("m-a")
    clock.sleep(1000)
    assert provider.meter() == {"a": 1_234_567 * 7_000_003 // 3_600_000_000}
