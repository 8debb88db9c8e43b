"""Who holds the lease of a ledger, and whether that process still lives."""

import os
import socket
from datetime import datetime

from orchestrator.ledger.leases import Lease
from orchestrator.processes import birth


def identity() -> str:
    """This process, in words that another one can check: host, pid, and when it started."""
    return f"{socket.gethostname()}:{os.getpid()}:{birth(os.getpid())}"


def is_dead(owner: str) -> bool:
    """Whether the owner of a lease is known to be dead. On another host it is not known."""
    host, pid, started = owner.rsplit(":", 2)
    return host == socket.gethostname() and birth(int(pid)) != started


def is_alive(lease: Lease | None, now: datetime) -> bool:
    """Whether a daemon holds the lease and is not known to be dead."""
    return lease is not None and lease.expires_at > now and not is_dead(lease.owner)
