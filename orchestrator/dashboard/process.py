"""The dashboard beside a daemon: started when a spec wants one, adopted by whichever daemon comes next.

The lock says that one lives. It reads from the ledger what is wanted of it, and leaves by itself when that changes or
nobody wants it any more: the daemon has only to start it, which waits for nothing.
"""

import logging
import subprocess
import sys
import time
from pathlib import Path

from orchestrator import spec
from orchestrator.door.process import held
from orchestrator.errors import Refused
from orchestrator.ledger import deployments
from orchestrator.ledger.store import Ledger
from orchestrator.spec import Dashboard

log = logging.getLogger("halve.dashboard")

#: before one that ended is started again
AGAIN_SECONDS = 30.0


def lock_file(home: Path) -> Path:
    return home / "dashboard.lock"


def log_file(home: Path) -> Path:
    return home / "dashboard.log"


def wanted(ledger: Ledger) -> Dashboard | None:
    """The dashboard of the first deployment, by name, that is up and wants one."""
    with ledger.read() as tx:
        rows = deployments.known(tx)
    for row in rows:
        if row.wanted != "up":
            continue
        try:
            section = spec.parse(row.spec, row.source).dashboard
        except Refused:
            continue
        if section is not None:
            return section
    return None


class Starter:
    """The daemon's side."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._child: subprocess.Popen[bytes] | None = None
        self._started_at: float | None = None

    def ensure(self) -> None:
        """Have one up. It neither waits nor raises: what keeps it from starting stands in its log."""
        if self._child is not None and self._child.poll() is not None:
            if self._child.returncode > 0:
                log.warning("the dashboard ended; %s says why", log_file(self._home))
            self._child = None
        if self._child is not None or held(lock_file(self._home)):
            return
        now = time.monotonic()
        if self._started_at is not None and now - self._started_at < AGAIN_SECONDS:
            return
        self._started_at = now
        try:
            with log_file(self._home).open("ab") as output:
                self._child = subprocess.Popen(
                    [sys.executable, "-m", "orchestrator.dashboard", "--home", str(self._home)],
                    cwd=self._home,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            log.warning("the dashboard could not be started: %s", error)
