"""The process around the server: a socket, an announcement, signals, the end."""

import json
import os
import signal
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from inference import server
from inference.service import Service, Settings
from inference.sources import UnknownSource

GRACE_SECONDS = 60  # for requests in flight when the process is told to end


class CannotServe(Exception):
    """The replica did not start. One line that says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """PEM files: who this replica is, and the certificate of the one who may talk to it; None: anybody may."""

    certificate: Path
    key: Path
    client: Path | None = None


def serve(
    settings: Settings,
    *,
    host: str,
    port: int,
    announce: Path | None = None,
    tls: Tls | None = None,
    listening: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until SIGTERM or SIGINT; requests in flight are finished first.

    Once connections are taken, `listening` is told the address and `announce` is written, in one piece:
    {"pid","port","url","started_at"}. The model may still be loading then; /healthz says. No `tls`: plain HTTP.
    Raises CannotServe when the address is taken, a source is none, a certificate is none, or the model does not load.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    service = _service(settings)
    secured = _secured(tls)
    bound = _bound(host, port)
    failures: list[Exception] = []

    def failed(error: Exception) -> None:
        failures.append(error)
        running.should_exit = True

    def started() -> None:
        url = _url("https" if tls else "http", host, bound)
        if announce:
            _announce(announce, bound.getsockname()[1], url)
        listening(url)

    config = uvicorn.Config(
        server.app(service, failed=failed),
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        **secured,
    )
    running = _Server(config, started, service.leaving.set)
    running.run(sockets=[bound])
    if failures:
        raise CannotServe(f"the model did not load: {str(failures[0]) or type(failures[0]).__name__}")


class _Server(uvicorn.Server):
    """Says when it has started, and when it begins to end."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None], leaving: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = started
        self._on_leaving = leaving

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_leaving()
        await super().shutdown(sockets=sockets)


def _service(settings: Settings) -> Service:
    try:
        return Service(settings)
    except UnknownSource as error:
        raise CannotServe(str(error)) from None


def _secured(tls: Tls | None) -> dict[str, Any]:
    """The server's words for it; tried here, because there a bad file ends in a traceback."""
    if tls is None:
        return {}
    files = {"ssl_certfile": tls.certificate, "ssl_keyfile": tls.key}
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key, password="")
        if tls.client is None:
            return files
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(tls.client)
    except (OSError, ValueError) as error:  # an SSLError is an OSError; a path may be none at all
        named = ", ".join(str(path) for path in (tls.certificate, tls.key, tls.client) if path)
        raise CannotServe(f"TLS: {named}: {error}; PEM files are expected, the key beside its certificate") from None
    return {**files, "ssl_ca_certs": str(tls.client), "ssl_cert_reqs": ssl.CERT_REQUIRED}


def _leave(number: int, frame: FrameType | None) -> None:
    """Uvicorn finishes what is in flight, then raises the signal again for whoever listened before: an orderly end."""
    raise SystemExit(0)


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind, protocol)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CannotServe(f"cannot listen on {host}:{port}: {reason}; choose another --host or --port") from None
    return taken


def _url(scheme: str, host: str, bound: socket.socket) -> str:
    """Where a client on this machine finds it."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://{f'[{reachable}]' if ':' in reachable else reachable}:{bound.getsockname()[1]}"


def _announce(file: Path, port: int, url: str) -> None:
    started_at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    content = {"pid": os.getpid(), "port": port, "url": url, "started_at": started_at}
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(content))
    partial.replace(file)
