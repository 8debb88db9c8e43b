"""The way of one request to read images, whatever its protocol: admitted, received, read in time, answered, counted."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from inference import uploads
from inference.batching import DeadlinePassed, QueueFull, out_of_memory
from inference.images import BadImage
from inference.pages import Page
from inference.refusals import Refusal
from inference.service import Service
from inference.uploads import Upload

RECEIVE_SECONDS = 60.0  # for the whole body
LOADING_RETRY_SECONDS = 1
DRAINING_RETRY_SECONDS = 10
NO_MEMORY_RETRY_SECONDS = 5
CROWDED_OUT_RETRY_SECONDS = 5
CLIENT_GONE = 499  # nginx's name for an answer that nobody reads; it only shows in the metrics

#: a request that says so waits for all that do not, and has half of every room; what it may be sent again without harm
PRIORITY, BATCH = "X-Halve-Priority", "batch"

Render = Callable[[Sequence[Page]], Response]
Receive = Callable[[Request], Awaitable[tuple[Upload, Render]]]
"""What was sent, and how its pages are answered. May raise what uploads.receive raises."""

log = logging.getLogger(__name__)


class Answer(Response):
    """JSON with readable Chinese."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return as_json(content)


def as_json(content: Any) -> bytes:
    """Half of a surrogate pair, which JSON may carry in and UTF-8 cannot carry out, becomes `?`."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


async def answered(service: Service, request: Request, receive: Receive) -> Response:
    """Never raises; never anything but the pages, or a status that says whose fault it is and a line that says what."""
    started = time.monotonic()
    online = request.headers.get(PRIORITY) != BATCH
    pages: Sequence[Page] = ()
    try:
        await _admit(service, request, online=online)
        with service.entered(online=online) as hold:
            upload, render = await _received(service, request, receive, hold)
            pages = await _unless_gone(request, _read(service, upload, started, online=online))
        answer = render(pages)
    except Refusal as refusal:
        answer = refused(refusal)
    except HTTPException as error:
        answer = refused(Refusal(error.status_code, error.detail))
    except ClientDisconnect:
        answer = Response(status_code=CLIENT_GONE)
    except Exception as error:
        log.exception("reading failed")
        answer = refused(_failure(error))
    count = len(pages) if answer.status_code == 200 else 0
    service.metrics.answered(answer.status_code, time.monotonic() - started, count)
    answer.headers["X-Halve-Images"] = str(count)  # what whoever stands in front counts
    return answer


def refused(refusal: Refusal) -> Response:
    """The answer that says so: its status, `{"error": reason}`, and Retry-After in seconds where it may come back."""
    retry = refusal.retry_after_seconds
    headers = {"Retry-After": str(retry)} if retry is not None else None
    return Answer({"error": refusal.reason}, status_code=refusal.status, headers=headers)


def _failure(error: Exception) -> Refusal:
    """A page for which there was no memory, even alone, may be read when others are done."""
    if out_of_memory(error):
        return Refusal(503, "not enough memory at the moment", NO_MEMORY_RETRY_SECONDS)
    return Refusal(500, "reading failed; the replica's log says why")


async def _admit(service: Service, request: Request, *, online: bool) -> None:
    """Refuse before anything is kept in memory."""
    refusal = None
    places = service.settings.queue + service.workers
    if service.status == "loading":
        refusal = Refusal(503, "the model is loading", LOADING_RETRY_SECONDS)
    elif service.status == "draining":
        refusal = Refusal(503, "draining: no new requests", DRAINING_RETRY_SECONDS)
    elif service.in_flight >= (places if online else places // 2):
        refusal = Refusal(429, "too many requests at once", 1)
    elif int(request.headers.get("content-length", "0")) > service.settings.max_body_bytes:
        refusal = Refusal(413, f"the request is larger than {service.settings.max_body_bytes:,} bytes")
    if refusal:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RECEIVE_SECONDS):
                await uploads.discard(request, service.settings.max_body_bytes)
        raise refusal


async def _received(
    service: Service, request: Request, receive: Receive, hold: Callable[[int], None]
) -> tuple[Upload, Render]:
    limited = uploads.within(request, service.settings.max_body_bytes, hold)
    try:
        async with asyncio.timeout(RECEIVE_SECONDS):
            return await receive(limited)
    except TimeoutError:
        raise Refusal(408, f"the body took longer than {RECEIVE_SECONDS:.0f} s to arrive") from None
    except QueueFull as full:
        raise Refusal(429, "too many bytes are waiting to be read", full.retry_after_seconds) from None


async def _read(service: Service, upload: Upload, started: float, *, online: bool) -> list[Page]:
    most = service.settings.deadline_seconds
    try:
        return await service.read(upload, started + min(upload.deadline_seconds or most, most), online=online)
    except BadImage as bad:
        raise Refusal(bad.status, bad.reason) from None
    except QueueFull as full:
        raise Refusal(429, "the queue is full", full.retry_after_seconds) from None
    except DeadlinePassed as passed:
        if not (online or passed.begun):  # nothing is known against these images
            raise Refusal(429, "online requests took all the time", CROWDED_OUT_RETRY_SECONDS) from None
        raise Refusal(504, "not read before the deadline") from None


async def _unless_gone(request: Request, read: Coroutine[Any, Any, list[Page]]) -> list[Page]:
    """Raises ClientDisconnect as soon as the client has hung up, and drops the work."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    reading, leaving = asyncio.ensure_future(read), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((reading, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            raise ClientDisconnect
        return reading.result()
    finally:
        reading.cancel()
        leaving.cancel()
