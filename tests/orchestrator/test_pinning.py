"""Who is believed to answer at an address: over real TLS on loopback."""

import asyncio
import socket
import ssl
import threading
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from orchestrator.door.serving import Replica
from orchestrator.door.upstream import NotSent, Upstream
from orchestrator.pinning import Pins, Unpinned, own
from orchestrator.probes import HttpProbes
from tests.orchestrator.certified import READY, at, certified_server, serving

KEY, STRANGERS_KEY = b"the installation's key", b"another installation's key"
ASK = b"GET /healthz HTTP/1.1\r\nHost: replica\r\n\r\n"


@pytest.fixture
def pins(tmp_path: Path) -> Pins:
    pins = Pins(tmp_path / "home")
    pins.introduce(KEY)
    return pins


def answers(pins: Pins, url: str) -> dict[str, bool]:
    """Whether each of those who connect gets an answer there."""
    with closing(HttpProbes(pins.transport())) as probes:
        found = {"probe": answered(probes, url)}

    async def through_the_door() -> bool:
        try:
            reply = await Upstream(pins).send(Replica(id="r", url=url), ASK, b"", head_only=False)
        except NotSent:
            return False
        except Exception as error:
            assert type(error).__name__ == "Broken", error
            return False
        return reply.status == 200 and await reply.read() == READY

    return {**found, "door": asyncio.run(through_the_door())}


def answered(probes: HttpProbes, url: str) -> bool:
    """Asked again: a probe has patience for two seconds, and this process may be kept waiting for as long."""
    return any(probes.health(url) is not None for _ in range(3))


NOBODY, ALL = {"probe": False, "door": False}, {"probe": True, "door": True}


def test_our_certificate_is_the_same_byte_for_byte_and_another_installation_has_another() -> None:
    own.cache_clear()
    first = own(KEY)
    own.cache_clear()
    assert own(KEY) == first
    assert own(STRANGERS_KEY)[1] != first[1]
    assert "PRIVATE" in first[0] and "PRIVATE" not in first[1]


def test_who_was_pinned_is_spoken_to(pins: Pins, tmp_path: Path) -> None:
    tls, certificate = certified_server(tmp_path, "replica", own(KEY)[1])
    with serving(tls) as server:
        pins.pin("i-1", [at(server)], certificate)
        assert answers(pins, at(server)) == ALL
        assert answers(Pins(tmp_path / "home"), at(server)) == ALL  # as the door's process knows it
        assert pins.machines() == ("i-1",)


def test_who_was_not_pinned_is_not_even_connected_to(pins: Pins, tmp_path: Path) -> None:
    tls, _ = certified_server(tmp_path, "replica", own(KEY)[1])
    with serving(tls) as server:
        assert answers(pins, at(server)) == NOBODY
        assert server.asked == 0
        with pytest.raises(Unpinned, match="not proved"):
            pins.context(at(server))


def test_a_machine_in_the_middle_is_told_nothing(pins: Pins, tmp_path: Path) -> None:
    """It holds a certificate of its own, however alike; and what it does not hold is ours, for the replica's side."""
    _, certificate = certified_server(tmp_path, "replica", own(KEY)[1])
    middle, _ = certified_server(tmp_path, "middle", own(KEY)[1])
    middle.verify_mode = ssl.CERT_NONE
    with serving(middle) as server:
        pins.pin("i-1", [at(server)], certificate)
        assert answers(pins, at(server)) == NOBODY
        assert server.asked == 0  # nobody finished a handshake with it, so nothing was said


def test_a_replica_lets_nobody_in_but_its_controller(pins: Pins, tmp_path: Path) -> None:
    tls, certificate = certified_server(tmp_path, "replica", own(STRANGERS_KEY)[1])
    with serving(tls) as server:
        pins.pin("i-1", [at(server)], certificate)
        assert answers(pins, at(server)) == NOBODY
    tls, certificate = certified_server(tmp_path, "replica", own(KEY)[1])
    with serving(tls) as server:
        bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        bare.check_hostname = False
        bare.load_verify_locations(cadata=certificate)
        with pytest.raises(httpx.HTTPError), httpx.Client(verify=bare, trust_env=False) as nobody:
            nobody.get(at(server))


def test_a_replica_that_comes_back_with_another_key_is_another(pins: Pins, tmp_path: Path) -> None:
    tls, certificate = certified_server(tmp_path, "replica", own(KEY)[1])
    with serving(tls) as server:
        url, port = at(server), server.server_port
        pins.pin("i-1", [url], certificate)
        assert answers(pins, url) == ALL
    again, other = certified_server(tmp_path, "again", own(KEY)[1])
    assert other != certificate
    with serving(again, port):
        assert answers(pins, url) == NOBODY
    with serving(tls, port):  # the machine that was meant
        assert answers(pins, url) == ALL


def test_what_was_heard_before_proves_nothing(pins: Pins, tmp_path: Path) -> None:
    """Whoever replays a replica's own words, from its certificate on, has not its key."""
    tls, certificate = certified_server(tmp_path, "replica", own(KEY)[1])
    heard: list[bytes] = []
    with serving(tls) as server, socket.create_server(("127.0.0.1", 0)) as tap:
        url = f"https://127.0.0.1:{tap.getsockname()[1]}"
        pins.pin("i-1", [url], certificate)
        thread = threading.Thread(target=_overhear, args=(tap, server.server_port, heard), daemon=True)
        thread.start()
        with closing(HttpProbes(pins.transport())) as probes:
            assert probes.health(url) is not None
        thread.join(30)
        assert heard
        replaying = threading.Thread(target=_replay, args=(tap, b"".join(heard)), daemon=True)
        replaying.start()
        with closing(HttpProbes(pins.transport())) as probes:
            assert probes.health(url) is None
        replaying.join(30)


def _overhear(tap: socket.socket, port: int, heard: list[bytes]) -> None:
    client, _ = tap.accept()
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        there = threading.Thread(target=_pipe, args=(client, server, None), daemon=True)
        there.start()
        _pipe(server, client, heard)
        there.join(30)


def _pipe(source: socket.socket, target: socket.socket, heard: list[bytes] | None) -> None:
    try:
        while data := source.recv(65536):
            if heard is not None:
                heard.append(data)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def _replay(tap: socket.socket, heard: bytes) -> None:
    client, _ = tap.accept()
    with client:
        try:
            client.recv(65536)
            client.sendall(heard)
            client.settimeout(5)
            client.recv(65536)
        except OSError:
            pass


def test_an_address_that_became_another_machines_is_the_other_machines(pins: Pins, tmp_path: Path) -> None:
    first, before = certified_server(tmp_path, "first", own(KEY)[1])
    with serving(first) as server:
        url, port = at(server), server.server_port
        pins.pin("i-1", [url], before)
        with closing(HttpProbes(pins.transport())) as probes:
            assert answered(probes, url)
            second, after = certified_server(tmp_path, "second", own(KEY)[1])
            server.shutdown()
            server.server_close()
            pins.pin("i-2", [url], after)
            with serving(second, port):
                assert answered(probes, url)  # the same client, and no connection of before
            pins.forget("i-1")  # which takes nothing from i-2
            assert pins.context(url) and pins.of("i-1") is None
            pins.forget("i-2")
            assert probes.health(url) is None
            assert pins.machines() == ()


def test_plain_http_stays_for_this_machine(pins: Pins) -> None:
    with serving(None) as server:
        assert answers(pins, f"http://127.0.0.1:{server.server_port}") == ALL


def test_keys_are_for_our_eyes_only(pins: Pins, tmp_path: Path) -> None:
    pins.pin("../i-1", ["https://[::1]:7860"], "x")
    files = sorted((tmp_path / "home").rglob("*.pem"))
    assert [path.relative_to(tmp_path / "home").as_posix() for path in files] == [
        "pins/_i-1.pem",
        "pins/at/__1_7860.pem",
        "pins/controller.pem",
    ]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_without_us_nobody_connects(tmp_path: Path) -> None:
    with pytest.raises(Unpinned, match=r"controller\.pem"):
        Pins(tmp_path).stranger()
