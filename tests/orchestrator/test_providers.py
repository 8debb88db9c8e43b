"""One suite for every provider."""

import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psutil
import pytest

from orchestrator.clock import VirtualClock
from orchestrator.providers import (
    NO_TAGS,
    Listed,
    NoCapacity,
    Provider,
    ProviderError,
    Request,
    State,
    Tags,
    Throttled,
    Unreachable,
    tags_of,
)
from orchestrator.providers.local import is_held
from orchestrator.providers.simulated import Conditions, SimulatedProvider
from orchestrator.providers.ssh.host import installation, known
from policies.snapshot import Offer, Purchase
from tests.orchestrator import aws_proxy as aws
from tests.orchestrator.sshd import offer_of, reached, ssh
from tests.orchestrator.tiny import THIS_MACHINE, end_all, living, local, replicas, until

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
    far: Path  # where its replicas are kept
    full: Callable[[], AbstractContextManager[None]]  # there is no room, on a disk or in a cloud, that a launch needs
    cloud: aws.Cloud | None = None

    def request(self, token: str, **payload: object) -> Request:
        said = {"deployment": "ocr", "offer": self.offer.id, "digest": "first", "model": "tiny", "engine": {}}
        return Request(token=token, offer=self.offer, payload={**said, **payload})

    def running(self) -> int:
        """How many machines really are up, whatever the provider says."""
        if self.offer.purchase is Purchase.OWNED:
            locks = list((self.far / "replicas").glob("*/lock"))
            # a process that has just been started has no environment for an instant
            until(lambda: len(replicas(self.far)) >= sum(map(is_held, locks)))
            return len(replicas(self.far))
        if self.cloud is not None:
            return len(self.cloud.alive())
        provider = self.anew()
        assert isinstance(provider, SimulatedProvider)
        return len(provider.running())


@pytest.fixture(params=["local", "simulated", "ssh", "aws"])
def rig(request: pytest.FixtureRequest, home: Path) -> Iterator[Rig]:
    clock = VirtualClock(NOW)
    if request.param == "aws":
        pytest.importorskip("flask", reason="moto's server needs Flask")
        with aws.running(clock) as cloud:
            yield aws_rig(cloud, home, clock)
        return
    conditions = Conditions(offers=(SIMULATED,), boot_seconds=0)

    def market() -> SimulatedProvider:
        return SimulatedProvider(clock, conditions, home / "simulated.json")

    if request.param == "simulated":
        crash = lambda token: market().crash(token)  # noqa: E731
        yield Rig(anew=market, clock=clock, offer=SIMULATED, home=home, end=crash, far=home, full=no_room)
    elif request.param == "local":
        kill = partial(kill_replica, home)
        anew = partial(local, home, clock=clock)
        yield Rig(anew=anew, clock=clock, offer=THIS_MACHINE, home=home, end=kill, far=home, full=no_room)
    else:
        box = request.getfixturevalue("box")
        far = box.far / "homes" / installation(home)
        anew = partial(ssh, home, box.host(), clock=clock)
        reached(anew())
        yield Rig(
            anew=anew,
            clock=clock,
            offer=offer_of(box.host()),
            home=home,
            end=partial(kill_replica, far),
            far=far,
            full=partial(no_room_there, far),
        )
        end_all(far)


def aws_rig(cloud: aws.Cloud, home: Path, clock: VirtualClock) -> Rig:
    """One machine type in one zone, on demand: the only offer is the suite's."""
    aws.furnish(cloud)
    cloud.spot_prices.clear()
    subnet = cloud.subnet("us-east-1a")
    anew = partial(aws.provider, home, clock, subnets=(subnet,))

    @contextmanager
    def full() -> Iterator[None]:
        cloud.refuse("RunInstances", "InsufficientInstanceCapacity", 500)
        yield

    return Rig(
        anew=anew,
        clock=clock,
        offer=aws.offer(purchase=Purchase.ON_DEMAND),
        home=home,
        end=lambda token: cloud.shut_down(cloud.of_token(token)),
        far=home,
        full=full,
        cloud=cloud,
    )


def kill_replica(far: Path, token: str) -> None:
    for process in replicas(far):
        if process.environ()["HALVE_REPLICA"] == str(far / "replicas" / token):
            process.kill()
            until(lambda one=process: not one.is_running() or one.status() == psutil.STATUS_ZOMBIE)


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


def test_it_says_by_which_terms_it_bills(rig: Rig) -> None:
    terms = rig.anew().terms
    assert terms == rig.anew().terms
    assert terms.minimum_seconds >= 0 <= terms.disk_per_hour_micros


@pytest.mark.parametrize("since", [datetime(1970, 1, 1, tzinfo=UTC), NOW - timedelta(hours=1), NOW])
def test_its_prices_are_those_of_its_offers_each_in_force_since_a_moment(rig: Rig, since: datetime) -> None:
    provider = rig.anew()
    known = provider.prices(since)
    if known is None:  # it keeps no history
        return
    assert [one.effective_at for one in known] == sorted(one.effective_at for one in known)
    assert all(one.effective_at <= rig.clock.now() for one in known)
    first = {one.offer_id: one.effective_at for one in reversed(known)}
    assert all(at <= since for at in first.values())
    now = {one.offer_id: (one.price_per_hour_micros, one.currency) for one in known}
    assert now == {one.id: (one.price_per_hour_micros, one.currency) for one in provider.offers()}


def test_a_machine_bears_the_tags_of_its_launch_for_good(rig: Rig) -> None:
    provider = rig.anew()
    request = rig.request("a", deployment="read", digest="second")
    provider_id = provider.launch(request)
    assert listed(provider, "a").tags == Tags(deployment="read", offer_id=rig.offer.id, digest="second")
    assert listed(rig.anew(), "a").tags == tags_of(request.payload)
    provider.launch(rig.request("a", digest="third"))  # it is the same machine
    end(provider, provider_id)
    assert gone(rig.anew(), "a").tags == tags_of(request.payload)


def test_a_machine_that_was_told_nothing_has_no_tags(rig: Rig) -> None:
    rig.anew().launch(Request(token="a", offer=rig.offer, payload={}))
    assert listed(rig.anew(), "a").tags == NO_TAGS


def test_a_running_machine_is_neither_stopped_nor_over(rig: Rig) -> None:
    rig.anew().launch(rig.request("a"))
    found = until(lambda: one if (one := listed(rig.anew(), "a")).state is State.RUNNING else None)
    assert (found.launched_at, found.stopped_at, found.ended_at) == (NOW, None, None)


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
    clock, path = VirtualClock(NOW), Path(home)
    outside: Provider
    if kind == "local":
        outside, offer = local(path, clock=clock), THIS_MACHINE
    elif kind == "aws":
        outside, offer = aws.provider(path, clock), aws.offer(purchase=Purchase.ON_DEMAND)
    elif kind == "ssh":
        (host,) = known(path)
        outside, offer = ssh(path, host, clock=clock), offer_of(host)
    else:
        conditions = Conditions(offers=(SIMULATED,), boot_seconds=0)
        outside, offer = SimulatedProvider(clock, conditions, path / "simulated.json"), SIMULATED
    print(outside.launch(Request(token="a", offer=offer, payload={"model": "tiny", "engine": {}})), flush=True)


def test_a_token_is_one_machine_from_another_process_too(rig: Rig) -> None:
    inside = rig.anew()
    command = [sys.executable, "-c", LAUNCHES, inside.name, str(rig.home)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout.strip()
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
    if rig.cloud is not None:
        pytest.skip("no launch on AWS needs this machine's disk; test_aws has what its memory needs of it")
    (rig.far / "replicas").write_text("in the way")
    (rig.home / "simulated.lock").mkdir()
    provider = rig.anew()
    with pytest.raises(Unreachable if provider.name == "simulated" else NoCapacity):
        provider.launch(rig.request("a"))
    with suppress(ProviderError):
        provider.terminate("a")
    (rig.far / "replicas").unlink()
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


@contextmanager
def no_room_there(far: Path) -> Iterator[None]:
    """The same for the agent on the host, which is a process of this machine."""
    (agent,) = [one for one in living(far) if "orchestrator.providers.ssh.agent" in one.cmdline()]
    _, most = agent.rlimit(psutil.RLIMIT_FSIZE)
    agent.rlimit(psutil.RLIMIT_FSIZE, (0, most))
    try:
        yield
    finally:
        agent.rlimit(psutil.RLIMIT_FSIZE, (most, most))


def test_a_full_disk_is_a_typed_error_and_nothing_is_half_launched(rig: Rig) -> None:
    provider = rig.anew()
    with rig.full(), pytest.raises(ProviderError):
        provider.launch(rig.request("a"))
    assert rig.running() == 0
    assert all(one.state is State.GONE for one in provider.instances())
    provider.launch(rig.request("b"))
    assert rig.running() == 1
