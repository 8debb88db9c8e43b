"""Who is believed to be a machine of ours: real watchdogs, real TLS, and consoles as EC2 tells them."""

import base64
import json
import shutil
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator.clock import VirtualClock
from orchestrator.pinning import Pins, fingerprint
from orchestrator.probes import HttpProbes
from orchestrator.providers import Listed, State
from orchestrator.providers.aws.contact import Contacts, Place, at_its_address
from orchestrator.providers.aws.provider import AwsProvider
from orchestrator.providers.aws.settings import Installation
from orchestrator.providers.aws.watch import Watch
from tests.orchestrator import aws_proxy as aws
from tests.orchestrator.aws_machine import Machine, Metadata, metadata_service, started
from tests.orchestrator.certified import certified_server, serving
from tests.orchestrator.tiny import until

pytest.importorskip("flask", reason="moto's server needs Flask")

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def clock() -> VirtualClock:
    return VirtualClock(NOW)


@pytest.fixture(scope="module")
def cloud(clock: VirtualClock) -> Iterator[aws.Cloud]:
    with aws.running(clock) as one:
        aws.furnish(one)
        yield one


@dataclass
class Rack:
    """One installation's machines of EC2 and the processes that answer for them, each where the test puts it."""

    cloud: aws.Cloud
    clock: VirtualClock
    home: Path
    metadata: Metadata
    end: ExitStack
    ports: dict[str, int] = field(default_factory=dict)  # of the watchdog that answers for a machine

    @property
    def ours(self) -> Installation:
        return Installation(str(self.home).encode())

    def contacts(self, again_seconds: float = 0) -> Contacts:
        return Contacts(Pins(self.home), self.ours.key, self.place, again_seconds=again_seconds)

    def watch(self, again_seconds: float = 0) -> Watch:
        return Watch(self.ours, self.contacts(again_seconds), ask_seconds=0)

    def provider(self) -> AwsProvider:
        """Anew, as after a restart."""
        return AwsProvider(self.home, self.clock, aws.settings(), self.ours, watch=self.watch(), spot_seconds=0)

    def place(self, machine: Listed) -> Place:
        port = self.ports.get(machine.token.partition("-")[0], 9)  # the discard port: refused at once
        return Place(engine="https://127.0.0.1:9", watchdog=f"https://127.0.0.1:{port}")

    def token(self, name: str) -> str:
        return aws.token(self.home, name)

    def launched(self, name: str) -> str:
        """Only EC2 knows it yet."""
        return aws.bare(self.provider().launch(aws.request(self.token(name))))

    def machine(self, name: str, folder: Path, **own: object) -> tuple[str, Machine]:
        """A machine that has started as its user data says."""
        instance_id = self.launched(name)
        machine = self.boot(folder, **own)
        self.ports[name] = machine.port
        self.cloud.consoles[instance_id] = machine.console
        until(lambda: machine.console.exists() and machine.console.read_text(), why="it never said who it is")
        return instance_id, machine

    def boot(self, folder: Path, **own: object) -> Machine:
        sent = base64.b64decode(self.cloud.sent[-1]["UserData"]).decode()
        machine = started(folder, sent, self.metadata.url, **own)  # type: ignore[arg-type]  # port, or what is told
        self.end.callback(machine.kill)
        return machine

    def listed(self, name: str) -> Listed:
        """As EC2 lists it, to whom nobody has spoken."""
        provider = AwsProvider(self.home, self.clock, aws.settings(), self.ours, watch=aws.Unwatched())
        return self.sees(name, provider)

    def sees(self, name: str, provider: AwsProvider | None = None) -> Listed:
        (found,) = [one for one in (provider or self.provider()).instances() if one.token == self.token(name)]
        return found


@pytest.fixture
def rack(cloud: aws.Cloud, clock: VirtualClock, home: Path) -> Iterator[Rack]:
    cloud.refusals.clear()
    cloud.consoles.clear()
    with ExitStack() as end:
        rack = Rack(cloud, clock, home, end.enter_context(metadata_service()), end)
        yield rack
        for one in rack.provider().instances():
            rack.provider().terminate(one.provider_id)


def is_refused(rack: Rack, why: str, caplog: pytest.LogCaptureFixture, provider: AwsProvider | None = None) -> bool:
    """It is not believed, and not only because it did not answer in time."""
    assert rack.sees("a", provider).url is None
    return why in caplog.text


def names(certificate: str) -> str:
    """What a console says of it."""
    return f"[  12.3] some driver\nhalve-certificate-sha256 {fingerprint(ssl.PEM_cert_to_DER_cert(certificate))}\r\n"


def test_a_machine_is_believed_when_its_console_names_its_certificate(rack: Rack, tmp_path: Path) -> None:
    _, machine = rack.machine("a", tmp_path / "m", lease_seconds=600)
    held = machine.lease_until()
    seen = until(lambda: one if (one := rack.sees("a")).url else None, why="it was never believed")
    assert seen.url == "https://127.0.0.1:9"  # its engine's, which is told to nobody before
    until(lambda: rack.sees("a") and machine.lease_until() > held, why="its lease is not renewed")


def test_it_is_met_once_and_known_ever_after(rack: Rack, tmp_path: Path) -> None:
    instance_id, machine = rack.machine("a", tmp_path / "m")
    until(lambda: rack.sees("a").url)
    asked = rack.cloud.calls.count(("ec2", "GetConsoleOutput"))
    machine.console.write_text("")  # 64 KB later
    assert rack.sees("a").url  # to a daemon that was started again
    assert rack.cloud.calls.count(("ec2", "GetConsoleOutput")) == asked
    rack.cloud.take_back(instance_id)
    assert rack.sees("a").url is None
    assert Pins(rack.home).of(instance_id) is None  # its address may be another's by now


def test_nothing_is_said_to_who_is_not_known_yet(rack: Rack, tmp_path: Path) -> None:
    """A console without a name, a broken line, and none at all: the machine still boots."""
    _, machine = rack.machine("a", tmp_path / "m", say_seconds=600)
    whole = machine.console.read_text()
    held = machine.lease_until()
    for said in ("", whole[:60], whole.replace("sha256 ", "sha256 [  1.2] usb 1-1: new device "), "halve"):
        machine.console.write_text(said)
        assert rack.sees("a").url is None
    assert machine.lease_until() == held
    machine.console.write_text(f"login: {whole}Ubuntu")
    until(lambda: rack.sees("a").url)


def test_a_machine_in_the_middle_is_found_out(rack: Rack, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It answers at the address with a certificate of its own, whatever it passes on to whom."""
    instance_id, machine = rack.machine("a", tmp_path / "m")
    held = machine.lease_until()
    tls, certificate = certified_server(tmp_path, "middle", rack.ours.certificate)
    tls.verify_mode = ssl.CERT_NONE
    with serving(tls) as middle:
        rack.ports["a"] = middle.server_port
        for _ in range(2):
            until(lambda: is_refused(rack, "Somebody may be in between", caplog))
        assert instance_id in caplog.text
        assert fingerprint(ssl.PEM_cert_to_DER_cert(certificate)) in caplog.text
        assert middle.heard == []  # no word of ours went there
    assert machine.lease_until() == held
    rack.ports["a"] = machine.port
    assert until(lambda: rack.sees("a").url)


def test_the_machine_in_the_middle_later_is_not_spoken_to(rack: Rack, tmp_path: Path) -> None:
    _, machine = rack.machine("a", tmp_path / "m")
    until(lambda: rack.sees("a").url)
    machine.kill()
    tls, certificate = certified_server(tmp_path, "middle", rack.ours.certificate)
    tls.verify_mode = ssl.CERT_NONE
    machine.console.write_text(names(certificate))  # even if it could speak on the console
    with serving(tls, machine.port) as middle:
        rack.sees("a")
        assert middle.heard == []


def test_another_machine_of_ours_is_not_this_one(rack: Rack, tmp_path: Path) -> None:
    rack.machine("a", tmp_path / "a")
    _, other = rack.machine("b", tmp_path / "b")
    rack.ports["a"] = other.port
    assert rack.sees("a").url is None
    assert until(lambda: rack.sees("b").url)


def test_a_console_with_two_names_is_nobodys(rack: Rack, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, machine = rack.machine("a", tmp_path / "m")
    _, another = certified_server(tmp_path, "another", rack.ours.certificate)
    machine.console.write_text(names(another) + names(machine.certificate.read_text()))
    until(lambda: is_refused(rack, "aws ec2 terminate-instances", caplog))


def test_a_watchdog_that_starts_again_keeps_its_key(rack: Rack, tmp_path: Path) -> None:
    _, machine = rack.machine("a", tmp_path / "m", lease_seconds=600)
    until(lambda: rack.sees("a").url)
    machine.kill()
    again = rack.boot(machine.folder, port=machine.port, lease_seconds=600)
    held = again.lease_until()
    until(lambda: rack.sees("a") and again.lease_until() > held, why="its lease was never renewed")


def test_a_machine_with_a_new_key_is_not_the_one_we_know(rack: Rack, tmp_path: Path) -> None:
    """Its lease is not renewed, so it ends; a batch or a page never goes there."""
    _, machine = rack.machine("a", tmp_path / "m", lease_seconds=600)
    until(lambda: rack.sees("a").url)
    machine.kill()
    shutil.rmtree(machine.folder / "tls")
    again = rack.boot(machine.folder, port=machine.port, lease_seconds=600)
    until(again.certificate.exists)
    until(lambda: again.console.read_text().count("\n") > 2)
    held = again.lease_until()
    provider = rack.provider()
    for _ in range(3):
        rack.sees("a", provider)
    assert again.lease_until() == held
    with closing(HttpProbes(Pins(rack.home).transport())) as probes:
        assert probes.health(again.url) is None


def test_a_console_that_may_not_be_read_is_said(rack: Rack, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rack.machine("a", tmp_path / "m")
    rack.cloud.refuse("GetConsoleOutput", "UnauthorizedOperation", 403)
    provider = rack.provider()
    until(lambda: is_refused(rack, "UnauthorizedOperation", caplog, provider))
    assert "halve aws check" in caplog.text
    assert until(lambda: rack.sees("a", provider).url)


def test_a_machine_without_nitro_tells_its_console_later(rack: Rack, tmp_path: Path) -> None:
    rack.machine("a", tmp_path / "m")
    rack.cloud.refuse("GetConsoleOutput", "UnsupportedOperation")
    assert until(lambda: rack.sees("a").url)


def test_a_console_is_not_asked_for_with_every_look(rack: Rack, tmp_path: Path) -> None:
    _, machine = rack.machine("a", tmp_path / "m", say_seconds=600)
    machine.console.write_text("")
    watch = rack.watch(again_seconds=600)
    before = rack.cloud.calls.count(("ec2", "GetConsoleOutput"))
    (one,) = watch.over([rack.listed("a")])
    for _ in range(5):
        (one,) = watch.over([rack.listed("a")])
    assert one.url is None
    assert rack.cloud.calls.count(("ec2", "GetConsoleOutput")) == before + 1


def test_a_notice_on_the_machine_is_heard_and_the_earliest_moment_counts(rack: Rack, tmp_path: Path) -> None:
    _, machine = rack.machine("a", tmp_path / "m", lease_seconds=600)
    rack.metadata.documents["spot/instance-action"] = {"action": "terminate", "time": "2026-11-20T12:02:00Z"}
    noticed = datetime(2026, 11, 20, 12, 2, tzinfo=UTC)
    later = datetime(2026, 11, 20, 12, 5, tzinfo=UTC)
    watch = rack.watch()
    listed = rack.listed("a")

    def heard() -> Listed | None:
        (one,) = watch.over([listed])
        return one if one.reclaim_at is not None else None

    assert until(heard).reclaim_at == noticed
    until((tmp_path / "m" / "notices.json").exists)  # for the engine, whose /healthz says it too
    said = json.loads((tmp_path / "m" / "notices.json").read_text())
    assert said == {"reclaim_at": "2026-11-20T12:02:00Z", "rebalance_at": None}
    assert [one.reclaim_at for one in watch.over([replace(listed, reclaim_at=later)])] == [noticed]
    rack.metadata.documents.clear()
    machine.kill()  # it was said once, and nothing takes it back
    assert [one.reclaim_at for one in watch.over([listed])] == [noticed]
    assert [one.reclaim_at for one in watch.over([replace(listed, state=State.GONE)])] == [None]


def test_a_recommendation_on_the_machine_is_heard_and_is_no_notice(rack: Rack, tmp_path: Path) -> None:
    rack.machine("a", tmp_path / "m", lease_seconds=600)
    rack.metadata.documents["events/recommendations/rebalance"] = {"noticeTime": "2026-11-20T12:00:00Z"}
    watch = rack.watch()

    def heard() -> Listed | None:
        (one,) = watch.over([rack.listed("a")])
        return one if one.rebalance_at is not None else None

    found = until(heard)
    assert (found.reclaim_at, found.rebalance_at) == (None, datetime(2026, 11, 20, 12, tzinfo=UTC))
    rack.metadata.documents.clear()
    assert heard() == found  # nothing takes it back


def test_silence_and_strange_answers_are_no_notice(rack: Rack) -> None:
    watch = rack.watch()
    rack.launched("a")
    listed = rack.listed("a")
    rack.ports["a"] = int(rack.metadata.url.rpartition(":")[2])  # it speaks, but not TLS
    for one in (listed, replace(listed, url=None)):
        assert watch.over([one]) == [replace(one, url=None)]


def test_where_a_machine_listens(rack: Rack) -> None:
    rack.launched("a")
    listed = replace(rack.listed("a"), url="https://192.0.2.1:7860")
    assert at_its_address(listed) == Place(engine="https://192.0.2.1:7860", watchdog="https://192.0.2.1:7861")
