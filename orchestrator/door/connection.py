"""One HTTP/1.1 connection from the door to a replica: one request at a time, kept alive between them."""

import asyncio
import time
from collections.abc import AsyncIterator

from multidict import CIMultiDict

REPLY_SECONDS = 120.0  # the longest silence of a replica at work
IDLE_SECONDS = 3.0  # less than servers keep an idle connection (uvicorn: 5 s), so it is ours to close
IDLE_MAX = 64  # idle connections kept to one replica
HEAD_BYTES_MAX = 64 * 1024
WINDOW_BYTES = 256 * 1024  # read ahead of a slow client by this much, and written to a slow replica in such pieces


class Broken(Exception):
    """The replica died, or spoke no HTTP, after it may have seen the request. `stale`: on a connection used before."""

    stale = False


class Chunks:
    """Takes the chunked transfer coding off, however the bytes were cut."""

    def __init__(self) -> None:
        self._pending = b""
        self._left = 0  # bytes of the chunk at hand still to come, its CRLF included
        self._trailing = False
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """The content in `data`. Raises ValueError for what is no chunk."""
        data = self._pending + data if self._pending else data
        self._pending = b""
        content: list[bytes] = []
        while data and not self.done:
            if self._left:
                piece, data = data[: self._left], data[self._left :]
                self._left -= len(piece)
                # The last two of a chunk are its CRLF.
                content.append(piece[: max(0, len(piece) - 2 + min(2, self._left))])
                continue
            line, newline, rest = data.partition(b"\r\n")
            if not newline:
                if len(data) > 1024:
                    raise ValueError("a chunk's head has no end")
                self._pending = data
                break
            data = rest
            if self._trailing:
                self.done = not line
            else:
                size = line.partition(b";")[0].strip(b" \t")
                if not size.isalnum():  # int() alone would take signs and underscores
                    raise ValueError(f"a chunk's head is {line[:40]!r}")
                length = int(size, 16)
                self._left, self._trailing = (length + 2, False) if length else (0, True)
        return b"".join(content)


class Reply:
    """A replica's answer: its head, and its body as it comes."""

    def __init__(self, connection: "Connection", status: int, reason: str, headers: CIMultiDict[str]) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers  # end to end only
        self._connection = connection

    @property
    def complete(self) -> bool:
        """The whole body is here: `read` gives all of it at once."""
        return self._connection.complete

    async def read(self) -> bytes:
        """What has come of the body, at least one byte; b"" at its end. Raises Broken."""
        return await self._connection.read()

    def close(self) -> None:
        """Done with it. The connection is kept for the next request if the body was read to its end."""
        self._connection.release()


class Connection(asyncio.Protocol):
    """One connection to one replica."""

    def __init__(self, idle: "list[Connection]") -> None:
        self._idle = idle
        self._buffer = b""
        self._head_only = False
        self._reply: asyncio.Future[Reply] | None = None
        self._answer: Reply | None = None  # its head has come
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._left: int | None = 0  # bytes of the body still to come; None: until the connection ends
        self._short = False
        self._chunks: Chunks | None = None
        self._reading: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._paused = False
        self._reusable = True
        self._error: str | None = None
        self.complete = False
        self.used = 0
        self.idle_since = 0.0

    # What the door does with it

    async def send(self, head: bytes, body: AsyncIterator[bytes] | bytes, head_only: bool) -> Reply:
        """Send one request and wait for the answer's head; for all of it when it is short, so that a replica which dies
        in the middle of a short answer can still be replaced. Raises Broken."""
        self._head_only, self._answer, self.complete = head_only, None, False
        self.used += 1
        self._reply = asyncio.get_running_loop().create_future()
        try:
            if isinstance(body, bytes) and len(body) <= WINDOW_BYTES:
                self._transport.write(head + body if body else head)
            else:
                await self._send_body(head, body)
            async with asyncio.timeout(REPLY_SECONDS):
                return await self._reply
        except TimeoutError:
            raise self._broken(f"silent for {REPLY_SECONDS:.0f} s") from None
        finally:
            self._reply.cancel()  # nobody will ask any more

    async def _send_body(self, head: bytes, body: AsyncIterator[bytes] | bytes) -> None:
        assert self._reply is not None
        self._transport.write(head)
        async for piece in _pieces(body) if isinstance(body, bytes) else body:
            if self._reply.done():  # answered (or dead) before it had it all: the rest is of no use to it
                self._reusable = False
                return
            self._transport.write(piece)
            async with asyncio.timeout(REPLY_SECONDS):
                await self._writable.wait()

    async def read(self) -> bytes:
        while not self._body and not self.complete:
            if self._error is not None:
                raise self._broken(self._error)
            self._reading = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(REPLY_SECONDS):
                    await self._reading
            except TimeoutError:
                raise self._broken(f"silent for {REPLY_SECONDS:.0f} s") from None
            finally:
                self._reading = None
        content = b"".join(self._body)
        self._body.clear()
        self._body_bytes = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return content

    def release(self) -> None:
        whole = self.complete and not self._body and not self._buffer
        if whole and self._reusable and not self._transport.is_closing() and len(self._idle) < IDLE_MAX:
            self.idle_since = time.monotonic()
            self._reply = None
            self._idle.append(self)
        else:
            self._transport.abort()

    def close(self) -> None:
        self._transport.abort()

    def fresh(self, now: float) -> bool:
        return now - self.idle_since < IDLE_SECONDS and not self._transport.is_closing() and self._error is None

    # What the event loop does with it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._reply is None:
            self._fail("spoke without being asked")
        elif self._answer is not None:
            self._feed(data)
        else:
            self._buffer += data
            try:
                self._take_head()
            except (ValueError, IndexError) as error:
                self._fail(f"no HTTP: {error}")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and self._left is None and self._chunks is None and error is None:
            self.complete = True
            self._reusable = False
            self._wake()
        elif not self.complete:
            self._fail(f"the connection ended ({error or 'closed'})")
        self._error = self._error or "closed"
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # The bytes

    def _take_head(self) -> None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_BYTES_MAX:
                raise ValueError("a head without end")
            return
        lines = self._buffer[:end].decode("utf-8", "replace").split("\r\n")
        rest, self._buffer = self._buffer[end + 4 :], b""
        version, _, tail = lines[0].partition(" ")
        code, _, reason = tail.partition(" ")
        status = int(code)
        if not version.startswith("HTTP/1.") or not 100 <= status < 600:
            raise ValueError(lines[0][:80])
        if status < 200:  # 100 Continue, 103 Early Hints: the answer follows
            self._buffer = rest
            self._take_head()
            return
        headers: CIMultiDict[str] = CIMultiDict()
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon or not name or name[-1] == " ":
                raise ValueError(line[:80])
            headers.add(name, value.strip(" \t"))
        self._frame(version, status, headers)
        self._answer = Reply(self, status, reason, headers)
        self._short = self._left is not None and self._left <= WINDOW_BYTES
        self._feed(rest)

    def _frame(self, version: str, status: int, headers: CIMultiDict[str]) -> None:
        """Where the body ends (RFC 9112 section 6.3), and off with the headers that end at this hop."""
        connection = headers.get("Connection", "").lower()
        self._reusable = version == "HTTP/1.1" and "close" not in connection
        coding = headers.get("Transfer-Encoding", "").lower()
        length = headers.get("Content-Length")
        self._chunks = None
        if self._head_only or status in (204, 304):
            self._left = 0
        elif coding:
            if coding != "chunked":
                raise ValueError(f"transfer coding {coding[:40]!r}")
            self._left = None
            self._chunks = Chunks()
            headers.popall("Content-Length", None)
        elif length is not None:
            if not length.isdecimal() or len(headers.getall("Content-Length")) > 1:
                raise ValueError(f"content length {length[:40]!r}")
            self._left = int(length)
        else:
            self._left = None
        for name in (*connection.replace(" ", "").split(","), "Connection", "Keep-Alive", "Transfer-Encoding"):
            if name:
                headers.popall(name, None)

    def _feed(self, data: bytes) -> None:
        if self._chunks is not None:
            try:
                data = self._chunks.feed(data)
            except ValueError as error:
                self._fail(str(error))
                return
            self.complete = self._chunks.done
        elif self._left is not None:
            if len(data) > self._left:
                self._reusable = False  # more than it promised: whatever it is, it is no answer of ours
                data = data[: self._left]
            self._left -= len(data)
            self.complete = self._left == 0
        if data:
            self._body.append(data)
            self._body_bytes += len(data)
            if self._body_bytes > WINDOW_BYTES and not self._paused and not self.complete:
                self._paused = True
                self._transport.pause_reading()
        self._wake()
        if self._reply is not None and not self._reply.done() and (self.complete or not self._short):
            assert self._answer is not None
            self._reply.set_result(self._answer)

    def _wake(self) -> None:
        if self._reading is not None and not self._reading.done():
            self._reading.set_result(None)

    def _fail(self, reason: str) -> None:
        self._error = self._error or reason
        self._reusable = False
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(self._broken(reason))
        self._wake()
        self._transport.abort()

    def _broken(self, reason: str) -> Broken:
        broken = Broken(reason)
        broken.stale = self.used > 1 and self._answer is None
        return broken


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    view = memoryview(body)
    for start in range(0, len(body), WINDOW_BYTES):
        yield bytes(view[start : start + WINDOW_BYTES])
