"""The page made: Gradio's application, alive, with its folder and its way to the replica."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference.service import Service
from inference.ui import PATH
from inference.ui.page import blocks, look
from inference.ui.replica import Replica
from inference.ui.shelf import Shelf

HERE = Path(__file__).parent
#: a frame around a line of text
ICON = (
    "<link rel='icon' href='data:image/svg+xml,%3Csvg xmlns=%22http://www.w3.org/2000/svg%22 viewBox=%220 0 16 16%22%3E"
    "%3Cpath fill=%22none%22 stroke=%22%234f46e5%22 stroke-width=%222%22 d=%22M1 3h14v10H1zM4 8h8%22/%3E%3C/svg%3E'>"
)


class Made:
    """`page` answers everything below /ui; `document` the page itself, with our script and style before Gradio's."""

    def __init__(self, page: Starlette, replica: Replica, shelf: Shelf) -> None:
        self.page: ASGIApp = page
        self.shelf = shelf
        self._replica = replica
        script, style = (HERE.joinpath(name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
        self._head = f"<head>{ICON}<script>{script}</script><style>{style}</style>".encode()
        self._ends = asyncio.Event()
        self._begun = asyncio.Event()
        self._living = asyncio.create_task(self._live(page))

    async def begun(self) -> None:
        """Raises what Gradio raises when it starts."""
        begun = asyncio.create_task(self._begun.wait())
        await asyncio.wait((begun, self._living), return_when=asyncio.FIRST_COMPLETED)
        if not begun.done():
            begun.cancel()
            self._living.result()

    async def close(self) -> None:
        self._ends.set()
        await self._living
        await self._replica.close()
        self.shelf.clear()

    async def document(self, scope: Scope, receive: Receive, send: Send) -> None:
        plain = {**scope, "headers": [one for one in scope["headers"] if one[0] != b"accept-encoding"]}
        start: Message = {}
        body = b""

        async def gathered(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
            else:
                body += message.get("body", b"")

        await self.page(plain, receive, gathered)
        body = body.replace(b"<head>", self._head, 1)
        headers = [one for one in start["headers"] if one[0] != b"content-length"]
        headers += [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-cache")]
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _live(self, page: Starlette) -> None:
        """One task enters and leaves: that is how lifespans are written."""
        async with page.router.lifespan_context(page):
            self._begun.set()
            await self._ends.wait()


async def make(app: ASGIApp, service: Service, shelf: Shelf) -> Made:
    """The page over the replica that is `app`."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each image is the metrics' business
    replica = Replica(app)
    page = await asyncio.to_thread(_mounted, replica, service, shelf)
    made = Made(page, replica, shelf)
    await made.begun()
    return made


def _mounted(replica: Replica, service: Service, shelf: Shelf) -> Starlette:
    settings = service.settings
    page = blocks(replica, settings, service.workers, shelf)
    around = Starlette()
    options: dict[str, Any] = look()
    gr.mount_gradio_app(around, page, PATH, root_path=PATH, max_file_size=settings.max_bytes, **options)
    page.has_launched = True  # or it takes any file of this machine for one that was uploaded
    return around
