"""What somebody sees who calls the door: real processes, real HTTP."""

import asyncio
import hashlib
import http.client
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import httpx
import pytest

from orchestrator.door import Door, Replica, ServingSet
from tests.orchestrator.door_asked import PATIENCE, calling, get, in_flight, loads, post, publish, status
from tests.orchestrator.door_upstream import Upstream, upstream
from tests.orchestrator.tiny import until


def serving(*upstreams: Upstream, **but: object) -> ServingSet:
    replicas = tuple(Replica(id=up.name, url=up.url) for up in upstreams)
    return ServingSet(**{"deployment": "ocr", "open": True, "replicas": replicas, **but})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def door(home: Path) -> Iterator[Door]:
    """One door for all: each test publishes what it needs."""
    door = Door(home, "ocr")
    door.ensure("127.0.0.1:0")
    yield door
    door.stop()
    door.close()


@pytest.fixture(scope="module")
def url(door: Door) -> str:
    process = door.running()
    assert process is not None
    return process.url


# Passing on


def test_passes_requests_on_with_who_asked_and_a_request_id(door: Door, url: str) -> None:
    with upstream("a") as a, calling(url) as client:
        publish(door, serving(a))
        answer = client.request(
            "PUT",
            "/some%20path?x=%C3%A9&y",
            headers={
                "X-Request-Id": "mine-1",
                "X-Forwarded-For": "9.9.9.9",
                "Connection": "close, X-Hop",
                "X-Hop": "1",
            },
            content=b"body",
        )
        said = answer.json()
        sent = {name.lower(): value for name, value in said["headers"]}
        assert (said["method"], said["path"]) == ("PUT", "/some%20path?x=%C3%A9&y")
        assert sent["host"] == urlsplit(url).netloc
        assert sent["x-forwarded-for"] == "9.9.9.9, 127.0.0.1"
        assert sent["x-forwarded-proto"] == "http"
        assert sent["x-request-id"] == answer.headers["X-Request-Id"] == "mine-1"
        assert "x-hop" not in sent and "close" not in sent.get("connection", "")
        assert answer.headers["X-Own"] == "yes" and "Keep-Alive" not in answer.headers
        made = {client.get("/").headers["X-Request-Id"] for _ in range(3)}
        assert len(made) == 3
        assert client.get("/", headers={"X-Request-Id": "x" * 500}).headers["X-Request-Id"] != "x" * 500


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "PATCH"])
def test_passes_every_method(door: Door, url: str, method: str) -> None:
    with upstream("a") as a, calling(url) as client:
        publish(door, serving(a))
        for _ in range(2):  # the second over a kept connection
            answer = client.request(method, "/x")
            assert answer.status_code == 200
            assert int(answer.headers["Content-Length"]) > 0
            assert answer.content == b"" if method == "HEAD" else answer.json()["method"] == method


def test_control_and_a_replicas_own_affairs_do_not_pass(door: Door, url: str) -> None:
    with upstream("a") as a, calling(url) as client:
        publish(door, serving(a))
        for path in ("/drain", "/lease", "/%64rain", "/drain/", "/drain?x", "/-/anything"):
            assert client.post(path).status_code == 404, path
        assert client.post("/v1/ocr", content=b"1").json()["replica"] == "a"
        assert client.get("/-/status", headers={"X-Forwarded-For": "8.8.8.8"}).status_code == 403


def test_a_large_body_goes_through_and_a_larger_one_does_not(door: Door, url: str) -> None:
    with upstream("a") as a, calling(url) as client:
        publish(door, serving(a))
        for size in (1, 300_000, 33 * 2**20):  # the last is more than the door keeps in memory
            body = random.Random(size).randbytes(size)
            for content in (body, iter([body[: size // 2], body[size // 2 :]])):  # with a length, and in chunks
                said = client.post("/v1/ocr", content=content).json()
                assert said["sha256"] == hashlib.sha256(body).hexdigest()
        pieces = (bytes(2**20 if index < 64 else 1) for index in range(65))
        assert client.post("/v1/ocr", content=pieces).status_code == 413
    host = urlsplit(url)
    connection = http.client.HTTPConnection(host.hostname or "", host.port or 0, timeout=PATIENCE)
    connection.putrequest("POST", "/v1/ocr")
    connection.putheader("Content-Length", str(64 * 2**20 + 1))
    connection.endheaders()  # not one byte of it has to be sent to be told
    assert connection.getresponse().status == 413
    connection.close()


def test_photos_of_50_mb_pass_without_being_kept(door: Door, url: str) -> None:
    """Eight at once, to a replica that is slower than the door: it has to wait, the door must not fill up."""
    size, at_once = 50 * 10**6, 8
    process = door.running()
    assert process is not None

    def peak_mb() -> float:
        return int(re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())[0]) / 1000

    def pieces() -> Iterator[bytes]:
        for _ in range(size // 10**6):
            yield bytes(10**6)

    with upstream("a") as a, ThreadPoolExecutor(at_once) as clients:
        publish(door, serving(a))
        before = peak_mb()
        ask = partial(httpx.post, f"{url}/v1/ocr", headers={"Content-Length": str(size)}, timeout=2 * PATIENCE)
        asked = [clients.submit(ask, content=pieces()) for _ in range(at_once)]
        assert [one.result().json()["bytes"] for one in asked] == [size] * at_once
        assert peak_mb() - before < 100  # of 400


def test_whoever_expects_100_continue_gets_it(door: Door, url: str) -> None:
    with upstream("a") as a:
        publish(door, serving(a))
        host = urlsplit(url)
        with socket.create_connection((host.hostname or "", host.port or 0), timeout=PATIENCE) as raw:
            raw.sendall(b"POST /v1/ocr HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
            assert raw.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            raw.sendall(b"abc")
            said = b""
            while b'"bytes": 3' not in said and (some := raw.recv(10_000)):
                said += some
            assert said.startswith(b"HTTP/1.1 200 ") and b'"bytes": 3' in said


@pytest.mark.parametrize("length", ["", "&length"])
def test_streams_a_long_answer_while_it_is_made(door: Door, url: str, length: str) -> None:
    with upstream("a") as a, calling(url) as client:
        publish(door, serving(a))
        with client.stream("GET", f"/stream?pieces=8&gate{length}") as answer:
            first = next(pieces := answer.iter_raw())
            a.tell("go")  # only now the rest of it is made
            got = first + b"".join(pieces)
        assert got == b"".join(bytes([index]) * 65536 for index in range(8))
        assert client.get("/stream?pieces=400").content[-65536:] == bytes([399 % 256]) * 65536


def test_an_answer_cut_off_is_cut_off_and_never_looks_whole(door: Door, url: str) -> None:
    with upstream("a") as a, calling(url) as client:
        publish(door, serving(a))
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/stream?pieces=20&die=1")
        until(lambda: in_flight(door, "a") == 0)


def test_a_head_too_large_or_no_http_is_refused_and_the_door_lives(door: Door, url: str) -> None:
    with upstream("a") as a, calling(url) as client:
        publish(door, serving(a))
        assert client.get("/", headers={"X-Bomb": "x" * 100_000}).status_code == 431
        host = urlsplit(url)
        both = b"POST /v1/ocr HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        chunk = b"POST /v1/ocr HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello--\r\n0\r\n\r\n"
        for garbage in (
            chunk,
            b"\x16\x03\x01\x02\x00\r\n\r\n",
            both,
        ):
            with socket.create_connection((host.hostname or "", host.port or 0), timeout=PATIENCE) as raw:
                raw.sendall(garbage)
                assert b" 400 " in raw.recv(100)[:14], garbage[:40]
        assert client.get("/").status_code == 200


# Closed, absent, waiting


def test_closed_says_when_it_opens(door: Door, url: str) -> None:
    with upstream("a") as a:
        opens_at = datetime.now(UTC) + timedelta(hours=2)
        publish(door, serving(a, open=False, opens_at=opens_at, reason="outside Mon-Fri 08:00-20:00"))
        answer = post(f"{url}/v1/ocr", content=b"x")
        assert answer.status_code == 503
        assert (opens_at - datetime.now(UTC)).total_seconds() <= int(answer.headers["Retry-After"]) <= 7200
        said = answer.json()
        assert said["error"] == "closed" and said["reason"] == "outside Mon-Fri 08:00-20:00"
        assert datetime.fromisoformat(said["opens_at"]) == opens_at
        publish(door, serving(a, open=False))
        assert (get(url).headers["Retry-After"], get(url).json()["opens_at"]) == ("3600", None)


def test_open_without_a_replica_is_told_at_once(door: Door, url: str) -> None:
    publish(door, serving())
    answer = get(url)
    assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1


def test_who_need_not_wait_is_told_when_a_replica_may_be_started(door: Door, url: str) -> None:
    again_at = datetime.now(UTC) + timedelta(minutes=40)
    publish(door, serving(starting=True))
    with ThreadPoolExecutor(1) as clients:
        held = clients.submit(post, f"{url}/v1/ocr", content=b"x")
        until(lambda: status(door)["waiting"] == 1)
        publish(door, serving(again_at=again_at))
        for answer in (held.result(), post(f"{url}/v1/ocr", content=b"x")):
            assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
            assert (again_at - datetime.now(UTC)).total_seconds() <= int(answer.headers["Retry-After"]) <= 2400
            assert f"none can be started before {again_at:%H:%M:%S} UTC" in answer.json()["reason"]
    publish(door, serving(again_at=datetime.now(UTC) - timedelta(minutes=1)))
    assert int(get(url).headers["Retry-After"]) == 5, "that moment is over: soon"


def test_holds_requests_while_a_replica_starts(door: Door, url: str) -> None:
    publish(door, serving(starting=True))
    with ThreadPoolExecutor(8) as clients, upstream("a") as a:
        asked = [clients.submit(post, f"{url}/v1/ocr", content=b"x" * n) for n in range(8)]
        until(lambda: status(door)["waiting"] == 8)
        publish(door, serving(a))
        assert [one.result().json()["bytes"] for one in asked] == list(range(8))
        assert status(door)["waiting"] == 0


def test_requests_held_are_turned_away_when_it_closes(door: Door, url: str) -> None:
    publish(door, serving(starting=True))
    with ThreadPoolExecutor(1) as clients:
        asked = clients.submit(get, url)
        until(lambda: status(door)["waiting"] == 1)
        publish(door, serving(open=False, reason="night"))
        assert asked.result().json()["reason"] == "night"


def test_a_client_that_goes_away_frees_its_replica(door: Door, url: str) -> None:
    with upstream("a") as a:
        publish(door, serving(a))
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/ocr?seconds=600", content=b"x", timeout=0.3)
        until(lambda: in_flight(door, "a") == 0)
        assert post(f"{url}/v1/ocr", content=b"x").status_code == 200


def test_no_more_than_256_wait(door: Door, url: str) -> None:
    publish(door, serving(starting=True))

    async def ask() -> list[int]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def one() -> int:
                async with session.get(url) as answer:
                    return answer.status

            asked = [asyncio.create_task(one()) for _ in range(270)]
            told = [await first for first in islice(asyncio.as_completed(asked), 14)]
            assert (await asyncio.to_thread(status, door))["waiting"] == 256
            for task in asked:
                task.cancel()
            return told

    assert asyncio.run(ask()) == [503] * 14
    until(lambda: status(door)["waiting"] == 0)


def test_a_client_that_gives_up_waiting_is_forgotten(door: Door, url: str) -> None:
    publish(door, serving(starting=True))
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(url, timeout=0.2)
    until(lambda: status(door)["waiting"] == 0)


# Replicas that leave


def test_a_dead_replica_costs_no_request(door: Door, url: str) -> None:
    with upstream("a") as a, upstream("b") as b, calling(url) as client:
        publish(door, serving(a, b))
        seen = {client.post("/v1/ocr", content=b"x").json()["replica"] for _ in range(6)}
        assert seen == {"a", "b"}
        a.kill()
        for _ in range(6):
            assert client.post("/v1/ocr", content=b"x").json()["replica"] == "b"


def test_a_replica_that_dies_at_work_has_its_work_done_elsewhere(door: Door, url: str) -> None:
    with upstream("a") as a, upstream("b") as b, ThreadPoolExecutor(1) as clients:
        publish(door, serving(a))
        asked = clients.submit(post, f"{url}/v1/ocr?seconds=600&only=a", content=b"x" * 400_000)
        until(lambda: a.works() == 1)
        publish(door, serving(a, b))
        a.kill()
        assert asked.result().json() | {"sha256": ""} == {"replica": "b", "bytes": 400_000, "sha256": ""}


def test_an_image_that_kills_its_reader_does_not_meet_them_all(door: Door, url: str) -> None:
    with ExitStack() as stack:
        ups = [stack.enter_context(upstream(name)) for name in "abcdef"]
        publish(door, serving(*ups))
        for _ in range(6):  # now connections are kept to all of them: the first death looks like one that was closed
            assert post(f"{url}/v1/ocr", content=b"x").status_code == 200
        answer = post(f"{url}/v1/ocr?die=1", content=b"x")
        assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
        assert sum(up.process.poll() is not None for up in ups) <= 4
        assert post(f"{url}/v1/ocr", content=b"x").status_code == 200


def test_what_is_not_repeatable_is_not_repeated(door: Door, url: str) -> None:
    with upstream("a") as a, upstream("b") as b:
        publish(door, serving(a, b))
        host = urlsplit(url)
        with ThreadPoolExecutor(1) as clients:
            # The body stops halfway: the replica has part of it when it dies.
            asked = clients.submit(_half_of_33_mib, host.hostname or "", host.port or 0, lambda: _holder(door))
            name = asked.result()[0]
            (a if name == "a" else b).kill()
            assert asked.result()[1]().startswith(b"HTTP/1.1 502")


def _holder(door: Door) -> str | None:
    return next(iter(status(door)["in_flight"]), None)


def _half_of_33_mib(host: str, port: int, holder: Callable[[], str | None]) -> tuple[str, Callable[[], bytes]]:
    raw = socket.create_connection((host, port), timeout=PATIENCE)
    raw.sendall(b"POST /v1/ocr HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (33 * 2**20) + bytes(2**20))
    name = str(until(holder))

    def answer() -> bytes:
        with raw:
            return raw.recv(1000)

    return name, answer


def test_a_draining_replica_sends_its_guests_elsewhere(door: Door, url: str) -> None:
    with upstream("a") as a, upstream("b") as b, calling(url) as client:
        publish(door, serving(a, b))
        a.tell("drain")
        assert {client.post("/v1/ocr", content=b"x").json()["replica"] for _ in range(6)} == {"b"}
        b.tell("drain")
        last = client.post("/v1/ocr", content=b"x")
        assert (last.status_code, last.headers["Retry-After"], last.json()) == (503, "3", {"error": "draining"})


def test_a_withdrawn_replica_finishes_and_gets_nothing_new(door: Door, url: str) -> None:
    with upstream("a") as a, upstream("b") as b, ThreadPoolExecutor(1) as clients:
        publish(door, serving(a))
        asked = clients.submit(post, f"{url}/v1/ocr?gate", content=b"x")
        until(lambda: in_flight(door, "a") == 1)
        publish(door, serving(b))
        assert in_flight(door, "a") == 1
        assert {post(f"{url}/v1/ocr", content=b"x").json()["replica"] for _ in range(4)} == {"b"}
        a.tell("go")
        assert asked.result().json()["replica"] == "a"
        assert in_flight(door, "a") == 0


def test_the_stronger_replica_gets_the_more(door: Door, url: str) -> None:
    with upstream("a") as a, upstream("b") as b, ThreadPoolExecutor(8) as clients:
        replicas = (Replica(id="a", url=a.url, weight=3), Replica(id="b", url=b.url, weight=1))
        publish(door, serving(replicas=replicas))
        asked = [clients.submit(post, f"{url}/v1/ocr?gate", content=b"x") for _ in range(8)]
        until(lambda: sum(status(door)["in_flight"].values()) == 8)
        assert status(door)["in_flight"] == {"a": 6, "b": 2}
        a.tell("go")
        b.tell("go")
        assert all(one.result().status_code == 200 for one in asked)


def test_no_request_fails_while_replicas_come_and_go_under_load(door: Door, url: str) -> None:
    """add, drain, remove, kill -9, kill the last one and start another in its place."""
    stop = threading.Event()
    done: list[int] = []
    failed: list[str] = []

    async def client(session: aiohttp.ClientSession, seed: int) -> None:
        chance = random.Random(seed)
        while not stop.is_set():
            body = chance.randbytes(2 ** chance.randrange(0, 21))
            async with session.post(f"{url}/v1/ocr", data=body) as answer:
                said = await answer.json()
                if answer.status != 200 or said["sha256"] != hashlib.sha256(body).hexdigest():
                    failed.append(f"{answer.status} {said}")
                done.append(1)

    async def load() -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2 * PATIENCE)) as session:
            results = await asyncio.gather(*(client(session, seed) for seed in range(12)), return_exceptions=True)
            failed.extend(repr(result) for result in results if isinstance(result, BaseException))

    with ExitStack() as stack, ThreadPoolExecutor(1) as loading:
        stack.callback(stop.set)
        a, b, c, d = (stack.enter_context(upstream(name)) for name in "abcd")
        publish(door, serving(a))
        running = loading.submit(asyncio.run, load())
        until(lambda: len(done) > 50)
        publish(door, serving(a, b))  # add
        time.sleep(0.3)
        publish(door, serving(b))  # withdraw, drain
        a.tell("drain")
        until(lambda: in_flight(door, "a") == 0)
        a.kill()  # remove
        publish(door, serving(b, c))
        time.sleep(0.3)
        b.kill()  # a loss that the daemon has not seen yet
        time.sleep(0.5)
        publish(door, serving(c, starting=True))
        time.sleep(0.2)
        c.kill()  # the last one
        time.sleep(0.3)
        publish(door, serving(starting=True))
        before = len(done)
        publish(door, serving(d))
        until(lambda: len(done) > before + 50)
        stop.set()
        running.result()
    assert failed == []
    assert loads(door).current.in_flight == 0


# What it tells


def test_counts_what_it_carried(tmp_path: Path) -> None:
    door = Door(tmp_path, "ocr")
    url = door.ensure("127.0.0.1:0").url
    with closing(door), upstream("a") as a, calling(url) as client:
        publish(door, serving(a))
        begun, slowest = time.monotonic(), 0.0
        for query in ("", "?images=5", "?status=400", "?status=500", "?seconds=0.2"):
            asked_at = time.monotonic()
            client.post(f"/v1/ocr{query}", content=b"x")
            slowest = max(slowest, time.monotonic() - asked_at)
        client.post("/v2/models/ppocr/infer", content=b"x")
        publish(door, serving())
        client.post("/v1/ocr", content=b"x")
        time.sleep(1.05)
        said = loads(door)
        all_within_10_s = time.monotonic() - begun < 9
        door.stop()
    if all_within_10_s:  # else the machine was very busy, and current is what came after
        assert said.current.images_per_second == pytest.approx((7 + 4) / 10)
        assert said.current.p95_ms is not None and 195 <= said.current.p95_ms <= 1030 * slowest
    minutes = said.minutes  # one, or two when it ended just now
    assert sum(minute.requests for minute in minutes) == 7
    assert sum(minute.images for minute in minutes) == 8
    assert sum(minute.images_by_replica.get("a", 0) for minute in minutes) == 8
    assert (sum(minute.failed for minute in minutes), sum(minute.refused for minute in minutes)) == (1, 1)


def test_only_recognition_while_it_is_open_is_demand(tmp_path: Path) -> None:
    door = Door(tmp_path, "ocr")
    url = door.ensure("127.0.0.1:0").url
    with closing(door), upstream("a") as a, calling(url) as client, ThreadPoolExecutor(1) as clients:
        publish(door, serving(open=False))
        assert client.post("/v1/ocr", content=b"x").status_code == 503
        publish(door, serving())
        assert client.get("/healthz").status_code == 503
        publish(door, serving(starting=True))
        held = clients.submit(get, f"{url}/healthz")
        until(lambda: status(door)["waiting"] == 1)
        waits = loads(door)
        publish(door, serving(a))
        assert held.result().status_code == 200
        assert client.post("/v1/other", content=b"x").status_code == 200
        a.kill()
        publish(door, serving(a))
        assert client.post("/v1/other", content=b"x").status_code in (502, 503)
        time.sleep(1.05)
        said = loads(door)
        door.stop()
    assert waits.current.waiting == 0
    assert said.current.images_per_second == 0 and said.current.p95_ms is None
    for minute in said.minutes:
        assert (minute.requests, minute.images, minute.failed, minute.refused, minute.queue_max) == (0, 0, 0, 0, 0)


# What it is told


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b'{"deployment":"ocr","open":tr',
        b"[]",
        b'{"deployment":"other","open":true,"reason":"","opens_at":null,"starting":false,"replicas":[]}',
        b'{"deployment":"ocr","open":true,"replicas":[{"id":"a","url":"file:///etc/passwd","weight":1}]}',
        b'{"deployment":"ocr","open":true,"replicas":[{"id":"a","url":"http://127.0.0.1:1","weight":0}]}',
        b"\xff\xfe" * 1000,
        None,
    ],
)
def test_a_set_that_is_none_changes_nothing(home: Path, door: Door, url: str, garbage: bytes | None) -> None:
    with upstream("a") as a:
        publish(door, serving(a))
        file = home / "doors/ocr.json"
        said_before = len((home / "doors/ocr.log").read_text())
        if garbage is None:
            file.unlink()
        else:
            file.write_bytes(garbage)
        until(lambda: "keeping the set read before" in (home / "doors/ocr.log").read_text()[said_before:])
        assert get(url).json()["replica"] == "a"
        publish(door, serving(open=False))
        assert get(url).status_code == 503


def test_the_door_sees_a_new_set_without_being_asked(door: Door, url: str) -> None:
    with upstream("a") as a:
        publish(door, serving(a))
        door.publish(serving(open=False))  # while it is open it does not look at each request
        until(lambda: get(url).status_code == 503)


def test_what_a_batch_waits_is_no_latency_that_was_promised(tmp_path: Path) -> None:
    door = Door(tmp_path, "ocr")
    url = door.ensure("127.0.0.1:0").url
    with closing(door), upstream("a") as a, calling(url) as client:
        publish(door, serving(a))
        begun = time.monotonic()
        client.post("/v1/ocr", content=b"x")
        took_ms = (time.monotonic() - begun) * 1000
        for _ in range(5):
            client.post("/v1/ocr?seconds=0.2", content=b"x", headers={"X-Halve-Priority": "batch"})
        minutes = loads(door).minutes
        door.stop()
    p95s = [minute.latency_ms_p95 for minute in minutes if minute.latency_ms_p95 is not None]
    assert len(p95s) == 1 and p95s[0] <= 1.03 * took_ms
    assert sum(minute.latency_ms_sum for minute in minutes) > 1000  # they kept the replica busy
    assert sum(minute.images for minute in minutes) == 6
