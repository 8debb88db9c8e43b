"""The page's place in the replica's server: made when somebody first asks for it, and only what it needs of Gradio."""

import asyncio
import contextlib
import importlib
import logging
import os
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference import uploads
from inference.reception import refused
from inference.refusals import Refusal
from inference.service import Service
from inference.ui import PATH, REMEDY, installed
from inference.ui.shelf import Shelf

if TYPE_CHECKING:
    from inference.ui.made import Made

#: of Gradio's routes those that the page uses; the others proxy, record, monitor, or serve clients that are no browsers
API = "gradio_api/"
_ASKED = ("info", "app_id", "queue/data", "upload_progress", "startup-events", "theme.css")
READ = ("", "config", "theme.css", "favicon.ico", "manifest.json", "robots.txt", *(API + one for one in _ASKED))
READ_BELOW = ("assets/", "static/", "svelte/", API + "heartbeat/", API + "file=")
SENT = tuple(API + one for one in ("upload", "queue/join", "reset", "cancel"))
STREAMS = tuple(API + one for one in ("heartbeat/", "queue/data", "upload_progress"))
MESSAGE_BYTES = 1 << 20  # of what is no file
ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_SSR_MODE": "False",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

log = logging.getLogger(__name__)


class Ui:
    """The page over one service. Belongs to its event loop, in which it is closed."""

    def __init__(self, service: Service, *, there: bool | None = None) -> None:
        """`there`: whether the extra is, as it is found by default."""
        self._there = installed() if there is None else there
        self._service = service
        self._making: asyncio.Task[Made] | None = None

    def routes(self) -> list[BaseRoute]:
        """/ui, and / that leads to it; without the extra one that says what is missing."""
        if not self._there:
            return [Route(PATH, _remedy), Route(f"{PATH}/{{rest:path}}", _remedy)]
        return [Route("/", _to_page), Route(PATH, _to_page), Mount(PATH, app=self._answer)]

    async def close(self) -> None:
        if self._making is None:
            return
        with contextlib.suppress(Exception):  # it was told when it was made
            await (await self._making).close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # Gradio's page uses no other
            return
        request, answer = Request(scope, receive), _Answer(send)
        wanted = scope["path"].removeprefix(scope["root_path"]).lstrip("/")
        try:
            _expect(request.method, wanted)
            made = await self._made(scope["app"])
            if request.method == "POST":
                receive = await _bounded(request, wanted, made.shelf)
            page = made.document if wanted == "" else made.page
            answering = page({**scope, "root_path": scope.get("app_root_path", "")}, receive, answer)
            if wanted.startswith(STREAMS):
                await self._until_leaving(answering)
                await answer.ended()
            else:
                await answering
        except Refusal as refusal:
            if not answer.begun:
                await refused(refusal)(scope, receive, send)

    async def _made(self, app: ASGIApp) -> "Made":
        """The first visitor waits some seconds, in which the others are served."""
        if self._making is None or (self._making.done() and self._making.exception()):
            self._making = asyncio.create_task(_make(app, self._service))
        try:
            return await asyncio.shield(self._making)
        except Exception as error:
            log.exception("the page cannot be made")
            raise Refusal(500, "the page cannot be made; the replica's log says why") from error

    async def _until_leaving(self, streaming: Awaitable[None]) -> None:
        """A stream lasts as long as somebody's page is open, and must not keep the server from ending."""
        stream = asyncio.ensure_future(streaming)
        leaving = asyncio.create_task(self._service.leaving.wait())
        try:
            await asyncio.wait((stream, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            stream.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await stream


class _Answer:
    """Sends, and knows how far it is."""

    def __init__(self, send: Send) -> None:
        self.begun = False
        self._open = False
        self._send = send

    async def __call__(self, message: Message) -> None:
        self.begun = True
        self._open = message["type"] == "http.response.start" or bool(message.get("more_body"))
        await self._send(message)

    async def ended(self) -> None:
        """An answer that was left open is whole with what was sent."""
        if self._open:
            await self({"type": "http.response.body", "body": b""})


async def _make(app: ASGIApp, service: Service) -> "Made":
    shelf = Shelf()
    os.environ |= ENVIRONMENT | {"GRADIO_TEMP_DIR": str(shelf.folder)}  # read when Gradio is imported
    module: Any = await asyncio.to_thread(importlib.import_module, "inference.ui.made")
    made: Made = await module.make(app, service, shelf)
    return made


def _expect(method: str, wanted: str) -> None:
    if method in ("GET", "HEAD") and (wanted in READ or wanted.startswith(READ_BELOW)) and "://" not in wanted:
        return
    if method != "POST" or wanted not in SENT:
        raise Refusal(404, "the page has no such part")


async def _bounded(request: Request, wanted: str, shelf: Shelf) -> Receive:
    """Files while there is room for them; messages that name no file but those. Raises Refusal."""
    if wanted == f"{API}upload":
        room = await asyncio.to_thread(shelf.room)
        if int(request.headers.get("content-length", "0")) > room:
            await uploads.discard(request, room)
            raise Refusal(413, f"there is room for {room:,} more bytes here; try again when others are done")
        return uploads.within(request, room, _kept).receive
    body = await uploads.within(request, MESSAGE_BYTES, _kept).body()
    if body and not all(shelf.holds(Path(path)) for path in _paths(uploads.document(body))):
        raise Refusal(403, "a file that was not uploaded here")
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        return next(messages, None) or await request.receive()

    return receive


def _kept(count: int) -> None:
    """Files go to the disk, whose room was looked at; messages are small."""


def _paths(found: object) -> Iterator[str]:
    """What a message calls a path, wherever it stands: Gradio would copy or fetch it, whatever it is."""
    if isinstance(found, dict):
        for key, value in found.items():
            if key == "path" and value:
                yield str(value)
            else:
                yield from _paths(value)
    elif isinstance(found, list):
        for value in found:
            yield from _paths(value)


async def _to_page(_: Request) -> Response:
    return RedirectResponse(f"{PATH}/", status_code=307)


async def _remedy(_: Request) -> Response:
    return PlainTextResponse(f"{REMEDY}\n", status_code=404)
