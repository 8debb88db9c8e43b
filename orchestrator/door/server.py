"""The door's process: take the lock, listen, watch the serving set, leave in order."""

import asyncio
import errno
import ipaddress
import logging
import os
import resource
import signal
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from aiohttp import web

from orchestrator.door.front import Front
from orchestrator.door.process import DoorProcess, Files, hold, read_note, started_at
from orchestrator.door.serving import Published, write_whole
from orchestrator.errors import Refused

log = logging.getLogger("halve.door")

WATCH_SECONDS = 0.1
LEAVE_SECONDS = 30.0  # for requests in flight when told to stop
CLIENT_IDLE_SECONDS = 30.0  # a connection without a whole request head is closed after this
HEAD_FIELD_BYTES = 16 * 1024
HEAD_FIELDS = 100
LOCK_TRIES = 10  # whoever looks whether the lock is held has it for a moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to open a door. Off loopback only with a token and a certificate."""

    home: Path
    deployment: str
    listen: str
    token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None


def serve(options: Options) -> None:
    """Be the door of a deployment until told to stop. Raises Refused."""
    files = Files.of(options.home, options.deployment)
    host, port = split_listen(options.listen)
    token, tls = _token(options), _tls(options)
    if not _loopback(host) and (token is None or tls is None):
        raise Refused(
            f"{options.listen} can be reached from other machines: set door.token and door.tls in the spec "
            "(--token-file, --tls-cert, --tls-key), or listen on 127.0.0.1"
        )
    with _take(files, options.deployment):
        try:
            asyncio.run(_run(options, files, host, port, token, tls))
        finally:
            files.process.unlink(missing_ok=True)


async def _run(
    options: Options, files: Files, host: str, port: int, token: bytes | None, tls: ssl.SSLContext | None
) -> None:
    process_started_at = started_at(os.getpid())
    published = Published(files.serving, options.deployment)
    front = Front(published, token, process_started_at)
    front.roster.refresh()
    protocols = web.Server(
        front.answer,
        access_log=None,
        auto_decompress=False,
        handler_cancellation=True,
        keepalive_timeout=CLIENT_IDLE_SECONDS,
        max_line_size=HEAD_FIELD_BYTES,
        max_field_size=HEAD_FIELD_BYTES,
        max_headers=HEAD_FIELDS,
    )
    _allow_many_files()
    listener = await _listen(protocols, host, port, tls)
    bound_host, bound_port = listener.sockets[0].getsockname()[:2]
    write_whole(
        files.process,
        DoorProcess(
            pid=os.getpid(),
            url=f"{'https' if tls else 'http'}://{_reached_at(bound_host)}:{bound_port}",
            listen=options.listen,
            started_at=process_started_at,
        ).to_json(),
    )
    log.info("the door of %s listens on %s", options.deployment, options.listen)
    watching = asyncio.create_task(_watch(front))
    stop, hurry = asyncio.Event(), asyncio.Event()

    def asked() -> None:
        if stop.is_set():
            hurry.set()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked)
    await stop.wait()
    listener.close()
    log.info("told to stop; %d requests in flight", sum(front.roster.in_flight.values()))
    protocols.pre_shutdown()
    leaving = asyncio.create_task(protocols.shutdown(LEAVE_SECONDS))
    hurried = asyncio.create_task(hurry.wait())
    await asyncio.wait((leaving, hurried), return_when=asyncio.FIRST_COMPLETED)
    for task in (leaving, hurried, watching):
        task.cancel()


async def _watch(front: Front) -> None:
    while True:
        for _ in range(round(1 / WATCH_SECONDS)):
            await asyncio.sleep(WATCH_SECONDS)
            front.roster.refresh()
        front.upstream.tidy({replica.url for replica in front.roster.serving.replicas})


async def _listen(protocols: web.Server, host: str, port: int, tls: ssl.SSLContext | None) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_server(protocols, host, port, ssl=tls, backlog=1024)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Refused(f"port {port} on {host} is taken; free it or set door.listen in the spec") from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise Refused(f"port {port} on {host} is not allowed to this user; set door.listen in the spec") from None
        raise Refused(f"{host} is no address of this machine; set door.listen in the spec") from None


def _take(files: Files, deployment: str) -> IO[bytes]:
    for _ in range(LOCK_TRIES):
        lock = hold(files.lock)
        if lock is not None:
            return lock
        time.sleep(0.05)
    holder = read_note(files.process)
    who = f"process {holder.pid}, listening on {holder.listen}," if holder and holder.lives else "another process"
    raise Refused(f"the door of {deployment} is open already: {who} holds {files.lock}")


def _token(options: Options) -> bytes | None:
    if options.token_file is None:
        return None
    try:
        token = options.token_file.read_bytes().strip()
    except OSError as error:
        raise Refused(f"the door's token file {options.token_file}: {error.strerror}") from None
    if not token:
        raise Refused(f"the door's token file {options.token_file} is empty")
    return token


def _tls(options: Options) -> ssl.SSLContext | None:
    if options.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key)
    except OSError as error:  # ssl.SSLError is one
        raise Refused(f"the door's certificate {options.tls_cert}: {error.strerror or error}") from None
    return context


def split_listen(listen: str) -> tuple[str, int]:
    """HOST:PORT, the host of IPv6 in brackets. Raises Refused."""
    try:
        parsed = urlsplit(f"//{listen}")
        if parsed.hostname is not None and parsed.port is not None and parsed.netloc == listen:
            return parsed.hostname, parsed.port
    except ValueError:
        pass
    raise Refused(f"door.listen is HOST:PORT, like 127.0.0.1:7860, not {listen!r}")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reached_at(host: str) -> str:
    """The address for a url on this machine: that of the listener, loopback when it listens on all."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return host if address.version == 4 else f"[{host}]"


def _allow_many_files() -> None:
    """Each request takes two; the usual soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
