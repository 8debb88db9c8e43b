"""The engine over HTTP: POST /v1/ocr, GET /healthz, GET /metrics, POST /drain."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from inference import fields, schema, uploads
from inference.batching import DeadlinePassed, QueueFull
from inference.images import BadImage
from inference.service import Service
from inference.uploads import Refusal, Upload

RECEIVE_SECONDS = 60.0  # for the whole body
LOADING_RETRY_SECONDS = 1
DRAINING_RETRY_SECONDS = 10
CLIENT_GONE = 499  # nginx's name for an answer that nobody reads; it only shows in the metrics

log = logging.getLogger(__name__)


class Answer(Response):
    """JSON with readable Chinese."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def app(service: Service, *, failed: Callable[[Exception], None]) -> Starlette:
    """The HTTP application around a service, which it loads at start-up; `failed` is told when that goes wrong."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async def load() -> None:
            try:
                await service.load()
            except Exception as error:  # noqa: BLE001  the process has to end, with whatever the reason is
                failed(error)

        loading = asyncio.create_task(load())
        yield
        await loading
        await service.close()

    async def ocr(request: Request) -> Response:
        return await _ocr(service, request)

    async def healthz(_: Request) -> Response:
        return Answer(_health(service))

    async def metrics(_: Request) -> Response:
        gauges = {
            "queue_images": service.waiting,
            "in_flight_requests": service.in_flight,
            "workers": service.workers,
            "ready": service.status == "ready",
        }
        return PlainTextResponse(service.metrics.text(gauges), media_type="text/plain; version=0.0.4")

    async def drain(_: Request) -> Response:
        service.drain()
        log.info("draining: %d in flight", service.in_flight)
        return Answer(_health(service))

    return Starlette(
        routes=[
            Route("/v1/ocr", ocr, methods=["POST"]),
            Route("/healthz", healthz),
            Route("/metrics", metrics),
            Route("/drain", drain, methods=["POST"]),
        ],
        exception_handlers={HTTPException: _http_error},
        lifespan=lifespan,
    )


def _health(service: Service) -> dict[str, Any]:
    """`provider` is the one that really runs, None until the model is loaded; `reclaim_at` is for a host watcher."""
    engine = service.engine
    return {
        "status": service.status,
        "provider": engine.provider if engine else None,
        "fallback": engine.fallback if engine else None,
        "model": service.settings.model,
        "precision": engine.precision if engine else None,
        "version": _version(),
        "workers": service.workers,
        "in_flight": service.in_flight,
        "queue": service.waiting,
        "images_total": service.metrics.images_total,
        "reclaim_at": None,
    }


async def _ocr(service: Service, request: Request) -> Response:
    started = time.monotonic()
    pages: list[dict[str, Any]] = []
    try:
        await _admit(service, request)
        with service.entered():
            pages = await _read(service, request, started)
        answer: Response = Answer(pages[0] if len(pages) == 1 else pages)
    except Refusal as refusal:
        answer = _refused(refusal)
    except HTTPException as error:
        answer = _refused(Refusal(error.status_code, error.detail))
    except ClientDisconnect:
        answer = Response(status_code=CLIENT_GONE)
    except Exception:
        log.exception("reading failed")
        answer = _refused(Refusal(500, "reading failed; the replica's log says why"))
    service.metrics.answered(answer.status_code, time.monotonic() - started, len(pages))
    answer.headers["X-Halve-Images"] = str(len(pages))  # what whoever stands in front counts
    return answer


async def _admit(service: Service, request: Request) -> None:
    """Refuse before anything is kept in memory."""
    refusal = None
    if service.status == "loading":
        refusal = Refusal(503, "the model is loading", LOADING_RETRY_SECONDS)
    elif service.status == "draining":
        refusal = Refusal(503, "draining: no new requests", DRAINING_RETRY_SECONDS)
    elif service.in_flight >= service.settings.queue + service.workers:
        refusal = Refusal(429, "too many requests at once", 1)
    elif int(request.headers.get("content-length", "0")) > service.settings.max_body_bytes:
        refusal = Refusal(413, f"the request is larger than {service.settings.max_body_bytes:,} bytes")
    if refusal:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RECEIVE_SECONDS):
                await uploads.discard(request, service.settings.max_body_bytes)
        raise refusal


async def _read(service: Service, request: Request, started: float) -> list[dict[str, Any]]:
    try:
        async with asyncio.timeout(RECEIVE_SECONDS):
            upload = await uploads.receive(request, service.settings.max_body_bytes)
    except TimeoutError:
        raise Refusal(408, f"the body took longer than {RECEIVE_SECONDS:.0f} s to arrive") from None
    reading = asyncio.ensure_future(_pages(service, upload, started))
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((reading, gone), return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            raise ClientDisconnect
        return reading.result()
    finally:
        reading.cancel()
        gone.cancel()


async def _pages(service: Service, upload: Upload, started: float) -> list[dict[str, Any]]:
    deadline = started + _deadline_seconds(service, upload)
    try:
        wanted = fields.wanted(upload.wishes.get("fields"), upload.wishes.get("prompt"))
        reads = await service.read(upload.files, deadline)
    except fields.BadWish as wish:
        raise Refusal(400, str(wish)) from None
    except BadImage as bad:
        raise Refusal(bad.status, bad.reason) from None
    except QueueFull as full:
        raise Refusal(429, "the queue is full", full.retry_after_seconds) from None
    except DeadlinePassed:
        raise Refusal(504, "not read before the deadline") from None
    engine = service.engine
    assert engine is not None  # it read
    return [
        schema.page(
            file.name,
            read.reading,
            fields.extract(read.reading.lines, wanted),
            milliseconds=read.milliseconds,
            model=engine.model,
            precision=engine.precision,
        )
        for file, read in zip(upload.files, reads, strict=True)
    ]


def _deadline_seconds(service: Service, upload: Upload) -> float:
    asked = upload.wishes.get("deadline_seconds")
    try:
        seconds = float(asked) if asked else service.settings.deadline_seconds
    except ValueError:
        raise Refusal(400, f"deadline_seconds: not a number: {asked!r}") from None
    if not seconds > 0:
        raise Refusal(400, "deadline_seconds: must be above 0")
    return min(seconds, service.settings.deadline_seconds)


async def _gone(request: Request) -> None:
    """Returns when the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _refused(refusal: Refusal) -> Response:
    retry = refusal.retry_after_seconds
    headers = {"Retry-After": str(retry)} if retry is not None else None
    return Answer({"error": refusal.reason}, status_code=refusal.status, headers=headers)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Answer({"error": error.detail}, status_code=error.status_code, headers=error.headers)


def _version() -> str | None:
    try:
        return version("halve")
    except PackageNotFoundError:  # run from a source folder
        return None
