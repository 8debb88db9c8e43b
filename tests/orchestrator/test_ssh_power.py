"""Hosts that are switched on and off by a command, and what they cost."""

import asyncio
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.providers import NoCapacity, State, Throttled, Unreachable
from orchestrator.providers.ssh import power
from orchestrator.providers.ssh.host import Files, Host
from orchestrator.providers.ssh.provider import SshProvider
from tests.orchestrator.sshd import Server, reached, server, ssh
from tests.orchestrator.test_ssh_troubles import answering, gone, listed, request, terminated
from tests.orchestrator.tiny import replicas, until

pytest.importorskip("asyncssh", reason="needs asyncssh: pip install 'halve[ssh]'")
from orchestrator.providers.ssh.switch import SPARE_SECONDS

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def rented(tmp_path: Path) -> Iterator[Server]:
    """A host with switches; it is on, and nobody of us has switched it on."""
    with server(tmp_path / "rented") as one:
        yield one


def host(rented: Server) -> Host:
    return rented.host(**rented.switches())


def launched(provider: SshProvider, to: Host, token: str) -> str:
    """The machine's id, asked for as the loop does: again while it is to be asked again."""

    def ask() -> str | None:
        try:
            return provider.launch(request(to, token))
        except (Throttled, Unreachable):
            return None

    return str(until(ask, why=f"{token} is not launched"))


def test_what_is_off_is_offered_switched_on_and_charged_from_then_on(home: Path, rented: Server) -> None:
    provider = ssh(home, host(rented))
    rented.kill()
    until(lambda: offered(provider))  # off, and there is a way to switch it on
    before = datetime.now(UTC)
    with pytest.raises(Throttled, match="being switched on"):
        provider.launch(request(host(rented), "a"))
    launched(provider, host(rented), "a")
    answering(provider, "a")
    (machine,) = provider.instances()
    assert rented.switched() == ["on"]
    on_at = datetime.fromtimestamp((rented.folder / "switched").stat().st_mtime, UTC) + timedelta(seconds=0.1)
    assert before <= machine.launched_at <= on_at  # not from when it was at last up and installed


def offered(provider: SshProvider) -> int:
    try:
        return len(provider.offers())
    except Unreachable:
        return 0


def test_the_charge_ends_when_stop_has_succeeded_and_not_before(home: Path, rented: Server) -> None:
    provider = reached(ssh(home, host(rented)))
    provider_id = launched(provider, host(rented), "a")
    answering(provider, "a")
    (rented.folder / "broken").touch()
    until(lambda: terminated(provider, provider_id))
    found = until(lambda: one if (one := listed(provider, "a")) and "out of order" in one.detail else None)
    assert (found.state, found.ended_at) == (State.RUNNING, None)  # its engine is over, its rent is not
    mended = datetime.now(UTC)
    (rented.folder / "broken").unlink()
    ended = gone(provider, "a")
    assert ended.ended_at is not None
    assert mended <= ended.ended_at <= datetime.now(UTC)
    assert rented.switched()[-2:] == ["off", "off"]
    assert gone(ssh(home, host(rented)), "a") == ended
    assert provider.launch(request(host(rented), "a")) == provider_id  # it is over: nothing is switched on for it
    assert rented.switched()[-1] == "off"
    # and when it is on again, that is still when it ended
    launched(provider, host(rented), "b")
    answering(provider, "b")
    assert gone(provider, "a").ended_at == ended.ended_at
    assert rented.switched()[-1] == "on"


def test_one_that_cannot_be_reached_any_more_is_switched_off_all_the_same(home: Path, rented: Server) -> None:
    provider = reached(ssh(home, host(rented)))
    provider_id = launched(provider, host(rented), "a")
    answering(provider, "a")
    rented.kill()

    def is_lost() -> bool:
        try:
            provider.terminate(provider_id)
        except Unreachable:
            return True
        return False

    until(is_lost)
    assert gone(provider, "a").ended_at is not None
    assert rented.switched() == ["off"]


def test_it_stays_on_while_another_replica_runs_there(home: Path, rented: Server) -> None:
    provider = reached(ssh(home, host(rented)))
    first = launched(provider, host(rented), "a")
    second = launched(provider, host(rented), "b")
    answering(provider, "a")
    answering(provider, "b")
    until(lambda: terminated(provider, first))
    ended = gone(provider, "a").ended_at  # it is another's host now: nobody waits for its being switched off
    time.sleep(2.5)  # longer than the link takes to notice
    assert rented.switched() == []
    until(lambda: terminated(provider, second))
    last = gone(provider, "b").ended_at
    assert ended is not None
    assert last is not None
    assert (last - ended).total_seconds() > 2.5
    assert gone(provider, "a").ended_at == ended
    assert rented.switched() == ["off"]


@pytest.mark.slow
def test_what_ended_by_itself_costs_until_its_idle_host_is_off(home: Path, rented: Server) -> None:
    provider = reached(ssh(home, host(rented)))
    launched(provider, host(rented), "a")
    answering(provider, "a")
    (replica,) = replicas(rented.far)
    replica.kill()
    first = gone(provider, "a")
    assert rented.switched() == []  # it may be launched again at once, on a host that is up
    launched(provider, host(rented), "b")
    answering(provider, "b")
    (machine,) = [one for one in provider.instances() if one.token == "b"]
    assert machine.launched_at == first.ended_at  # nothing that was paid for is on nobody's charge
    (replica,) = replicas(rented.far)
    replica.kill()
    by_itself = gone(provider, "b").ended_at
    until(lambda: gone(provider, "b").ended_at != by_itself, 200)
    last = gone(provider, "b").ended_at
    assert rented.switched() == ["off"]
    assert by_itself is not None
    assert last is not None
    assert (last - by_itself).total_seconds() >= SPARE_SECONDS - 5
    assert gone(provider, "a").ended_at == first.ended_at


def test_a_host_that_is_not_switched_on_is_no_capacity_and_is_asked_again(home: Path, rented: Server) -> None:
    provider = ssh(home, host(rented))
    rented.kill()
    until(lambda: offered(provider))
    (rented.folder / "broken").touch()
    with pytest.raises(Throttled):
        provider.launch(request(host(rented), "a"))

    def refused() -> str:
        found = Files.of(home, host(rented).name).commands_log
        return found.read_text() if found.exists() else ""

    until(lambda: "ended with 3" in refused())
    until(lambda: offered(provider))
    with pytest.raises((Throttled, NoCapacity)):
        provider.launch(request(host(rented), "a"))
    (rented.folder / "broken").unlink()
    launched(provider, host(rented), "a")
    answering(provider, "a")
    assert "s3cr3t" not in refused()
    assert "token=***" in refused()


def test_commands_see_no_shell_and_end_in_time(tmp_path: Path) -> None:
    log = tmp_path / "commands.log"

    def ran(*argv: str, seconds: float = 120.0) -> str | None:
        return asyncio.run(power.command(argv, seconds, log, NOW))

    print_arguments = "import sys; print(sys.argv[1:])"
    assert ran(sys.executable, "-c", print_arguments, "$HOME; touch x", "`id`") is None
    assert "2026-11-20 12:00:00 ['$HOME; touch x', '`id`']" in log.read_text()
    assert ran("/of/nobody") == "/of/nobody: No such file or directory"
    assert ran("false") == "false ended with 1"
    started = time.monotonic()
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(280)'])"
    assert ran(sys.executable, "-c", child, seconds=1.0) == f"{sys.executable} was not done within 1 s"
    assert time.monotonic() - started < 140


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("token=abc123 ok", "token=*** ok"),
        ('{"api_key": "abc", "id": 7}', '{"api_key": "***", "id": 7}'),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("--password hunter2 --host box", "--password *** --host box"),
        ("https://me:hunter2@example.org/x", "https://me:***@example.org/x"),
        ("the value is 0123456789 here", "the value is *** here"),
        ("nothing of the kind: 17 boxes", "nothing of the kind: 17 boxes"),
    ],
)
def test_secrets_are_masked(said: str, shown: str) -> None:
    assert power.masked(said, {"VENDOR_TOKEN": "0123456789", "HOME": "boxes"}) == shown


def test_what_is_kept_of_its_power_survives_what_it_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "power.json"
    assert power.read(path) == power.Power()
    power.keep(path, power.Power(on_since=NOW.isoformat(), ending=["a"]))
    assert power.read(path) == power.Power(on_since=NOW.isoformat(), ending=["a"])
    path.write_text('{"of": "a later version"}')
    assert power.read(path) == power.Power()
    assert [left.name for left in tmp_path.iterdir()] == ["power.json"]
