"""One HTTP/1.1 connection from the door to a replica: one request at a time, kept alive between them."""

import asyncio
import time
from collections.abc import AsyncIterator

from multidict import CIMultiDict

REPLY_SECONDS = 120.0  # the longest silence of a replica at work, or of one that should take a request's body
IDLE_SECONDS = 3.0  # less than servers keep an idle connection (uvicorn: 5 s), so it is ours to close
IDLE_MAX = 64  # idle connections kept to one replica
HEAD_BYTES_MAX = 64 * 1024
WINDOW_BYTES = 256 * 1024  # read ahead of a slow client by this much, and written to a slow replica in such pieces

_FRAMING = frozenset(("transfer-encoding", "content-length"))
_HOP = frozenset(("connection", "transfer-encoding", "keep-alive", "proxy-connection", "upgrade", "trailer"))


class Broken(Exception):
    """The replica died, or spoke no HTTP, after it may have seen the request.

    `stale`: on a connection used before. `unheard`: it may live, but nothing comes from it.
    """

    stale = False
    unheard = False


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

    def __init__(self, url: str, busy: "set[Connection]", idle: "list[Connection]") -> None:
        self.url = url
        self._busy = busy
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
        self._unheard = False
        self.complete = False
        self.used = 0
        self.stirred_at = 0.0  # when something last went over it, on the monotonic clock

    # What the door does with it

    async def send(self, head: bytes, body: AsyncIterator[bytes] | bytes, head_only: bool) -> Reply:
        """Send one request and wait for the answer's head; for all of it when it is short, so that a replica which dies
        in the middle of a short answer can still be replaced. Raises Broken."""
        self._head_only, self._answer, self.complete = head_only, None, False
        self.used += 1
        self._reply = asyncio.get_running_loop().create_future()
        self._busy.add(self)
        self.stirred_at = time.monotonic()
        try:
            if isinstance(body, bytes) and len(body) <= WINDOW_BYTES:
                self._transport.write(head + body if body else head)
            else:
                await self._send_body(head, body)
            return await self._reply
        finally:
            # Nobody will ask any more; an error that came too late to be raised is no news.
            if not self._reply.cancel() and not self._reply.cancelled():
                self._reply.exception()

    async def _send_body(self, head: bytes, body: AsyncIterator[bytes] | bytes) -> None:
        """Send a long body piece by piece; stop when the replica answers, or dies, before it has it all."""
        assert self._reply is not None
        self._transport.write(head)
        sending = asyncio.create_task(self._write_all(_pieces(body) if isinstance(body, bytes) else body))
        try:
            await asyncio.wait((sending, self._reply), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not sending.done():
                self._reusable = False
                sending.cancel()
        if sending.done():
            sending.result()  # raises what reading the body has raised

    async def _write_all(self, pieces: AsyncIterator[bytes]) -> None:
        async for piece in pieces:
            self._transport.write(piece)
            self.stirred_at = time.monotonic()
            await self._writable.wait()

    async def read(self) -> bytes:
        while not self._body and not self.complete:
            if self._error is not None:
                raise self._broken(self._error)
            self._reading = asyncio.get_running_loop().create_future()
            try:
                await self._reading
            finally:
                self._reading = None
        content = b"".join(self._body)
        self._body.clear()
        self._body_bytes = 0
        if self._paused:
            self._paused = False
            self.stirred_at = time.monotonic()
            self._transport.resume_reading()
        return content

    def release(self) -> None:
        whole = self.complete and not self._body and not self._buffer
        if whole and self._reusable and not self._transport.is_closing() and len(self._idle) < IDLE_MAX:
            self.stirred_at = time.monotonic()
            self._reply = None
            self._busy.discard(self)
            self._idle.append(self)
        else:
            self.close()

    def close(self) -> None:
        self._busy.discard(self)
        self._transport.abort()

    def expire(self, now: float) -> None:
        """Give up on a replica that has been silent for too long. Asked now and then: a timer per request is dear."""
        if now - self.stirred_at > REPLY_SECONDS and not self._paused:
            self._fail(f"silent for {REPLY_SECONDS:.0f} s")

    def unheard(self) -> None:
        """Give up on a replica that cannot be reached any more: whoever waits for it need not."""
        self._unheard = True
        self._fail("nothing comes from it any more")

    def fresh(self, now: float) -> bool:
        return now - self.stirred_at < IDLE_SECONDS and not self._transport.is_closing() and self._error is None

    # What the event loop does with it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.stirred_at = time.monotonic()
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
        ends: list[tuple[str, str]] = []
        hop: dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon or not name or name[-1] == " ":
                raise ValueError(line[:80])
            lower, value = name.lower(), value.strip(" \t")
            if lower == "connection":
                hop[lower] = f"{hop[lower]}, {value}" if lower in hop else value
            elif lower in _FRAMING and hop.setdefault(lower, value) != value:
                raise ValueError(f"two different {name}")
            if lower not in _HOP:
                ends.append((name, value))
        headers = CIMultiDict(ends)
        self._frame(version, status, hop)
        for name in hop.get("connection", "").split(","):
            if name and (own := name.strip()) in headers:
                del headers[own]
        if self._chunks is not None:
            headers.popall("Content-Length", None)
        self._answer = Reply(self, status, reason, headers)
        self._short = self._left is not None and self._left <= WINDOW_BYTES
        self._feed(rest)

    def _frame(self, version: str, status: int, hop: dict[str, str]) -> None:
        """Where the body ends (RFC 9112 section 6.3), and whether another answer can follow."""
        self._reusable = version == "HTTP/1.1" and "close" not in hop.get("connection", "").lower()
        coding, length = hop.get("transfer-encoding"), hop.get("content-length")
        self._chunks = None
        if self._head_only or status in (204, 304):
            self._left = 0
        elif coding is not None:
            if coding.lower() != "chunked":
                raise ValueError(f"transfer coding {coding[:40]!r}")
            self._left = None
            self._chunks = Chunks()
        elif length is not None:
            if not length.isdecimal():
                raise ValueError(f"content length {length[:40]!r}")
            self._left = int(length)
        else:
            self._left = None

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
        broken.unheard = self._unheard
        broken.stale = self.used > 1 and self._answer is None and not self._unheard
        return broken


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    view = memoryview(body)
    for start in range(0, len(body), WINDOW_BYTES):
        yield bytes(view[start : start + WINDOW_BYTES])
