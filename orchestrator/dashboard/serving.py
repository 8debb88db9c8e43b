"""The dashboard's process: bind, serve, leave."""

import logging
import socket
import threading
from collections.abc import Callable

import uvicorn

from orchestrator.clock import Clock
from orchestrator.dashboard.access import access
from orchestrator.dashboard.app import application
from orchestrator.dashboard.site import Settings, Site
from orchestrator.errors import Refused
from orchestrator.ledger.store import Ledger
from orchestrator.spec.units import is_loopback

log = logging.getLogger("halve.dashboard")

#: for answers under way when it leaves
LEAVE_SECONDS = 5
#: between two looks at whether there is anything left to serve for
LOOK_SECONDS = 5.0
#: whether there is not
Leave = Callable[[], bool]


def serve(
    settings: Settings, ledger: Ledger, clock: Clock, *, say: Callable[[str], None], leave: Leave | None = None
) -> None:
    """Serve until SIGTERM or SIGINT, or until `leave` says so. `say` is told the address once it listens.

    Raises Refused when the address is taken or no loopback, or when the token cannot be kept.
    """
    site = Site(settings, ledger, access(settings.home), clock)
    with listening(settings.listen) as channel:
        host, port = channel.getsockname()[:2]
        config = uvicorn.Config(
            application(site), log_config=None, access_log=False, timeout_graceful_shutdown=LEAVE_SECONDS, lifespan="on"
        )
        server = uvicorn.Server(config)
        over = threading.Event()
        if leave is not None:
            threading.Thread(target=_watch, args=(server, leave, over), name="leave", daemon=True).start()
        say(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        try:
            server.run(sockets=[channel])
        finally:
            over.set()


def _watch(server: uvicorn.Server, leave: Leave, over: threading.Event) -> None:
    while not over.wait(LOOK_SECONDS):
        try:
            server.should_exit = server.should_exit or leave()
        except Exception:
            log.exception("whether to leave could not be seen; it is tried again")


def listening(listen: str) -> socket.socket:
    """Raises Refused when it is taken, or reached from elsewhere."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    if not is_loopback(host):
        raise Refused(f"dashboard: {listen}: it speaks plain HTTP, so on loopback alone, such as 127.0.0.1:7870")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    channel = socket.socket(family, socket.SOCK_STREAM)
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        channel.bind((host, int(port)))
        channel.listen(128)
    except OSError as error:
        channel.close()
        raise Refused(f"dashboard: {listen}: {error.strerror}; free it, or name another with --listen") from None
    return channel
