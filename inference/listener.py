"""The process around the server: a socket, an announcement, signals, the end."""

import json
import os
import signal
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import uvicorn

from inference import server
from inference.service import Service, Settings
from inference.sources import UnknownSource

GRACE_SECONDS = 60  # for requests in flight when the process is told to end


class CannotServe(Exception):
    """The replica did not start. One line that says why."""


def serve(
    settings: Settings,
    *,
    host: str,
    port: int,
    announce: Path | None = None,
    listening: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until SIGTERM or SIGINT; requests in flight are finished first.

    Once connections are taken, `listening` is told the address and `announce` is written, in one piece:
    {"pid","port","url","started_at"}. The model may still be loading then; /healthz says.
    Raises CannotServe when the address is taken, a source is none, or the model does not load.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    service = _service(settings)
    bound = _bound(host, port)
    failures: list[Exception] = []

    def failed(error: Exception) -> None:
        failures.append(error)
        running.should_exit = True

    def started() -> None:
        url = _url(host, bound)
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
    )
    running = _Server(config, started)
    running.run(sockets=[bound])
    if failures:
        raise CannotServe(f"the model did not load: {failures[0]}")


class _Server(uvicorn.Server):
    """Says when it has started."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._on_started()


def _service(settings: Settings) -> Service:
    try:
        return Service(settings)
    except UnknownSource as error:
        raise CannotServe(str(error)) from None


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


def _url(host: str, bound: socket.socket) -> str:
    """Where a client on this machine finds it."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{reachable}]' if ':' in reachable else reachable}:{bound.getsockname()[1]}"


def _announce(file: Path, port: int, url: str) -> None:
    started_at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    content = {"pid": os.getpid(), "port": port, "url": url, "started_at": started_at}
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(content))
    partial.replace(file)
