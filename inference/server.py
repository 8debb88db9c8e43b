"""The engine over HTTP: POST /v1/ocr, GET /healthz, GET /metrics, POST /drain, and the v2 protocol under /v2.

GET /openapi.json describes them all. What people look at is under /ui.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from inference import kserve, openapi, reception, uploads
from inference.pages import Page
from inference.reception import Answer
from inference.service import Service
from inference.ui.mount import Ui
from inference.uploads import Upload

log = logging.getLogger(__name__)


def app(service: Service, *, failed: Callable[[Exception], None]) -> Starlette:
    """The HTTP application around a service, which it loads at start-up; `failed` is told when that goes wrong."""

    ui = Ui(service)

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
        await ui.close()
        await service.close()

    async def receive(request: Request) -> tuple[Upload, reception.Render]:
        return await uploads.receive(request, service.sources, service.settings.max_bytes), _rendered

    async def ocr(request: Request) -> Response:
        return await reception.answered(service, request, receive)

    async def healthz(_: Request) -> Response:
        return Answer(_health(service))

    async def metrics(_: Request) -> Response:
        gauges = {
            "halve_queue_images": service.waiting,
            "halve_in_flight_requests": service.in_flight,
            "halve_held_bytes": service.held_bytes,
            "halve_workers": service.workers,
            "halve_ready": service.status == "ready",
        }
        return PlainTextResponse(service.metrics.text(gauges), media_type="text/plain; version=0.0.4")

    async def described(_: Request) -> Response:
        return Answer(openapi.document(_version() or "0", service.model))

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
            Route("/openapi.json", described),
            *kserve.routes(service, version=_version() or "0"),
            *ui.routes(),
        ],
        exception_handlers={HTTPException: _http_error},
        lifespan=lifespan,
    )


def _rendered(pages: Sequence[Page]) -> Response:
    """One page is an object, several are an array in input order; a drawing is the PNG itself."""
    if pages[0].drawn is not None:
        return Response(pages[0].drawn, media_type="image/png")
    return Answer(pages[0].content if len(pages) == 1 else [page.content for page in pages])


def _health(service: Service) -> dict[str, Any]:
    """`provider` is the one that really runs, None until the model is loaded; `sources` is what
    requests may name instead of sending; `reclaim_at` and `rebalance_at` are what the host's watcher says."""
    engine, notices = service.engine, _notices(service.settings.notices)
    return {
        "status": service.status,
        "provider": engine.provider if engine else None,
        "fallback": engine.fallback if engine else None,
        "model": service.model,
        "precision": engine.precision if engine else None,
        "version": _version(),
        "workers": service.workers,
        "batches": service.at_once,
        "sources": service.sources.named,
        "in_flight": service.in_flight,
        "queue": service.waiting,
        "images_total": service.metrics.images_total,
        "reclaim_at": notices.get("reclaim_at"),
        "rebalance_at": notices.get("rebalance_at"),
    }


def _notices(file: Path | None) -> dict[str, Any]:
    """None yet, or no watcher: empty."""
    try:
        said = json.loads(file.read_bytes()) if file else {}
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Answer({"error": error.detail}, status_code=error.status_code, headers=error.headers)


def _version() -> str | None:
    try:
        return version("halve")
    except PackageNotFoundError:  # run from a source folder
        return None
