"""Hosts reached by ssh, and what may happen to them: real sshd processes, killed, frozen, replaced, filled up."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from orchestrator.clock import SystemClock
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
from orchestrator.providers.ssh import wheel
from orchestrator.providers.ssh.host import Files, Host, installation
from orchestrator.providers.ssh.link import Link
from tests.orchestrator.sshd import Server, offer_of, reached, server, ssh
from tests.orchestrator.tiny import fill, living, replicas, small_disk, until

pytest.importorskip("asyncssh", reason="needs asyncssh: pip install 'halve[ssh]'")
from orchestrator.providers.ssh import keys


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Server]:
    """A host that a test may do anything to."""
    with server(tmp_path / "own") as one:
        yield one


def request(host: Host, token: str, **payload: object) -> Request:
    said = {"deployment": "ocr", "offer": offer_of(host).id, "digest": "first"}
    return Request(token=token, offer=offer_of(host), payload={**said, **payload})


def listed(provider: Provider, token: str) -> Listed | None:
    with suppress(Unreachable):
        return next((one for one in provider.instances() if one.token == token), None)
    return None


def answering(provider: Provider, token: str) -> str:
    """Its address, once it answers there."""

    def url() -> str | None:
        found = listed(provider, token)
        if found is None or found.url is None:
            return None
        with suppress(httpx.HTTPError):
            return found.url if httpx.get(f"{found.url}/healthz", trust_env=False).is_success else None
        return None

    return str(until(url, why=f"{token} does not answer"))


def gone(provider: Provider, token: str, seconds: float = 60.0) -> Listed:
    def over() -> Listed | None:
        found = listed(provider, token)
        return found if found is not None and found.state is State.GONE else None

    found = until(over, seconds, f"{token} is not gone")
    assert isinstance(found, Listed)
    return found


def agents(own: Server) -> list[psutil.Process]:
    """Those of ours that run on a host."""
    found = []
    for one in own.running():
        with suppress(psutil.Error):
            if "orchestrator.providers.ssh.agent" in one.cmdline():
                found.append(one)
    return found


def launched(provider: Provider, asked: Request) -> bool:
    """Whether it took it; a connection that was lost may not be known for lost yet."""
    with suppress(Throttled, Unreachable):
        provider.launch(asked)
        return True
    return False


def there(own: Server, home: Path) -> Path:
    return own.far / "homes" / installation(home)


# keys


def test_a_host_whose_key_nobody_has_confirmed_is_not_talked_to(home: Path, own: Server) -> None:
    provider = ssh(home, own.host())
    keys.forget(home, own.host())
    with pytest.raises(Unreachable, match=r"nobody has confirmed the key of .*: halve hosts trust"):
        provider.offers()
    with pytest.raises(Misconfigured):
        provider.launch(request(own.host(), "a"))
    assert not own.far.exists()


def test_a_changed_key_is_refused_in_a_line_that_names_the_file_and_the_remedy(home: Path, own: Server) -> None:
    provider = reached(ssh(home, own.host()))
    provider.launch(request(own.host(), "a"))
    answering(provider, "a")
    own.kill()
    own.new_host_key()
    own.start()

    def refused() -> str:
        try:
            provider.instances()
        except Unreachable as error:
            return str(error)
        return ""

    words = until(lambda: said if "known_hosts" in (said := refused()) else "")
    name = own.host().name
    assert f"the key of {name} is not the one in {home}/hosts/known_hosts:1" in words
    assert words.endswith(f"halve hosts trust {name}")
    assert "\n" not in words
    with pytest.raises(Misconfigured, match="known_hosts:1"):
        provider.launch(request(own.host(), "b"))
    keys.trust(home, own.host(), keys.offered(own.host()))
    answering(provider, "a")  # it has run on all the time
    assert len(replicas(there(own, home))) == 1


# the connection


def test_sshd_killed_in_the_middle_of_calls_launches_nothing_twice(home: Path, own: Server) -> None:
    provider = reached(ssh(home, own.host()))
    tokens = [f"t{number}" for number in range(4)]
    strange: list[BaseException] = []
    ended = threading.Event()

    def call() -> None:
        while not ended.is_set():
            for token in tokens:
                try:
                    provider.launch(request(own.host(), token))
                    provider.instances()
                except ProviderError:
                    pass
                except BaseException as error:
                    strange.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    try:
        for _ in range(4):
            time.sleep(0.3)
            own.kill()
            own.start()
    finally:
        ended.set()
        caller.join(60)
    assert strange == []
    until(lambda: reached(provider))
    for token in tokens:
        until(partial(launched, provider, request(own.host(), token)))
        answering(provider, token)
    far = there(own, home)
    assert sorted(Path(one.environ()["HALVE_REPLICA"]).name for one in replicas(far)) == tokens
    assert {one.token for one in provider.instances()} == set(tokens)


@pytest.mark.slow
def test_a_connection_that_is_cut_for_a_while_is_unreachable_and_then_as_it_was(home: Path, own: Server) -> None:
    provider = reached(ssh(home, own.host()))
    provider.launch(request(own.host(), "a"))
    url = answering(provider, "a")
    (before,) = provider.instances()
    own.freeze()
    try:

        def is_unreachable() -> bool:
            try:
                provider.instances()
            except Unreachable:
                return True
            return False

        until(is_unreachable, 60)
        for call in (lambda: provider.launch(request(own.host(), "b")), lambda: provider.terminate(before.provider_id)):
            started = time.monotonic()
            with pytest.raises(Unreachable):
                call()
            assert time.monotonic() - started < 120
    finally:
        own.thaw()
    assert answering(provider, "a") == url
    assert provider.instances() == (before,)
    assert len(replicas(there(own, home))) == 1


def test_of_two_hosts_one_is_lost_with_all_on_it(home: Path, own: Server, tmp_path: Path) -> None:
    with server(tmp_path / "other") as other:
        provider = reached(ssh(home, own.host(), other.host()), hosts=2)
        provider.launch(request(own.host(), "a"))
        provider.launch(request(other.host(), "b"))
        answering(provider, "a")
        url = answering(provider, "b")
        own.lose()
        until(lambda: [one.zone for one in provider.offers()] == [other.host().name])
        known = {one.token: one for one in provider.instances()}
        assert known["a"].state is State.RUNNING  # as it was last seen: nobody says that it is over
        assert known["b"].url == url
        assert httpx.get(f"{url}/healthz", trust_env=False).is_success
        with pytest.raises(Unreachable):
            provider.terminate(known["a"].provider_id)
        own.start()
        assert gone(provider, "a").launched_at == known["a"].launched_at
        until(lambda: len(provider.offers()) == 2)


def test_the_link_serves_on_while_nobody_asks_and_its_ports_stay(home: Path, own: Server) -> None:
    """The door knows addresses only: they must hold while the daemon is away, and after the link itself was killed."""
    name = own.host().name
    first = reached(ssh(home, own.host()))
    first.launch(request(own.host(), "a"))
    url = answering(first, "a")
    first.close()
    before = Link(home, name).running()
    second = ssh(home, own.host())
    assert answering(second, "a") == url
    assert Link(home, name).running() == before  # adopted, not opened anew
    assert before is not None
    os.kill(before.pid, signal.SIGKILL)
    assert answering(second, "a") == url
    after = Link(home, name).running()
    assert after is not None
    assert after.pid != before.pid


def test_a_replica_is_reached_through_the_connection_and_on_loopback_alone(home: Path, own: Server) -> None:
    provider = reached(ssh(home, own.host()))
    provider.launch(request(own.host(), "a"))
    url = answering(provider, "a")
    (replica,) = replicas(there(own, home))
    link = Link(home, own.host().name).running()
    assert link is not None
    (far,) = listening(replica)
    near = listening(psutil.Process(link.pid))
    assert (far[0], {host for host, _ in near}) == ("127.0.0.1", {"127.0.0.1"})
    port = int(url.rpartition(":")[2])
    assert port != far[1] and ("127.0.0.1", port) in near  # the door knows no port of the host's


def listening(process: psutil.Process) -> list[tuple[str, int]]:
    return [(one.laddr.ip, one.laddr.port) for one in process.net_connections() if one.status == psutil.CONN_LISTEN]


def test_a_note_of_another_life_of_the_pid_is_not_believed(home: Path, own: Server) -> None:
    provider = reached(ssh(home, own.host()))
    link = Link(home, own.host().name)
    note = Files.of(home, own.host().name).process
    assert oct(note.stat().st_mode & 0o777) == "0o600"
    assert oct(note.parent.stat().st_mode & 0o777) == "0o700"
    said = read_json(note)
    assert said is not None
    write_json(note, {**said, "birth": "00000000-1"})
    assert link.running() is None
    write_json(note, said)
    assert link.running() is not None
    wrong = httpx.post(f"http://127.0.0.1:{said['port']}/look", json={}, headers={"X-Halve-Word": "x"}, trust_env=False)
    assert wrong.status_code == 403
    assert provider.offers()


@pytest.mark.slow
def test_links_leave_when_nothing_is_there_and_nobody_asks(home: Path, own: Server) -> None:
    reached(ssh(home, own.host())).close()
    link = Link(home, own.host().name)
    process = link.running()
    assert process is not None
    until(lambda: not process.lives, 200)
    until(lambda: not agents(own))


# the host


def test_a_full_disk_is_said_and_nothing_is_half_installed_or_half_launched(home: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "48m") as disk, server(tmp_path / "own", home=disk / "home") as own:
        filler = fill(disk)
        provider = ssh(home, own.host())
        words = until(lambda: said if "No space left" in (said := refusal(provider)) else "")
        assert own.host().name in words
        filler.unlink()
        reached(provider)
        filler = fill(disk)
        with pytest.raises(NoCapacity, match="No space left"):
            provider.launch(request(own.host(), "a"))
        assert provider.instances() == ()
        assert replicas(there(own, home)) == []
        filler.unlink()
        provider.launch(request(own.host(), "a"))
        answering(provider, "a")
        own.close()


def test_a_host_that_cannot_say_what_runs_there_is_held_as_it_was(home: Path, own: Server) -> None:
    provider = reached(ssh(home, own.host()))
    provider.launch(request(own.host(), "a"))
    answering(provider, "a")
    lock = there(own, home) / "agent.lock"
    lock.rename(lock.with_name("kept"))
    lock.mkdir()  # in the way, as an error of its disk would be
    with pytest.raises(Unreachable, match=r"agent.lock: Is a directory"):
        provider.offers()
    lock.rmdir()
    answering(provider, "a")
    assert len(provider.offers()) == 1


def refusal(provider: Provider) -> str:
    try:
        provider.offers()
    except Unreachable as error:
        return str(error)
    return ""


@pytest.mark.parametrize("shift", ["-40d", "+40d"])
def test_a_wrong_clock_there_moves_no_charge(home: Path, tmp_path: Path, shift: str) -> None:
    faketime = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if faketime is None:
        pytest.skip("needs faketime: apt-get install faketime")
    with server(tmp_path / "own", environment={"LD_PRELOAD": str(faketime), "FAKETIME": shift}) as own:
        provider = reached(ssh(home, own.host()))
        hello = (read_json(Files.of(home, own.host().name).seen) or {})["hello"]
        assert abs(hello["clock_ahead_seconds"]) > timedelta(days=39).total_seconds()
        before = datetime.now(UTC)
        provider_id = provider.launch(request(own.host(), "a"))
        answering(provider, "a")
        until(lambda: terminated(provider, provider_id))
        ended = gone(provider, "a")
        assert ended.ended_at is not None
        assert before <= ended.launched_at <= ended.ended_at <= datetime.now(UTC)


def terminated(provider: Provider, provider_id: str) -> bool:
    with suppress(Unreachable, Throttled):
        provider.terminate(provider_id)
        return True
    return False


def test_a_host_without_a_python_that_will_do_says_so(home: Path, own: Server) -> None:
    provider = ssh(home, own.host(python="python-of-nobody"))
    assert until(lambda: refusal(provider) if "connecting" not in refusal(provider) else "")
    until(lambda: "python-of-nobody" in refusal(provider))


def test_a_key_that_is_none_is_said(home: Path, own: Server, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("nothing of the kind")
    provider = ssh(home, own.host(key=str(tmp_path / "key")))
    until(lambda: f"the key {tmp_path / 'key'} cannot be used" in refusal(provider))
    other = ssh(home, own.host(key=str(own.folder / "host_key")))
    until(lambda: "it must let this user in by its key" in refusal(other))


def test_a_login_that_prints_something_is_no_answer(home: Path, own: Server) -> None:
    (own.home / ".bashrc").write_text("echo 'welcome to {this} machine'\n")
    provider = reached(ssh(home, own.host()))
    provider.launch(request(own.host(), "a"))
    answering(provider, "a")


def test_replicas_run_in_scopes_of_their_own_where_systemd_keeps_them(home: Path, tmp_path: Path) -> None:
    """Stand-ins for loginctl, systemctl and systemd-run: there is no systemd where this is tested."""
    commands = tmp_path / "bin"
    commands.mkdir()
    said = tmp_path / "said"
    scripts = {
        "loginctl": "echo yes",
        "systemctl": "exit 0",
        "systemd-run": f'echo "$@" >>{said}; while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
    }
    for name, script in scripts.items():
        (commands / name).write_text(f"#!/bin/sh\n{script}\n")
        (commands / name).chmod(0o755)
    path = f"{commands}:{os.environ['PATH']}"
    with server(tmp_path / "own", environment={"PATH": path}) as own:
        provider = reached(ssh(home, own.host()))
        provider_id = provider.launch(request(own.host(), "a"))
        answering(provider, "a")
        assert provider.launch(request(own.host(), "a")) == provider_id
        assert said.read_text().startswith("--user --scope --quiet --collect --unit=halve-a -- ")
        assert len(said.read_text().splitlines()) == 1
        until(lambda: terminated(provider, provider_id))
        gone(provider, "a")


def test_a_new_version_is_installed_and_what_runs_by_the_old_one_runs_on(
    home: Path, own: Server, tmp_path: Path
) -> None:
    provider = reached(ssh(home, own.host()))
    provider_id = provider.launch(request(own.host(), "a"))
    url = answering(provider, "a")
    (old,) = [path for path in (own.far / "envs").iterdir() if path.is_dir()]
    (pid,) = [one.pid for one in replicas(there(own, home))]
    newer = tmp_path / "newer"
    top = Path(__file__).parents[2]
    newer.mkdir()
    for package in ("orchestrator", "policies", "inference"):
        shutil.copytree(top / package, newer / package, ignore=shutil.ignore_patterns("__pycache__"))
    version = newer / "orchestrator" / "__init__.py"
    version.write_text(version.read_text().replace('__version__ = "', '__version__ = "9.'))
    (newer / "tests").symlink_to(top / "tests")
    script = (
        "import sys; from pathlib import Path; from tests.orchestrator.sshd import reached, ssh;"
        "from orchestrator.providers.ssh.host import known; home = Path(sys.argv[1]);"
        "provider = reached(ssh(home, *known(home))); print(provider.instances()[0].url)"
    )
    asked = subprocess.run(
        [sys.executable, "-c", script, str(home)],
        capture_output=True,
        text=True,
        timeout=250,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(newer)},
        check=True,
    )
    assert asked.stdout.strip() == url
    hello = (read_json(Files.of(home, own.host().name).seen) or {})["hello"]
    assert hello["version"].startswith("9.")
    assert [one.pid for one in replicas(there(own, home))] == [pid]
    assert old.exists()  # it runs out of it
    assert len([path for path in (own.far / "envs").iterdir() if path.is_dir()]) == 2
    provider = reached(ssh(home, own.host()))  # this version again
    until(lambda: terminated(provider, provider_id))
    gone(provider, "a")


def test_what_is_half_installed_is_installed_anew_and_old_wheels_go(home: Path, own: Server) -> None:
    half = own.far / "envs" / wheel.digest() / "bin"
    half.mkdir(parents=True)
    (half / "python").write_text("half of it")
    (own.far / "wheels" / "older").mkdir(parents=True)
    provider = reached(ssh(home, own.host()))
    provider.launch(request(own.host(), "a"))
    answering(provider, "a")
    assert [path.name for path in (own.far / "wheels").iterdir()] == [wheel.digest()]
    assert (own.far / "envs" / wheel.digest() / "ready").exists()


def test_two_agents_of_one_installation_do_not_start_a_token_twice(home: Path, own: Server) -> None:
    """A connection that was cut may have left an agent behind that still hears."""
    provider = reached(ssh(home, own.host()))
    (agent,) = agents(own)
    ask = {"id": 1, "do": "launch", "now": SystemClock().now().isoformat(), "token": "a", "payload": {}}
    environment = {**os.environ, "PYTHONPATH": str(own.folder / "packages")}
    others = [
        subprocess.Popen(agent.cmdline(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        for _ in range(4)
    ]
    for other in others:
        assert other.stdin is not None
        other.stdin.write(json.dumps(ask).encode() + b"\n")
        other.stdin.flush()
    provider.launch(request(own.host(), "a"))
    for other in others:
        said, _ = other.communicate(timeout=120)
        assert json.loads(said)["provider_id"] == "a"
    answering(provider, "a")
    assert len(replicas(there(own, home))) == 1
    assert psutil.pid_exists(agent.pid)
    assert living(there(own, home))
