"""A door and a replica inside the test, for what a process of its own would make slow: short limits, cut networks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web

from orchestrator.door import Replica, ServingSet
from orchestrator.door.caller import Callers
from orchestrator.door.front import Front
from orchestrator.door.limits import Limits
from orchestrator.door.server import watch
from orchestrator.door.serving import Published, to_json, write_whole
from tests.orchestrator.door_upstream import make_app

PATIENCE = 60.0


@dataclass(frozen=True)
class Inside:
    """`port` is the door's."""

    front: Front
    port: int
    file: Path

    def publish(self, *replicas: Replica, **but: object) -> None:
        serving = ServingSet(**{"deployment": "ocr", "open": True, "replicas": replicas, **but})  # type: ignore[arg-type]
        write_whole(self.file, to_json(serving))
        self.front.roster.refresh()

    @property
    def in_flight(self) -> dict[str, int]:
        return self.front.roster.in_flight

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, request: bytes, *, then_half_close: bool = False) -> bytes:
        """All that the door says to these bytes until it closes the connection."""
        reader, writer = await self.connect()
        writer.write(request)
        if then_half_close:
            writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            said = await reader.read()
        writer.close()
        return said


@asynccontextmanager
async def door(
    folder: Path,
    limits: Limits | None = None,
    token: bytes | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> AsyncIterator[Inside]:
    """A door in this event loop that keeps looking after its replicas; `now` is when it opens by."""
    file = folder / "ocr.json"
    front = Front(Published(file, "ocr", now), token, datetime.now(UTC), None, limits or Limits())
    callers = Callers(front.answer, front.limits)
    listener = await asyncio.get_running_loop().create_server(callers, "127.0.0.1", 0, backlog=1000)
    watching = asyncio.create_task(watch(front))
    try:
        yield Inside(front, listener.sockets[0].getsockname()[1], file)
    finally:
        watching.cancel()
        listener.close()
        await callers.shutdown(0.1)
        front.upstream.tidy(set())


@asynccontextmanager
async def engine(name: str) -> AsyncIterator[Replica]:
    """A replica in this event loop."""
    runner = web.AppRunner(make_app(name), access_log=None, auto_decompress=False, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield Replica(id=name, url=f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()


def final(said: bytes) -> bytes:
    """The answers, without the "100 Continue" that one who closed its half gets after 50 ms: clients skip as many as
    come."""
    return said.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")


async def until(true: object) -> None:
    """Wait for a condition, a function without arguments."""
    assert callable(true)
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.01)
