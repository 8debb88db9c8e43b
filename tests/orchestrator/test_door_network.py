"""The network between the door and a replica is cut for a while: no packet comes through, and nobody is told."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from orchestrator.door import Replica
from orchestrator.door.limits import Limits
from tests.orchestrator.door_inside import PATIENCE, door, engine, until
from tests.orchestrator.door_upstream import upstream

WATCHFUL = Limits(doubt=0.5, answer=0.5, hold=PATIENCE)


class Wire:
    """Passes bytes on, or keeps them back: connections are taken up either way, as a router in between would."""

    def __init__(self) -> None:
        self.whole = asyncio.Event()
        self.whole.set()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65536):
                await self.whole.wait()
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def wired(replica: Replica) -> AsyncIterator[tuple[Replica, Wire]]:
    """A replica as it is reached over a wire."""
    wire, address = Wire(), urlsplit(replica.url)
    running: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(address.hostname, address.port)
        for way in (wire.carry(reader, back), wire.carry(there, writer)):
            running.add(asyncio.create_task(way))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield Replica(id=replica.id, url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), wire
    finally:
        server.close()
        for task in running:
            task.cancel()


def recognition(body: bytes, seconds: float = 0.0) -> bytes:
    length = f"POST /v1/ocr?seconds={seconds} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}"
    length += "\r\nX-Request-Id: the-one"
    return length.encode() + b"\r\n\r\n" + body


def test_what_was_on_the_wire_is_done_elsewhere_and_the_replica_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with engine("a") as near, engine("b") as b, wired(near) as (a, wire), door(tmp_path, WATCHFUL) as inside:
            inside.publish(a, b)
            warm = [await inside.ask(recognition(b"x")) for _ in range(4)]
            assert {b'"replica": "a"' in said for said in warm} == {True, False}
            asked = [asyncio.create_task(inside.ask(recognition(bytes(100_000), 0.3))) for _ in range(10)]
            await until(lambda: inside.in_flight.get("a", 0) >= 4)
            wire.whole.clear()
            said = await asyncio.gather(*asked)
            assert all(b" 200 " in one[:20] for one in said)
            # while it is cut off nobody waits for it
            assert inside.front.roster.unheard == {a.url}
            later = await asyncio.gather(*(inside.ask(recognition(b"x")) for _ in range(6)))
            assert all(b'"replica": "b"' in one for one in later)
            wire.whole.set()
            await until(lambda: not inside.front.roster.unheard)
            again = [await inside.ask(recognition(b"x")) for _ in range(4)]
            assert {b'"replica": "a"' in one for one in again} == {True, False}

    caplog.set_level(logging.INFO, "halve.door")
    asyncio.run(run())
    assert "does not answer any more" in caplog.text and "answers again" in caplog.text


def test_the_only_replica_is_waited_for(tmp_path: Path) -> None:
    async def run() -> None:
        async with engine("a") as near, wired(near) as (a, wire), door(tmp_path, WATCHFUL) as inside:
            inside.publish(a)
            asked = [asyncio.create_task(inside.ask(recognition(b"x", 0.5))) for _ in range(5)]
            await until(lambda: inside.in_flight == {"a": 5})
            wire.whole.clear()
            await until(lambda: bool(inside.front.roster.unheard))
            asked += [asyncio.create_task(inside.ask(recognition(b"y"))) for _ in range(5)]
            await until(lambda: inside.front.roster.waiting == 10)
            await asyncio.sleep(1.5)  # it is asked once more, in vain
            assert inside.front.roster.waiting == 10
            wire.whole.set()
            said = await asyncio.gather(*asked)
            assert [b" 200 " in one[:20] for one in said] == [True] * 10

    asyncio.run(run())


def test_a_replica_that_thinks_for_long_is_left_to_it(tmp_path: Path) -> None:
    """It answers when it is asked, so nobody takes its work away."""

    async def run() -> None:
        async with engine("a") as a, door(tmp_path, replace(WATCHFUL, answer=1.0)) as inside:
            inside.publish(a)
            said = await inside.ask(recognition(b"x", 4.0))
            assert b" 200 " in said[:20]
            seen = await inside.ask(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b'"ocr": 1}' in seen  # once
            assert inside.front.counts.totals.again == 0

    asyncio.run(run())


@pytest.mark.parametrize("kept", [False, True], ids=["a-new-connection", "a-kept-connection"])
def test_a_replica_that_dies_late_has_its_work_done_elsewhere_too(tmp_path: Path, kept: bool) -> None:
    """How long a request waits for a replica is limited, not how long a replica works on it."""

    async def run() -> None:
        with upstream("a") as a:
            async with engine("b") as b, door(tmp_path, Limits(hold=1.0)) as inside:
                inside.publish(Replica(id="a", url=a.url))
                if kept:
                    await inside.ask(recognition(b"x"))
                asked = asyncio.create_task(inside.ask(recognition(b"x", 600.0).replace(b" HTTP", b"&only=a HTTP")))
                await until(lambda: inside.in_flight == {"a": 1})
                inside.publish(Replica(id="a", url=a.url), b)
                await asyncio.sleep(1.2)
                a.kill()
                said = await asked
                assert b" 200 " in said[:20] and b'"replica": "b"' in said

    asyncio.run(run())


def test_what_may_not_be_done_twice_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with engine("a") as near, engine("b") as b, wired(near) as (a, wire), door(tmp_path, WATCHFUL) as inside:
            inside.publish(a)
            wire.whole.clear()
            asked = asyncio.create_task(inside.ask(recognition(b"x").replace(b"/v1/ocr", b"/v1/other")))
            await until(lambda: inside.in_flight == {"a": 1})
            inside.publish(a, b)
            assert (await asked).startswith(b"HTTP/1.1 502 ")

    asyncio.run(run())
    assert "request the-one: POST /v1/other 502 " in caplog.text  # and the log knows which it was
