"""The replica as the page asks it: over its own HTTP interface, without a socket. So the page has the limits, the
queue, the priorities and the refusals of every other client, and shows in the same metrics."""

from typing import Any

import httpx
from starlette.types import ASGIApp

from inference.images import File
from inference.reception import BATCH, PRIORITY
from inference.refusals import Refusal


class Replica:
    """Belongs to one event loop."""

    def __init__(self, app: ASGIApp) -> None:
        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, client=("ui", 0)), base_url="http://replica", timeout=None
        )

    async def read(self, file: File, *, fields: str = "", prompt: str = "", online: bool = True) -> dict[str, Any]:
        """What /v1/ocr answers to one file. Raises Refusal, with what it says."""
        answer = await self._http.post(
            "/v1/ocr",
            files={"file": (file.name, file.content, "application/octet-stream")},
            data={"fields": fields, "prompt": prompt},
            headers={} if online else {PRIORITY: BATCH},
        )
        content: dict[str, Any] = answer.json()
        if answer.status_code == 200:
            return content
        retry = answer.headers.get("Retry-After")
        raise Refusal(answer.status_code, content["error"], None if retry is None else int(retry))

    async def health(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self._http.get("/healthz")).json()
        return found

    async def close(self) -> None:
        await self._http.aclose()
