"""A client's connection: what aiohttp makes of it, but for clients that half close, stall or send no HTTP."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

from orchestrator.door.limits import Limits
from orchestrator.door.replies import reply

HEAD_FIELD_BYTES = 16 * 1024
HEAD_FIELDS = 100
HEAD_BYTES = 128 * 1024  # of all of them: who never ends his head must not fill the memory, and needs no token for it
KNOCK_SECONDS = 0.05  # doubled each time, up to
KNOCK_SECONDS_MAX = 5.0
_STILL_THERE = b"HTTP/1.1 100 Continue\r\n\r\n"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_TOO_MANY = "Too many headers"


class Caller(web.RequestHandler):
    """One connection from one client."""

    __slots__ = ("_head_bytes", "_knock_seconds", "_stalled_seconds")

    def __init__(self, server: "Callers", limits: Limits) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # none is kept
            auto_decompress=False,
            keepalive_timeout=limits.head,
            lingering_time=limits.linger,
            max_line_size=HEAD_FIELD_BYTES,
            max_field_size=HEAD_FIELD_BYTES,
            max_headers=HEAD_FIELDS,
        )
        self._stalled_seconds = limits.stalled

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._head_bytes = 0
        self._knock_seconds = KNOCK_SECONDS
        # The kernel ends a connection whose peer takes nothing, or is gone without a word: no timer of ours per write.
        transport.get_extra_info("socket").setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(self._stalled_seconds * 1000)
        )

    def data_received(self, data: bytes) -> None:
        waiting = self._idle()
        super().data_received(data)
        if not (waiting and self._idle()):
            self._head_bytes = 0
            return
        self._head_bytes += len(data)  # of a head that goes on
        if self._head_bytes > HEAD_BYTES and self.transport is not None:
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio asks for it, aiohttp never answers
        """The client sends no more. That it has gone and that it only closed its half look the same from here: what it
        has asked is worked on, and it is knocked at, because one that has gone answers that with a reset.

        Over TLS there are no half-closed connections.
        """
        if self.ssl_context is not None or self._idle():
            return False
        self._later()
        return True

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP is answered in one line and logged in none: anybody can send as much of it as he likes."""
        if not isinstance(exc, BadHttpMessage):
            return super().handle_error(request, status, exc, message)
        if isinstance(exc, LineTooLong) or exc.message.startswith(_TOO_MANY):
            return reply(431, {"error": "too large", "reason": "the request's head is too large"}, close=True)
        return reply(400, {"error": "bad request", "reason": "this is no HTTP/1.1"}, close=True)

    def _idle(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def _later(self) -> None:
        self._loop.call_later(self._knock_seconds, self._knock)
        self._knock_seconds = min(2 * self._knock_seconds, KNOCK_SECONDS_MAX)

    def _knock(self) -> None:
        transport, request = self.transport, self._current_request
        if transport is None:
            return
        if self._idle():
            transport.close()
        elif request is not None and not request.content.is_eof():
            transport.abort()  # the rest of its body will never come
        else:
            self.close()  # after this answer
            if request is not None and request.version >= (1, 1) and not request.writer.output_size:
                transport.write(_STILL_THERE)  # an interim answer: every client has to skip it (RFC 9110, 15.2)
            self._later()


class Callers(web.Server):
    """All clients' connections. To be made where the event loop runs."""

    def __init__(self, answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], limits: Limits) -> None:
        super().__init__(answer, handler_cancellation=True)
        self._limits = limits

    def __call__(self) -> Caller:
        return Caller(self, self._limits)
