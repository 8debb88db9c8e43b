"""A request's body: kept in memory so that it can be sent twice, or passed on as it comes when it is too long."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from orchestrator.door.limits import Limits

BODY_BYTES_MAX = 64 * 2**20
KEPT_BYTES_MAX = 32 * 2**20  # a longer body is sent once
KEPT_BYTES_TOTAL = 512 * 2**20  # by all requests together; beyond it bodies are sent once


class TooLarge(Exception):
    """The body is longer than the door lets in."""


class TooSlow(Exception):
    """The client stopped sending."""


class Memory:
    """How much all kept bodies take."""

    def __init__(self, total: int = KEPT_BYTES_TOTAL) -> None:
        self.free = total


class Body:
    """Read with `keep`, then sent with `bytes` (as often as one likes) or, if not `whole`, once with `stream`."""

    def __init__(self, request: web.BaseRequest, memory: Memory, limits: Limits) -> None:
        self._limits = limits
        self._content = request.content
        self._memory = memory
        self._charged = 0
        self._pieces: list[bytes] = []
        self._deadline = 0.0
        self.length = request.content_length  # None: chunked
        self.seen = 0
        self.whole = False
        self.kept = b""
        if self.length is not None and self.length > BODY_BYTES_MAX:
            raise TooLarge

    async def keep(self) -> None:
        """Read it into memory, as far as it may be kept. Raises TooLarge, TooSlow."""
        if self._content.is_eof():  # it came with the head, or there is none: nothing to wait for
            self.kept = self._content.read_nowait()
            self.seen = len(self.kept)
            self.whole = True
            return
        if self.length is not None and self.length > KEPT_BYTES_MAX:
            return
        while piece := await self._next():
            self._pieces.append(piece)
            # By what has come, not by what is announced: who sends nothing takes no room from those who do.
            if not (self.seen <= KEPT_BYTES_MAX and self._charge(self.seen)):
                return
        self.whole = True
        self.kept = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()

    async def stream(self) -> AsyncIterator[bytes]:
        """What was read and all that follows, framed as chunks when the length is unknown. Raises TooLarge, TooSlow."""
        chunked = self.length is None
        while self._pieces:
            piece = self._pieces.pop(0)
            yield b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
        while piece := await self._next():
            yield b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
        if chunked:
            yield b"0\r\n\r\n"

    def forget(self) -> None:
        """Give the memory back."""
        self._memory.free += self._charged
        self._charged = 0
        self.kept = b""
        self._pieces.clear()

    def _charge(self, upto: int) -> bool:
        more = upto - self._charged
        if more > self._memory.free:
            return False
        self._memory.free -= more
        self._charged = upto
        return True

    async def _next(self) -> bytes:
        content = self._content
        if content.is_eof() and content.at_eof():
            return b""
        now = asyncio.get_running_loop().time()
        self._deadline = self._deadline or now + self._limits.upload
        try:
            async with asyncio.timeout_at(min(self._deadline, now + self._limits.silent)):
                piece = await content.readany()
        except TimeoutError:
            raise TooSlow from None
        self.seen += len(piece)
        if self.seen > BODY_BYTES_MAX:
            raise TooLarge
        return piece
