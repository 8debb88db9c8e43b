"""The door's side of HTTP towards a replica, against servers that say exactly what they are told to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.door import connection
from orchestrator.door.connection import Broken, Chunks
from orchestrator.door.serving import Replica
from orchestrator.door.upstream import NotSent, Upstream
from tests.orchestrator.door_inside import PATIENCE, until

ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def saying(*answers: list[bytes], close: bool = False) -> AsyncIterator[tuple[Replica, list[int]]]:
    """A replica that answers the n-th request of a connection with the n-th list of segments."""
    connections: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(0)
        for answer in answers:
            try:
                await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            connections[-1] += 1
            for segment in answer:
                writer.write(segment)
                await writer.drain()
                await asyncio.sleep(0.001)
            if close:
                break
        if not close:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Replica(id="a", url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), connections
    finally:
        server.close()


async def ask(upstream: Upstream, replica: Replica, *, head_only: bool = False) -> tuple[int, dict[str, str], bytes]:
    reply = await upstream.send(replica, ASK, b"", head_only=head_only)
    try:
        body = b""
        while piece := await reply.read():
            body += piece
        return reply.status, {name.lower(): value for name, value in reply.headers.items()}, body
    finally:
        reply.close()


def cut(whole: bytes) -> list[bytes]:
    return [whole[index : index + 1] for index in range(len(whole))]


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: 1\r\n\r\n"
    b"5;e=1\r\nhello\r\nB\r\n, the world\r\n0\r\nT: 1\r\n\r\n"
)
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\nhello"


@pytest.mark.parametrize(
    ("answer", "status", "body", "kept"),
    [
        ([WHOLE], 200, b"hello", True),
        (cut(WHOLE), 200, b"hello", True),
        ([CHUNKED], 200, b"hello, the world", True),
        (cut(CHUNKED), 200, b"hello, the world", True),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], 204, b"", True),
        ([b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n"], 304, b"", True),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nA: b\r\n\r\n" + WHOLE], 200, b"hello", True),
        ([b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"], 200, b"", True),
        ([WHOLE.replace(b"keep-alive", b"close", 1)], 200, b"hello", False),
        ([WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0", 1)], 200, b"hello", False),
        ([WHOLE + b"more than was promised"], 200, b"hello", False),
    ],
)
def test_reads_an_answer(answer: list[bytes], status: int, body: bytes, kept: bool) -> None:
    async def run() -> None:
        async with saying(answer, answer) as (replica, connections):
            upstream = Upstream()
            for _ in range(2):
                got = await ask(upstream, replica)
                assert (got[0], got[2]) == (status, body)
                assert not {"connection", "keep-alive", "transfer-encoding"} & set(got[1])
            assert connections == ([2] if kept else [1, 1])
            upstream.tidy(set())

    asyncio.run(run())


def test_without_a_length_an_answer_ends_with_the_connection() -> None:
    async def run() -> None:
        async with saying([b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo"], close=True) as (replica, _):
            assert (await ask(Upstream(), replica))[2] == b"hello"

    asyncio.run(run())


def test_an_answer_to_head_has_a_length_and_no_body() -> None:
    async def run() -> None:
        async with saying([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"]) as (replica, _):
            status, headers, body = await ask(Upstream(), replica, head_only=True)
            assert (status, headers["content-length"], body) == (200, "5", b"")

    asyncio.run(run())


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 ok\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"220 mail.example.org ESMTP\r\n\r\n",
        b"x" * (connection.HEAD_BYTES_MAX + 1),
    ],
)
def test_an_answer_that_is_none_is_a_broken_replica(answer: bytes) -> None:
    async def run() -> None:
        async with saying([answer], close=True) as (replica, _):
            with pytest.raises(Broken) as broken:
                await ask(Upstream(), replica)
            assert not broken.value.stale

    asyncio.run(run())


def test_a_kept_connection_that_was_closed_is_stale_or_not_used() -> None:
    async def run() -> None:
        async with saying([WHOLE], [b""], close=False) as (replica, _):
            upstream = Upstream()
            await ask(upstream, replica)
            asking = asyncio.create_task(ask(upstream, replica))
            await until(lambda: bool(upstream._busy))
            for kept in list(upstream._busy):
                kept._transport.abort()
            with pytest.raises(Broken) as broken:
                await asking
            assert broken.value.stale
        async with saying([WHOLE], close=True) as (replica, connections):
            for _ in range(2):
                await ask(upstream, replica)
                await until(lambda: all(one._transport.is_closing() for one in upstream._idle[replica.url]))  # its end
            assert connections == [1, 1]

    asyncio.run(run())


def test_nobody_there_means_nothing_was_sent() -> None:
    async def run() -> None:
        async with saying() as (replica, _):
            pass
        with pytest.raises(NotSent):
            await ask(Upstream(), replica)

    asyncio.run(run())


def test_a_silent_replica_is_given_up() -> None:
    async def run() -> None:
        async with saying([b""]) as (replica, _):
            upstream = Upstream()
            asking = asyncio.create_task(ask(upstream, replica))
            await until(lambda: bool(upstream._busy))
            upstream.tidy({replica.url})
            assert not asking.done()
            for busy in upstream._busy:
                busy.stirred_at -= connection.REPLY_SECONDS + 1
            upstream.tidy({replica.url})
            with pytest.raises(Broken, match="silent"):
                await asking

    asyncio.run(run())


def test_a_long_answer_waits_for_a_slow_reader() -> None:
    """Read ahead is bounded: a replica can not fill the door's memory."""
    size = 20 * 2**20
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // 65536):
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        reply = await Upstream().send(Replica(id="a", url=url), ASK, b"", head_only=False)
        await asyncio.sleep(0.2)
        assert sent < size / 2
        got = 0
        while piece := await reply.read():
            got += len(piece)
        assert got == size
        reply.close()
        server.close()

    asyncio.run(run())


def test_an_answer_before_the_body_is_taken_is_passed_on() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536
            await asyncio.sleep(0)

    async def run() -> None:
        async with saying([b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"]) as (replica, _):
            upstream = Upstream()
            async with asyncio.timeout(PATIENCE):
                reply = await upstream.send(replica, ASK, pieces(), head_only=False)
            assert reply.status == 413
            reply.close()
            assert upstream._kept(replica.url) is None

    asyncio.run(run())


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.data())
def test_chunks_come_out_however_they_are_cut(contents: list[bytes], data: st.DataObject) -> None:
    coded = b"".join(b"%x\r\n%b\r\n" % (len(content), content) for content in contents) + b"0\r\n\r\n"
    chunks, out = Chunks(), b""
    while coded:
        size = data.draw(st.integers(1, len(coded)))
        out += chunks.feed(coded[:size])
        coded = coded[size:]
        assert chunks.done is (not coded)
    assert out == b"".join(contents)
