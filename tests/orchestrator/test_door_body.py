"""How much of what clients send is kept in memory, by all of them together."""

import asyncio
from types import SimpleNamespace

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import StreamReader

from orchestrator.door.body import Body, Memory
from orchestrator.door.limits import Limits


class Upload:
    """A request whose body comes when the test says so."""

    def __init__(self, memory: Memory, length: int | None) -> None:
        protocol = BaseProtocol(asyncio.get_running_loop())
        protocol.connection_made(asyncio.Transport())
        self.content = StreamReader(protocol, 2**16)
        request = SimpleNamespace(content=self.content, content_length=length)
        self.body = Body(request, memory, Limits(silent=60.0))  # type: ignore[arg-type]

    def end(self) -> None:
        self.content.feed_eof()

    async def sent(self) -> bytes:
        return b"".join([piece async for piece in self.body.stream()])


def test_who_promises_much_and_sends_nothing_takes_no_memory() -> None:
    async def run() -> None:
        memory = Memory(1000)
        waiting = [Upload(memory, 1000) for _ in range(3)]
        keeping = [asyncio.create_task(one.body.keep()) for one in waiting]
        other = Upload(memory, 900)
        keeping.append(asyncio.create_task(other.body.keep()))
        await asyncio.sleep(0.01)
        other.content.feed_data(bytes(900))
        other.end()
        await keeping[-1]
        assert other.body.whole and memory.free == 100
        other.body.forget()
        for task in keeping:
            task.cancel()
        assert memory.free == 1000

    asyncio.run(run())


@pytest.mark.parametrize("length", [1500, None], ids=["of-known-length", "in-chunks"])
def test_what_finds_no_memory_is_sent_once_and_whole(length: int | None) -> None:
    async def run() -> None:
        memory = Memory(1000)
        upload = Upload(memory, length)
        upload.content.feed_data(b"a" * 800)
        keeping = asyncio.create_task(upload.body.keep())
        await asyncio.sleep(0.01)
        upload.content.feed_data(b"b" * 700)
        await keeping
        assert not upload.body.whole
        upload.end()
        sent = await upload.sent()
        assert sent.count(b"a") >= 800 and sent.count(b"b") >= 700
        upload.body.forget()
        assert memory.free == 1000

    asyncio.run(run())
