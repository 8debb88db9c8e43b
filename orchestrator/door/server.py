"""The door's process: take the lock, listen, watch the serving set, leave in order."""

import asyncio
import ipaddress
import logging
import os
import resource
import signal
import ssl
import time
from dataclasses import replace
from pathlib import Path
from typing import IO

from aiohttp import web

from orchestrator import heap
from orchestrator.door.caller import Callers
from orchestrator.door.front import Front
from orchestrator.door.limits import Limits
from orchestrator.door.options import Options, no_listener, split_listen
from orchestrator.door.process import DoorProcess, Files, hold, read_note, started_at
from orchestrator.door.serving import Published, write_whole
from orchestrator.door.spool import SPOOL_SECONDS, Spool
from orchestrator.errors import Refused
from orchestrator.pinning import Pins

log = logging.getLogger("halve.door")

WATCH_SECONDS = 0.1
LOCK_TRIES = 10  # whoever looks whether the lock is held has it for a moment


def serve(options: Options) -> None:
    """Be the door of a deployment until told to stop. Raises Refused."""
    files = Files.of(options.home, options.deployment)
    settings = options.digest()  # before what it is of is read: what changes between is seen as a change
    token, tls = options.secrets()
    with _take(files, options.deployment):
        try:
            asyncio.run(_run(options, files, settings, token, tls))
        finally:
            files.process.unlink(missing_ok=True)


async def _run(options: Options, files: Files, settings: str, token: bytes | None, tls: ssl.SSLContext | None) -> None:
    process_started_at = started_at(os.getpid())
    published = Published(files.serving, options.deployment)
    front = Front(published, token, process_started_at, Pins(options.home), Limits())
    front.roster.refresh()
    protocols = Callers(front.answer, front.limits)
    _allow_many_files()
    heap.settle()
    shown = tls  # the certificate that the next connection is shown

    def show(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = shown or context

    if tls is not None:
        tls.sni_callback = show  # asked for clients that name nobody, too
    listener = await _listen(protocols, *split_listen(options.listen), tls)
    bound_host, bound_port = listener.sockets[0].getsockname()[:2]
    note = DoorProcess(
        pid=os.getpid(),
        url=f"{'https' if tls else 'http'}://{_reached_at(bound_host)}:{bound_port}",
        listen=options.listen,
        settings=settings,
        files=options.files,
        started_at=process_started_at,
    )

    def renew() -> None:
        nonlocal shown
        try:
            renewed = replace(note, settings=options.digest())
            token, context = options.secrets()
            write_whole(files.process, renewed.to_json())
        except (Refused, OSError) as error:
            log.warning("token and certificate stay what they were: %s", error)
            return
        front.token, shown = token, context
        log.info("token and certificate were read again")

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, renew)
    write_whole(files.process, note.to_json())
    log.info("the door of %s listens on %s", options.deployment, options.listen)
    spool = Spool(files.counts, front.counts)
    spool.restore()
    watching = asyncio.create_task(watch(front))
    spooling = asyncio.create_task(keep(spool, files.counts))
    tidying = asyncio.create_task(_tidy())
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
    front.proxy.hang_up()
    leaving = asyncio.create_task(protocols.shutdown(front.limits.leave))
    hurried = asyncio.create_task(hurry.wait())
    await asyncio.wait((leaving, hurried), return_when=asyncio.FIRST_COMPLETED)
    for task in (leaving, hurried, watching, spooling, tidying):
        task.cancel()
    await asyncio.wait((spooling,))
    _write(files.counts, spool.content(whole=True))


async def watch(front: Front) -> None:
    while True:
        for _ in range(round(1 / WATCH_SECONDS)):
            await asyncio.sleep(WATCH_SECONDS)
            front.roster.refresh()
        front.watch.look()
        front.upstream.tidy({replica.url for replica in front.roster.serving.replicas})


async def keep(spool: Spool, path: Path, seconds: float = SPOOL_SECONDS) -> None:
    """Write the counts down now and then. Cancelled, it ends once what it is writing is written: the last word, said
    meanwhile, would be torn, or be followed by an older one."""
    while True:
        await asyncio.sleep(seconds)
        writing = asyncio.create_task(asyncio.to_thread(_write, path, spool.content()))
        try:
            await asyncio.shield(writing)
        finally:
            await writing


async def _tidy() -> None:
    while True:
        await asyncio.sleep(heap.EVERY_SECONDS)
        heap.give_back()


def _write(path: Path, content: bytes) -> None:
    try:
        write_whole(path, content)
    except OSError as error:  # a full disk, say: to count is not what a door is for
        log.warning("%s: %s; the counts are not kept", path, error.strerror)


async def _listen(protocols: web.Server, host: str, port: int, tls: ssl.SSLContext | None) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_server(protocols, host, port, ssl=tls, backlog=1024)
    except OSError as error:
        raise no_listener(error, host, port) from None


def _take(files: Files, deployment: str) -> IO[bytes]:
    for _ in range(LOCK_TRIES):
        lock = hold(files.lock)
        if lock is not None:
            return lock
        time.sleep(0.05)
    holder = read_note(files.process)
    who = f"process {holder.pid}, listening on {holder.listen}," if holder and holder.lives else "another process"
    raise Refused(f"the door of {deployment} is open already: {who} holds {files.lock}")


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
