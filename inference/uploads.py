"""What a client sent: the files and wishes of one request, within limits."""

import asyncio
import base64
import binascii
import contextlib
import json
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.types import Message

from inference import fields
from inference.images import File
from inference.refusals import Refusal
from inference.sources import Sources

MAX_FILES = 20
MAX_PARTS = 10_000  # of a JSON document, of which each takes up to thirty times its bytes when it is unpacked

_HOW = "multipart/form-data with `file`, the bytes of an image, or JSON with `image` or `images`"
_WISHES = ("fields", "prompt", "deadline_seconds", "visualize")
_YES_OR_NO = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """`files` in the order sent; the names of the values `wanted`, None for all; the seconds the client will wait, None
    for as long as the replica would; whether to answer with a drawing."""

    files: tuple[File, ...]
    wanted: tuple[str, ...] | None = None
    deadline_seconds: float | None = None
    visualize: bool = False


def within(request: Request, max_bytes: int, hold: Callable[[int], None]) -> Request:
    """The same request, its body unpacked when it came as gzip or deflate, and refused with 413 as soon as more than
    that has arrived, whatever its length claims. `hold` hears of every byte kept and may refuse it.

    Raises Refusal: 415 for another encoding; while it is read 400 for a broken one, 413, and what `hold` raises.
    """
    unpack = _Unpacker.of(request)
    seen = 0

    async def receive() -> Message:
        nonlocal seen
        message = await request.receive()
        if message["type"] != "http.request":
            return message
        content = message.get("body", b"")
        if unpack:
            more = bool(message.get("more_body"))
            content = await asyncio.to_thread(unpack, content, max_bytes - seen + 1, more=more)
        seen += len(content)
        if seen > max_bytes:
            raise Refusal(413, f"the request is larger than {max_bytes:,} bytes")
        hold(len(content))
        return {**message, "body": content}

    return Request(request.scope, receive)


async def receive(request: Request, sources: Sources, max_bytes: int) -> Upload:
    """Read the body: multipart with `file` once or more, the bytes of one image, or JSON:

        {"image": IMAGE} or {"images": [IMAGE, ...]}, and of "fields" ("A,B" or ["A", "B"]), "prompt",
        "deadline_seconds", "visualize" what is wished; IMAGE is base64 text, {"content": base64, "filename": NAME} or
        {"source": "file:///…" or "s3://…"}

    `max_bytes` is that of one image from a source. Raises Refusal (400 nothing or nonsense in it, 413 too much, those
    of Sources.read), and Starlette's ClientDisconnect and HTTPException(400).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        upload = await asyncio.to_thread(_from_json, await request.body(), sources, max_bytes)
    elif kind == "multipart/form-data":
        upload = await _from_form(request)
    else:
        content = await request.body()
        if not content:
            raise Refusal(400, f"empty body: send {_HOW}")
        name = request.query_params.get("filename", "image")
        upload = wished([File(name, content)], dict(request.query_params))
    if upload.visualize and len(upload.files) > 1:
        raise Refusal(400, "visualize: one image at a time")
    return upload


def _text_or_nothing(name: str, value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise Refusal(400, f"{name}: not text")


def wished(files: list[File], wishes: Mapping[str, object]) -> Upload:
    """The files, and what is wished of them. A wish that is absent, empty or null is none. Raises Refusal."""
    given = {name: wish for name in _WISHES if (wish := wishes.get(name)) not in (None, "")}
    listed = given.get("fields")
    if isinstance(listed, list) and all(isinstance(name, str) for name in listed):
        listed = "\n".join(listed)
    asked = _text_or_nothing("fields", listed), _text_or_nothing("prompt", given.get("prompt"))
    visualize = _YES_OR_NO.get(str(given.get("visualize", "")).lower())
    if visualize is None:
        raise Refusal(400, "visualize: true or false")
    deadline = given.get("deadline_seconds")
    try:
        wanted = fields.wanted(*asked)
    except fields.BadWish as wish:
        raise Refusal(400, str(wish)) from None
    return Upload(
        files=tuple(files),
        wanted=wanted,
        deadline_seconds=None if deadline is None else number("deadline_seconds", deadline),
        visualize=visualize,
    )


async def discard(request: Request, max_body_bytes: int) -> None:
    """Read and forget the body, so that a client still sending it gets to see the answer."""
    seen = 0
    async for chunk in request.stream():
        seen += len(chunk)
        if seen > max_body_bytes:
            return


def number(name: str, value: object) -> float:
    """A wish that is a number above 0. Raises Refusal."""
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        wished = float(value)
    except (ValueError, OverflowError):
        raise Refusal(400, f"{name}: not a number: {str(value)[:100]!r}") from None
    if not wished > 0:
        raise Refusal(400, f"{name}: must be above 0")
    return wished


def from_base64(name: str, text: str) -> bytes:
    """Raises Refusal. A data URL's head is passed over, and the white space by which MIME breaks lines."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(400, f"{name}: not base64") from None


def document(content: bytes) -> dict[str, Any]:
    """A JSON object. Raises Refusal."""
    if sum(map(content.count, (b",", b"[", b"{"))) > MAX_PARTS:
        raise Refusal(400, f"JSON of more than {MAX_PARTS:,} parts")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"not JSON: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(found, dict):
        raise Refusal(400, "not a JSON object")
    return found


async def _from_form(request: Request) -> Upload:
    async with _form(request) as form:
        sent = [item for item in form.getlist("file") if isinstance(item, UploadFile)]
        if not sent:
            raise Refusal(400, "no file in the form: name the part `file`")
        files = [File(item.filename or "image", await item.read()) for item in sent]
        written = {name: value for name, value in form.items() if isinstance(value, str)}
    return wished(files, {**request.query_params, **written})


@contextlib.asynccontextmanager
async def _form(request: Request) -> AsyncIterator[FormData]:
    """Names are decoded by the charset that the request names, and not every codec fails as the parser expects."""
    try:
        form = await request.form(max_files=MAX_FILES, max_fields=MAX_FILES)
    except ValueError as error:
        raise Refusal(400, f"not a form that can be read: {' '.join(str(error).split())[:200]}") from None
    try:
        yield form
    finally:
        await form.close()


def _from_json(content: bytes, sources: Sources, max_bytes: int) -> Upload:
    asked = document(content)
    if unknown := asked.keys() - {"image", "images", "filename", *_WISHES}:
        raise Refusal(400, f"{min(unknown)[:100]}: no such key")
    if ("image" in asked) == ("images" in asked):
        raise Refusal(400, "JSON needs either `image` or `images`")
    several = asked.get("images", [asked.get("image")])
    if not isinstance(several, list) or not 0 < len(several) <= MAX_FILES:
        raise Refusal(400, f"images: a list of 1 to {MAX_FILES}")
    name = asked.get("filename", "image")
    return wished([_image(item, name, sources, max_bytes) for item in several], asked)


def _image(item: object, name: object, sources: Sources, max_bytes: int) -> File:
    parts = item if isinstance(item, dict) else {"content": item}
    content, source, name = parts.get("content"), parts.get("source"), parts.get("filename", name)
    if parts.keys() - {"content", "source", "filename"} or ("content" in parts) == ("source" in parts):
        raise Refusal(400, "an image is base64 text, or {content, filename}, or {source}")
    if not isinstance(name, str):
        raise Refusal(400, "filename: not text")
    if isinstance(source, str):
        return sources.read(source, max_bytes)
    if not isinstance(content, str):
        raise Refusal(400, f"{'source' if 'source' in parts else 'content'}: not text")
    return File(name, from_base64(name[:100], content))


class _Unpacker:
    """Takes a packed body piece by piece."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._zlib = zlib.decompressobj(wbits=31 if kind == "gzip" else 15)

    @classmethod
    def of(cls, request: Request) -> "_Unpacker | None":
        kind = request.headers.get("content-encoding", "identity").strip().lower()
        if kind not in ("identity", "", "gzip", "deflate"):
            raise Refusal(415, f"content-encoding {kind[:50]}: gzip and deflate are unpacked")
        return cls(kind) if kind in ("gzip", "deflate") else None

    def __call__(self, piece: bytes, most: int, *, more: bool) -> bytes:
        """At most `most` bytes. Raises Refusal when it is broken, or ends before its end."""
        try:
            content = self._zlib.decompress(piece, most)
        except zlib.error as error:
            raise Refusal(400, f"the body is not {self._kind}: {error}") from None
        if self._zlib.unused_data or not (more or self._zlib.eof or len(content) == most):
            raise Refusal(400, f"the body is not {self._kind}: it ends too early or too late")
        return content
