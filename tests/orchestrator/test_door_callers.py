"""Clients that are slow, half gone, stalled, or no clients at all."""

import asyncio
import contextlib
import json
import socket
from pathlib import Path

import pytest

from orchestrator.door.limits import Limits
from orchestrator.door.serving import RateLimit
from tests.orchestrator.door_inside import PATIENCE, Inside, door, engine, final, until

HASTY = Limits(head=0.4, silent=0.3, upload=1.0, stalled=1.0, linger=0.1)
GET = b"GET /here HTTP/1.1\r\nHost: x\r\n\r\n"
SLOW = b"POST /v1/ocr?seconds=0.7 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"


async def drip(inside: Inside, start: bytes, byte: bytes, seconds: float) -> bytes:
    """What the door says to `start` and then a byte now and then, until it hangs up.

    A bare socket: a stream forgets what it has read when a later byte finds the connection reset.
    """
    loop, said = asyncio.get_running_loop(), bytearray()

    async def hear() -> None:
        with contextlib.suppress(ConnectionResetError):  # it hung up while we wrote
            while some := await loop.sock_recv(client, 65536):
                said.extend(some)

    with socket.create_connection(("127.0.0.1", inside.port)) as client:
        client.setblocking(False)
        hearing = asyncio.create_task(hear())
        async with asyncio.timeout(PATIENCE):
            while not hearing.done():
                with contextlib.suppress(ConnectionError):
                    await loop.sock_sendall(client, start)
                start = byte
                await asyncio.sleep(seconds)
    return bytes(said)


@pytest.mark.parametrize("start", [b"", b"GET /he", b"GET /here HTTP/1.1\r\nHost: x\r\nX-"])
def test_a_head_that_does_not_end_is_not_waited_for(tmp_path: Path, start: bytes) -> None:
    async def run() -> None:
        async with door(tmp_path, HASTY) as inside, engine("a") as a:
            inside.publish(a)
            assert await inside.ask(start) == b""
            if start:
                assert await drip(inside, start, b"h", 0.05) == b""
            assert await drip(inside, GET + start, b"h" if start else b"", 0.05) != b""  # after an answer too

    asyncio.run(run())


@pytest.mark.parametrize(("seconds", "length"), [(30.0, 100), (0.1, 100), (0.1, None), (0.1, 40 * 2**20)])
def test_a_body_that_stops_or_creeps_is_not_waited_for(tmp_path: Path, seconds: float, length: int | None) -> None:
    """Whether it is kept or, being long, passed on as it comes."""
    framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
    head = b"POST /v1/ocr HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % framing

    async def run() -> None:
        async with door(tmp_path, HASTY) as inside, engine("a") as a:
            inside.publish(a)
            if seconds > 1:
                said = await inside.ask(head + b"ab")
            else:
                said = await drip(inside, head, b"1\r\na\r\n" if length is None else b"a", seconds)
            assert said.startswith(b"HTTP/1.1 408 "), said
            await until(lambda: inside.in_flight == {})

    asyncio.run(run())


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_who_closes_its_half_gets_its_answer(tmp_path: Path, version: bytes) -> None:
    async def run() -> None:
        async with door(tmp_path) as inside, engine("a") as a:
            inside.publish(a)
            for request in (GET, SLOW):
                said = await inside.ask(request.replace(b"1.1", version, 1), then_half_close=True)
                answer = final(said)
                assert answer.startswith(b"HTTP/%b 200 " % version), said
                assert b'"replica": "a"' in answer and answer.endswith(b"}")
                assert (said == answer) or version == b"1.1"
            assert inside.in_flight == {}

    asyncio.run(run())


def test_who_has_gone_frees_its_replica(tmp_path: Path) -> None:
    async def run() -> None:
        async with door(tmp_path) as inside, engine("a") as a:
            inside.publish(a)
            for _ in range(3):
                _, writer = await inside.connect()
                writer.write(SLOW.replace(b"0.7", b"600"))
                await until(lambda: inside.in_flight == {"a": 1})
                writer.close()
                await until(lambda: inside.in_flight == {})

    asyncio.run(run())


def test_half_closed_in_the_middle_is_the_end(tmp_path: Path) -> None:
    async def run() -> None:
        async with door(tmp_path) as inside, engine("a") as a:
            inside.publish(a)
            assert await inside.ask(b"GET / HT", then_half_close=True) == b""
            assert await inside.ask(SLOW[:-1], then_half_close=True) == b""
            long = SLOW.replace(b"Length: 3", b"Length: 40000000")  # passed on as it comes
            assert await inside.ask(long, then_half_close=True) == b""
            await until(lambda: inside.in_flight == {})

    asyncio.run(run())


def test_who_takes_nothing_of_an_answer_is_let_go(tmp_path: Path) -> None:
    async def run() -> None:
        async with door(tmp_path, HASTY) as inside, engine("a") as a:
            inside.publish(a)
            with socket.socket() as raw:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                raw.connect(("127.0.0.1", inside.port))
                raw.sendall(GET.replace(b"/here", b"/stream?pieces=1000"))
                await until(lambda: inside.in_flight == {"a": 1})
                await until(lambda: inside.in_flight == {})

    asyncio.run(run())


@pytest.mark.parametrize(
    "bomb",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"b" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"n" * 100_000 + b": b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
        b"GET /" + b"p" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"b" * 1_000_000,  # and no end
        b"GET / HTTP/1.1\r\nHost: x\r\n" + (b"A: " + b"b" * 10_000 + b"\r\n") * 60,  # within all limits but of the sum
    ],
    ids=["value", "name", "many", "target", "endless", "all-together"],
)
def test_a_head_too_large_is_said_to_be_so(tmp_path: Path, bomb: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with door(tmp_path) as inside, engine("a") as a:
            inside.publish(a)
            reader, writer = await inside.connect()
            writer.write(bomb)
            async with asyncio.timeout(PATIENCE):
                assert b" 431 " in await reader.readline()
            writer.close()
            assert b" 200 " in await inside.ask(GET, then_half_close=True)

    asyncio.run(run())
    assert sum(len(record.getMessage()) for record in caplog.records) < 1000  # nor does it fill the log


def test_what_comes_behind_a_request_is_answered_in_order_or_refused(tmp_path: Path) -> None:
    async def run() -> None:
        async with door(tmp_path) as inside, engine("a") as a:
            inside.publish(a)
            last = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            said = await inside.ask(SLOW + GET * 50 + last)
            assert said.count(b"HTTP/1.1 200 ") == 52
            assert said.index(b'"bytes": 3') < said.index(b'"/here"') < said.index(b'"/last"')
            said = await inside.ask(GET + b"\x00\xffwhat is this\r\n\r\n" + GET)
            assert (said.count(b" 400 "), said.count(b'"path"')) == (1, 0)  # nothing of such a client's is done

    asyncio.run(run())


def test_a_body_counts_as_no_head(tmp_path: Path) -> None:
    """However its bytes are cut, and behind an answer that did not wait for it."""

    async def run() -> None:
        async with door(tmp_path, Limits(linger=PATIENCE)) as inside, engine("a") as a:
            inside.publish(a)
            head = b"POST /v1/ocr HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n"
            said = await inside.ask(head + b"\r\n" + bytes(300_000), then_half_close=True)
            assert b" 200 " in final(said)[:20]
            inside.publish(open=False)
            reader, writer = await inside.connect()
            writer.write(head + b"Connection: close\r\n\r\n")
            for _ in range(30):
                writer.write(bytes(10_000))
                await asyncio.sleep(0.01)
            async with asyncio.timeout(PATIENCE):
                said = await reader.read()
            assert b" 503 " in said[:20] and b" 431 " not in said
            writer.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(b"/drain#x", id="a-fragment"),  # no client sends one, and servers cut it off
        pytest.param(b"/%64rain#x?y", id="a-fragment-and-an-escape"),
        pytest.param(b"http://x/drain#z", id="an-absolute-address"),
        pytest.param(b"/lease/#", id="an-empty-fragment"),
    ],
)
def test_no_spelling_of_it_reaches_what_is_between_replica_and_daemon(tmp_path: Path, target: bytes) -> None:
    async def run() -> None:
        async with engine("a") as a, door(tmp_path) as inside:
            inside.publish(a)
            assert b" 404 " in (await inside.ask(spelt(target)))[:20]

    asyncio.run(run())


@pytest.mark.parametrize("target", [b"/v1/ocr#x", b"/v1/oc%72", b"http://x/v1/ocr", b"/v1/ocr?a=/ui"])
def test_every_spelling_of_recognition_is_limited_and_counted(tmp_path: Path, target: bytes) -> None:
    async def run() -> None:
        async with engine("a") as a, door(tmp_path) as inside:
            inside.publish(a, rate_limit=RateLimit(per_second=0.001, burst=1))
            first, second = [(await inside.ask(spelt(target)))[:12] for _ in range(2)]
            assert (first, second) == (b"HTTP/1.1 200", b"HTTP/1.1 429")
            assert inside.front.counts.ever().requests == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("target", "path"), [(b"http://x", "/"), (b"http://x?y", "/?y"), (b"/a#b", "/a"), (b"//a/../b", "//a/../b")]
)
def test_a_replica_is_asked_for_a_path(tmp_path: Path, target: bytes, path: str) -> None:
    async def run() -> None:
        async with engine("a") as a, door(tmp_path) as inside:
            inside.publish(a)
            said = await inside.ask(spelt(target, b"GET"))
            assert json.loads(said.partition(b"\r\n\r\n")[2])["path"] == path

    asyncio.run(run())


def spelt(target: bytes, method: bytes = b"POST") -> bytes:
    return b"%b %b HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % (method, target)
