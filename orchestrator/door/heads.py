"""What a request's head becomes on its way to a replica."""

import itertools
import os
import re
from urllib.parse import unquote

from aiohttp import web

#: headers that end at this hop (RFC 9110 section 7.6.1), and those that the door writes itself
_OURS = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding"
    b" upgrade http2-settings expect"
    b" content-length host x-forwarded-for x-forwarded-proto x-forwarded-host x-request-id".split()
)
_PROCESS = os.urandom(10).hex()
_NUMBERS = itertools.count(1)
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
#: a replica's paths that are between it and the daemon
PRIVATE = frozenset(("/drain", "/lease"))
#: where a replica has its web pages
PAGES = "/ui"
#: which replica a visitor of theirs belongs to
SEAT = "halve_ui"


def request_id(request: web.BaseRequest) -> str:
    """The client's, if it is a decent one, or a new one, unique without asking for randomness each time."""
    given = request.headers.get("X-Request-Id")
    return given if given and _REQUEST_ID.fullmatch(given) else f"{_PROCESS}{next(_NUMBERS):012x}"


def target(request: web.BaseRequest) -> str:
    """Path and query as the client wrote them; of an absolute address the path and query. No fragment: no client sends
    one, and a server would cut it off, so that a path is another one there than it is here."""
    raw = request.raw_path
    if not raw.startswith("/") and raw != "*":
        raw = request.rel_url.raw_path_qs
        raw = raw if raw.startswith("/") else f"/{raw}"
    return raw.partition("#")[0]


def path(target: str) -> str:
    """The path as a server understands it."""
    return unquote(target.partition("?")[0])


def private(target: str) -> bool:
    return path(target).rstrip("/") in PRIVATE


def repeatable(method: str, target: str) -> bool:
    """Whether doing it twice does no harm: everything that only reads, and recognition."""
    return method in ("GET", "HEAD", "OPTIONS") or recognition(method, target)


def recognition(method: str, target: str) -> bool:
    """Whether it asks for images to be read: the work that replicas are there for, and all that counts as demand."""
    if method != "POST":
        return False
    asked = path(target)
    return asked == "/v1/ocr" or (asked.startswith("/v2/models/") and asked.endswith("/infer"))


def page(target: str) -> bool:
    """Whether it belongs to the web pages of a replica, which remember their visitors."""
    asked = path(target)
    return asked == PAGES or asked.startswith(f"{PAGES}/")


def forwarded(request: web.BaseRequest, target: str, identity: str, length: int | None, keep_token: bool) -> bytes:
    """The head for a replica. `length` of the body, None: it goes in chunks; `keep_token`: Authorization goes on."""
    headers = request.headers
    peer = request.remote or "unknown"
    before = headers.get("X-Forwarded-For")
    host = headers.get("Host", "")
    drop = _OURS
    connection = headers.get("Connection", "")
    if connection and connection.lower() not in ("keep-alive", "close"):
        drop = drop | {name.strip().lower().encode() for name in connection.split(",")}
    if not keep_token:
        drop = drop | {b"authorization"}
    own = (
        f"{request.method} {target} HTTP/1.1\r\nHost: {host}\r\n"
        f"X-Forwarded-For: {before + ', ' if before else ''}{peer}\r\nX-Forwarded-Host: {host}\r\n"
        f"X-Forwarded-Proto: {request.scheme}\r\nX-Request-Id: {identity}\r\n"
    ).encode("utf-8", "surrogateescape")
    lines = [own]
    for name, value in request.raw_headers:
        if name.lower() not in drop:
            lines.append(b"%b: %b\r\n" % (name, value))
    if length is None:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    elif length or request.method in ("POST", "PUT", "PATCH"):
        lines.append(b"Content-Length: %d\r\n" % length)
    lines.append(b"\r\n")
    return b"".join(lines)
