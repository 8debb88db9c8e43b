"""The door as a process: opened, adopted, guarded by its lock, closed."""

import ipaddress
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from orchestrator.door import Door, Replica, ServingSet
from orchestrator.door.limits import Limits
from orchestrator.door.process import DoorProcess, Files, held, hold, read_note
from orchestrator.errors import Refused
from tests.orchestrator.door_asked import PATIENCE, calling, get, in_flight, loads, post, publish, status
from tests.orchestrator.door_upstream import upstream
from tests.orchestrator.ports import free_port
from tests.orchestrator.tiny import until


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path, "ocr")
    yield door
    door.stop()
    door.close()


def run_door(home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator.door", "--home", str(home), "--deployment", "ocr", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE)


def test_opens_adopts_and_closes(tmp_path: Path, door: Door) -> None:
    assert (door.running(), door.status(), door.loads(), door.in_flight("a")) == (None, None, None, 0)
    opened = door.ensure("127.0.0.1:0")
    assert (tmp_path / "doors/ocr.process.json").exists()
    assert os.getsid(opened.pid) == opened.pid  # a session of its own
    said = status(door)
    assert (said["pid"], said["deployment"]) == (opened.pid, "ocr")
    again = Door(tmp_path, "ocr")
    assert again.ensure("127.0.0.1:0") == opened
    again.stop()
    again.close()
    assert door.running() is None
    gone = [psutil.Process(opened.pid)] if psutil.pid_exists(opened.pid) else []
    assert psutil.wait_procs(gone, timeout=PATIENCE)[1] == []
    assert not (tmp_path / "doors/ocr.process.json").exists()
    door.stop()  # closed is success


def test_a_door_outlives_whoever_opened_it_and_is_adopted(tmp_path: Path, door: Door) -> None:
    starter = (
        "import sys, time; from pathlib import Path; from orchestrator.door import Door\n"
        "print(Door(Path(sys.argv[1]), 'ocr').ensure('127.0.0.1:0').pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", starter, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    time.sleep(0.1)
    adopted = door.ensure("127.0.0.1:0")
    assert adopted.pid == pid
    assert get(f"{adopted.url}/-/status").json()["pid"] == pid


def test_many_who_open_at_once_get_one_door(tmp_path: Path, door: Door) -> None:
    doors = [Door(tmp_path, "ocr") for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        pids = {process.pid for process in threads.map(lambda one: one.ensure("127.0.0.1:0"), doors)}
    for one in doors:
        one.close()
    assert len(pids) == 1
    door.stop()
    time.sleep(0.6)  # as long as a process waits for the lock: none of the others steps in
    assert not held(Files.of(tmp_path, "ocr").lock)


def test_a_door_killed_is_opened_anew_with_what_was_published(tmp_path: Path, door: Door) -> None:
    port = free_port()
    first = door.ensure(f"127.0.0.1:{port}")
    door.publish(ServingSet(deployment="ocr", open=False, reason="night"))
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: not held(Files.of(tmp_path, "ocr").lock))
    assert door.running() is None  # the note is still there, the lock is not held
    second = door.ensure(f"127.0.0.1:{port}")
    assert second.pid != first.pid
    assert get(second.url).json()["reason"] == "night"


def test_a_changed_address_moves_the_door(door: Door) -> None:
    first, port = door.ensure("127.0.0.1:0"), free_port()
    second = door.ensure(f"127.0.0.1:{port}")
    assert (second.url, second.pid != first.pid) == (f"http://127.0.0.1:{port}", True)


def test_an_address_that_is_taken_closes_no_door(door: Door) -> None:
    first = door.ensure("127.0.0.1:0")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(Refused, match="is taken"):
        door.ensure(f"127.0.0.1:{taken.getsockname()[1]}")
    assert door.running() == first


def test_a_token_set_or_changed_holds_from_then_on(tmp_path: Path, door: Door) -> None:
    listen, token = f"127.0.0.1:{free_port()}", tmp_path / "token"
    url = door.ensure(listen).url
    door.publish(ServingSet(deployment="ocr", open=False))

    def asked(said: str | None) -> int:
        return get(url, headers={"Authorization": f"Bearer {said}"} if said else {}).status_code

    assert asked(None) == 503
    token.write_text("the-first-of-the-tokens")
    first = door.ensure(listen, token_file=token)
    assert (asked(None), asked("the-first-of-the-tokens")) == (401, 503)
    assert door.ensure(listen, token_file=token) == first  # nothing new
    token.write_text("the-second-of-the-tokens")
    second = door.ensure(listen, token_file=token)
    assert second.pid == first.pid  # it dropped no request for it
    assert (asked("the-first-of-the-tokens"), asked("the-second-of-the-tokens")) == (401, 503)
    for content in ("", None):  # what no door would take closes none
        token.write_text(content) if content is not None else token.unlink()
        with pytest.raises(Refused, match=str(token)):
            door.ensure(listen, token_file=token)
        assert door.running() == second
    door.ensure(listen)
    assert asked(None) == 503
    assert "the-" not in (tmp_path / "doors/ocr.log").read_text()


def test_a_certificate_that_was_renewed_is_shown(tmp_path: Path, door: Door) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    pids = set()
    for _ in range(2):
        write_certificate(certificate, key)
        process = door.ensure("127.0.0.1:0", tls_cert=certificate, tls_key=key)
        trusted = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(verify=trusted, timeout=PATIENCE) as client:
            assert client.get(f"{process.url}/-/status").json()["pid"] == process.pid
        pids.add(process.pid)
    assert len(pids) == 1
    key.write_text("half written")
    with pytest.raises(Refused, match=r"cert\.pem"):
        door.ensure("127.0.0.1:0", tls_cert=certificate, tls_key=key)
    os.kill(process.pid, signal.SIGHUP)  # whoever asks for it: what is half there is not taken up
    until(lambda: b"stay what they were" in (tmp_path / "doors/ocr.log").read_bytes())
    assert door.running() == process
    with httpx.Client(verify=trusted, timeout=PATIENCE) as client:
        assert client.get(f"{process.url}/-/status").json()["pid"] == process.pid


def test_a_new_token_drops_no_request(tmp_path: Path, door: Door) -> None:
    """One that is being answered gets its answer; on the same connection the next one needs the new token."""
    token = tmp_path / "token"
    token.write_text("the-first-of-the-tokens")
    process = door.ensure("127.0.0.1:0", token_file=token)
    old, new = ({"Authorization": f"Bearer the-{which}-of-the-tokens"} for which in ("first", "second"))
    with (
        upstream("a") as a,
        calling(process.url) as client,
        ThreadPoolExecutor() as pool,
    ):
        door.publish(ServingSet(deployment="ocr", open=True, replicas=(Replica(id="a", url=a.url),)))
        under_way = pool.submit(client.post, "/v1/ocr?gate", headers=old)
        until(lambda: in_flight(door, "a") == 1)
        token.write_text("the-second-of-the-tokens")
        assert door.ensure("127.0.0.1:0", token_file=token).pid == process.pid
        assert not under_way.done()
        a.tell("go")
        assert under_way.result().status_code == 200
        assert [client.post("/v1/ocr", headers=one).status_code for one in (old, new)] == [401, 200]


def test_a_door_of_an_older_version_is_opened_anew(tmp_path: Path, door: Door) -> None:
    first, note = door.ensure("127.0.0.1:0"), tmp_path / "doors/ocr.process.json"
    said = json.loads(note.read_bytes())
    del said["settings"], said["files"]
    note.write_text(json.dumps(said))
    assert door.ensure("127.0.0.1:0").pid != first.pid
    assert "read again" not in (tmp_path / "doors/ocr.log").read_text()  # it would have ended at the signal


def test_a_clock_set_since_loses_no_door(tmp_path: Path, door: Door) -> None:
    process = door.ensure("127.0.0.1:0")
    note = tmp_path / "doors/ocr.process.json"
    note.write_bytes(replace(process, started_at=process.started_at - timedelta(hours=1)).to_json())
    assert until(door.running).pid == process.pid


def test_a_taken_port_is_one_clear_line(tmp_path: Path, door: Door) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run_door(tmp_path, "--listen", f"127.0.0.1:{port}")
        line = f"port {port} on 127.0.0.1 is taken; free it or set door.listen in the spec"
        assert (ended.returncode, ended.stderr) == (1, f"halve: {line}\n")
        with pytest.raises(Refused, match=line):
            door.ensure(f"127.0.0.1:{port}")
    assert door.running() is None


def test_a_second_door_says_who_holds_the_first(tmp_path: Path, door: Door) -> None:
    process = door.ensure("127.0.0.1:0")
    ended = run_door(tmp_path, "--listen", "127.0.0.1:0")
    assert ended.returncode == 1
    assert f"process {process.pid}" in ended.stderr and ended.stderr.count("\n") == 1
    assert door.running() == process


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--listen", "0.0.0.0:0"], "door.token and door.tls"),
        (["--listen", "7860"], "HOST:PORT"),
        (["--listen", "127.0.0.1:999999"], "HOST:PORT"),
        (["--listen", "192.0.2.1:7860", "--token-file", "TOKEN", "--tls-cert", "CERT"], "CERT"),
        (["--listen", "127.0.0.1:0", "--token-file", "/nowhere"], "/nowhere"),
    ],
)
def test_refuses_in_one_line(tmp_path: Path, options: list[str], word: str) -> None:
    (tmp_path / "TOKEN").write_text("secret")
    ended = run_door(tmp_path, *[option.replace("TOKEN", str(tmp_path / "TOKEN")) for option in options])
    assert ended.returncode == 1
    assert word in ended.stderr and ended.stderr.count("\n") == 1


def test_stop_lets_requests_finish(door: Door) -> None:
    with upstream("a") as a, ThreadPoolExecutor() as pool:
        process = door.ensure("127.0.0.1:0")
        door.publish(ServingSet(deployment="ocr", open=True, replicas=(Replica(id="a", url=a.url),)))
        asked = pool.submit(post, f"{process.url}/v1/ocr?gate", content=b"x")
        until(lambda: in_flight(door, "a") == 1)
        stopping = pool.submit(door.stop)
        until(lambda: not listens(process))
        time.sleep(0.5)
        a.tell("go")
        assert asked.result().json()["replica"] == "a"
        stopping.result()
        assert door.running() is None and not listens(process)


def test_a_page_left_open_keeps_no_door_open(door: Door) -> None:
    with upstream("a") as a, httpx.Client(timeout=PATIENCE) as client:
        url = door.ensure("127.0.0.1:0").url
        door.publish(ServingSet(deployment="ocr", open=True, replicas=(Replica(id="a", url=a.url),)))
        with client.stream("GET", f"{url}/ui/events?pieces=10000&seconds=0.1") as answer:
            next(answer.iter_raw())
            begun = time.monotonic()
            door.stop()
            assert time.monotonic() - begun < Limits().leave  # which is what requests get


@pytest.mark.parametrize("killed", [False, True])
def test_what_was_counted_is_not_forgotten_with_the_door(tmp_path: Path, door: Door, killed: bool) -> None:
    with upstream("a") as a:
        url = door.ensure("127.0.0.1:0").url
        door.publish(ServingSet(deployment="ocr", open=True, replicas=(Replica(id="a", url=a.url),)))
        for _ in range(7):
            assert post(f"{url}/v1/ocr", content=b"x").status_code == 200
        if killed:
            counts, process = Files.of(tmp_path, "ocr").counts, door.running()
            until(lambda: counts.exists() and written(counts) == 7)
            assert process is not None
            os.kill(process.pid, signal.SIGKILL)
            until(lambda: not held(Files.of(tmp_path, "ocr").lock))
        else:
            door.stop()
        door.ensure("127.0.0.1:0")
        minutes, totals = loads(door).minutes, status(door)["totals"]
    assert sum(minute.requests for minute in minutes) == 7
    assert sum(minute.images_by_replica.get("a", 0) for minute in minutes) == 7
    assert (totals["uncounted_seconds"] > 0) is killed


def written(counts: Path) -> int:
    """The requests that a door has written down, in one minute or two."""
    return sum(int(number) for number in re.findall(rb'"requests":(\d+)', counts.read_bytes()))


def listens(process: DoorProcess) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", int(process.url.rpartition(":")[2]))) == 0


def test_stop_kills_nobody_but_the_door(tmp_path: Path) -> None:
    """A stale note names a process that is none of ours; so does a lock that somebody else holds."""
    files = Files.of(tmp_path, "ocr")
    door = Door(tmp_path, "ocr")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        files.lock.parent.mkdir()
        note = {"pid": other.pid, "url": "http://127.0.0.1:1", "listen": "127.0.0.1:1"}
        files.process.write_text(json.dumps(note | {"started_at": "2020-01-01T00:00:00+00:00"}))
        door.stop()
        lock = hold(files.lock)
        assert lock is not None
        with lock, pytest.raises(Refused, match="unknown process"):
            door.stop()
        assert other.poll() is None
        other.kill()
    door.close()


def test_a_note_that_is_none(tmp_path: Path) -> None:
    note = tmp_path / "note"
    for content in ("", "{}", "[]", '{"pid": "x"}', '{"pid":1,"url":"","listen":"","started_at":"never"}'):
        note.write_text(content)
        assert read_note(note) is None


def test_publish_writes_only_news(tmp_path: Path) -> None:
    door = Door(tmp_path, "ocr")
    said = ServingSet(deployment="ocr", open=False, opens_at=datetime(2026, 1, 1, tzinfo=UTC), reason="night")
    assert [door.publish(said), door.publish(said)] == [True, False]
    assert json.loads((tmp_path / "doors/ocr.json").read_text()) == {
        "deployment": "ocr",
        "open": False,
        "opens_at": "2026-01-01T00:00:00Z",
        "reason": "night",
        "starting": False,
        "again_at": None,
        "rate_limit": None,
        "replicas": [],
    }
    with pytest.raises(ValueError, match="greater than 0"):
        door.publish(ServingSet(deployment="ocr", open=True, replicas=(Replica(id="a", url="http://h:1", weight=0),)))
    twins = (Replica(id="a", url="http://h:1"), Replica(id="a", url="http://h:2"))
    with pytest.raises(ValueError, match="one id"):
        door.publish(ServingSet(deployment="ocr", open=True, replicas=twins))
    assert [path.name for path in (tmp_path / "doors").iterdir()] == ["ocr.json"]
    door.close()


def test_beyond_loopback_with_token_and_certificate(tmp_path: Path, door: Door) -> None:
    certificate, key, token = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "token"
    write_certificate(certificate, key)
    token.write_text("secret\n")
    process = door.ensure("0.0.0.0:0", token_file=token, tls_cert=certificate, tls_key=key)
    assert process.url.startswith("https://127.0.0.1:")
    assert status(door)["deployment"] == "ocr"
    door.publish(ServingSet(deployment="ocr", open=False))
    trusting = ssl.create_default_context(cafile=str(certificate))
    with httpx.Client(base_url=process.url, verify=trusting, timeout=PATIENCE) as client:
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
            answer = client.get("/", headers=header)
            assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert client.get("/", headers={"Authorization": "Bearer secret"}).status_code == 503
        with upstream("a") as a:
            replicas = (Replica(id="a", url=a.url),)
            publish(door, ServingSet(deployment="ocr", open=True, replicas=replicas))
            page = client.get("/ui/", auth=("anybody", "secret"))
            assert page.headers["Set-Cookie"] == "halve_ui=a; Path=/ui; HttpOnly; SameSite=Lax; Secure"
            assert ["X-Forwarded-Proto", "https"] in page.json()["headers"]
            assert client.post("/v1/ocr", headers={"Authorization": "Bearer secret"}, content=bytes(10**6)).is_success
    with pytest.raises(httpx.ConnectError):  # nobody who does not know the certificate is believed, or believes
        get(process.url, headers={"Authorization": "Bearer secret"})
    with socket.create_connection(("127.0.0.1", int(process.url.rpartition(":")[2])), timeout=PATIENCE) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" not in plain.recv(1000)


def write_certificate(certificate: Path, key: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "door")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
