"""The door's connections to its replicas.

Written on asyncio rather than on aiohttp's client, which costs more than all the rest: a bare pass-through with it
takes 75 µs of processor time per request, the whole door with this 42 µs, an aiohttp server alone 20 µs.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from orchestrator.door.connection import Broken, Connection, Reply
from orchestrator.door.serving import Replica
from orchestrator.pinning import Pins, Unpinned

CONNECT_SECONDS = 3.0


class NotSent(Exception):
    """The replica took nothing of the request: sending it again, anywhere, is safe. `unheard`: it may live."""

    unheard = False


class Upstream:
    """All connections to all replicas."""

    def __init__(self, pins: Pins | None = None) -> None:
        """`pins`: who answers at https:// addresses; without any nobody is believed there."""
        self._pins = pins
        self._busy: set[Connection] = set()
        self._idle: dict[str, list[Connection]] = {}  # by url

    async def send(
        self, replica: Replica, head: bytes, body: AsyncIterator[bytes] | bytes, *, head_only: bool, anew: bool = False
    ) -> Reply:
        """Send a request to a replica and wait for the head of its answer.

        `head_only`: the answer has no body (HEAD). `anew`: on a new connection. Raises NotSent, Broken.
        """
        connection = None if anew else self._kept(replica.url)
        if connection is None:
            connection = await self._connect(replica.url)
        try:
            return await connection.send(head, body, head_only)
        except BaseException:  # a client that went away included: its answer must not meet the next request
            connection.close()
            raise

    async def answers(self, url: str) -> bool:
        """Whether somebody speaks HTTP there."""
        host = urlsplit(url).netloc
        asked = f"GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        try:
            reply = await self.send(Replica(id="", url=url), asked, b"", head_only=False, anew=True)
        except (NotSent, Broken):
            return False
        reply.close()
        return True

    def silent(self, seconds: float) -> set[str]:
        """The urls at work from which nothing has come for so long, on any connection."""
        last: dict[str, float] = {}
        for connection in self._busy:
            last[connection.url] = max(connection.stirred_at, last.get(connection.url, 0.0))
        now = time.monotonic()
        return {url for url, at in last.items() if now - at > seconds}

    def give_up(self, url: str) -> int:
        """End all work at a url; how much there was. It fails with Broken, and can be done elsewhere."""
        lost = [connection for connection in self._busy if connection.url == url]
        for connection in lost:
            connection.unheard()
        return len(lost)

    def tidy(self, urls: set[str]) -> None:
        """Close idle connections to replicas not among `urls`, those idle for too long, and those silent for too long.

        To be called about once a second.
        """
        now = time.monotonic()
        for connection in list(self._busy):
            connection.expire(now)
        for url, connections in list(self._idle.items()):
            kept = [connection for connection in connections if url in urls and connection.fresh(now)]
            for connection in connections:
                if connection not in kept:
                    connection.close()
            connections[:] = kept
            if url not in urls:
                del self._idle[url]

    def _kept(self, url: str) -> Connection | None:
        connections = self._idle.get(url)
        now = time.monotonic()
        while connections:
            connection = connections.pop()
            if connection.fresh(now):
                return connection
            connection.close()
        return None

    async def _connect(self, url: str) -> Connection:
        address = urlsplit(url)
        idle = self._idle.setdefault(url, [])
        try:
            tls = self._tls(url)
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(url, self._busy, idle), address.hostname or "", address.port or 80, ssl=tls
                )
        except TimeoutError:
            silence = NotSent(f"no connection within {CONNECT_SECONDS:.0f} s")
            silence.unheard = True
            raise silence from None
        except OSError as error:
            raise NotSent(error.strerror or str(error)) from None
        return connection

    def _tls(self, url: str) -> ssl.SSLContext | None:
        """None for plain HTTP. Raises Unpinned when nobody is known there."""
        if not url.startswith("https:"):
            return None
        if self._pins is None:
            raise Unpinned(f"{url}: nobody is known there")
        return self._pins.context(url)
