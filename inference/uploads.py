"""What a client sent: the files and wishes of one request, within limits."""

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.types import Message

from inference.images import File

MAX_FILES = 20


class Refusal(Exception):
    """The request is answered with this status and one line that says why."""

    def __init__(self, status: int, reason: str, retry_after_seconds: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """`files` in the order sent; `wishes` are the text values, from the form or else the query."""

    files: tuple[File, ...]
    wishes: Mapping[str, str]


async def receive(request: Request, max_body_bytes: int) -> Upload:
    """Read the body: multipart with `file` once or more, or the bytes of one image.

    Raises Refusal (400 nothing in it, 413 too much, 415 JSON), and Starlette's ClientDisconnect and HTTPException(400).
    """
    limited = _limited(request, max_body_bytes)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        raise Refusal(415, "send an image: multipart/form-data with `file`, or its bytes as the body")
    wishes = dict(request.query_params)
    if kind != "multipart/form-data":
        content = await limited.body()
        if not content:
            raise Refusal(400, "empty body: send multipart/form-data with `file`, or the bytes of an image")
        return Upload(files=(File(wishes.get("filename", "image"), content),), wishes=wishes)
    async with limited.form(max_files=MAX_FILES, max_fields=MAX_FILES) as form:
        sent = [item for item in form.getlist("file") if isinstance(item, UploadFile)]
        if not sent:
            raise Refusal(400, "no file in the form: name the part `file`")
        files = tuple([File(item.filename or "image", await item.read()) for item in sent])
        wishes |= {name: value for name, value in form.items() if isinstance(value, str)}
    return Upload(files=files, wishes=wishes)


async def discard(request: Request, max_body_bytes: int) -> None:
    """Read and forget the body, so that a client still sending it gets to see the answer."""
    seen = 0
    async for chunk in request.stream():
        seen += len(chunk)
        if seen > max_body_bytes:
            return


def _limited(request: Request, max_body_bytes: int) -> Request:
    """The same request, refused with 413 as soon as more than that has arrived, whatever its length claims."""
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await request.receive()
        seen += len(message.get("body", b""))
        if seen > max_body_bytes:
            raise Refusal(413, f"the request is larger than {max_body_bytes:,} bytes")
        return message

    return Request(request.scope, limited)
