"""One copy of the ledger a day, in a thread of its own: no tick waits for it, and nothing ends when it fails."""

import logging
import threading
from datetime import datetime, timedelta
from pathlib import Path

from orchestrator.errors import Refused
from orchestrator.ledger import backup

log = logging.getLogger("halve.backup")

EVERY = timedelta(days=1)
#: after one that failed
RETRY = timedelta(hours=1)
#: between two stretches of pages: the disk is also the tick's
PAUSE_SECONDS = 0.005
#: for the copy under way to notice that the daemon leaves; one that waits for a hung disk ends with the process
STOP_SECONDS = 5.0


class _Stopped(Exception):
    """The daemon leaves: the next one makes the copy."""


class Backups:
    """The daily copies of one home's ledger. A ledger that is no file has none."""

    def __init__(self, home: Path, *, pause_seconds: float = PAUSE_SECONDS) -> None:
        self._home = home
        self._pause_seconds = pause_seconds
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._failed_at: datetime | None = None
        self._trouble: str | None = None
        try:
            self._database: Path | None = backup.place(home)
        except Refused:
            self._database = None

    def keep(self, now: datetime) -> str | None:
        """Start a copy when one is due; return, once, why the last one failed."""
        trouble, self._trouble = self._trouble, None
        if self._database is not None and self._due(now):
            self._thread = threading.Thread(target=self._copy, args=(self._database, now), name="backup", daemon=True)
            self._thread.start()
        return trouble

    def stop(self) -> None:
        """Give up the copy under way, if any; its draft is removed."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def _due(self, now: datetime) -> bool:
        if self._thread is not None and self._thread.is_alive():
            return False
        if self._failed_at is not None and timedelta(0) <= now - self._failed_at < RETRY:
            return False
        newest_at = backup.newest_at(self._home, now)
        return newest_at is None or now - newest_at >= EVERY

    def _copy(self, database: Path, now: datetime) -> None:
        try:
            path = backup.keep(database, self._home, now, self._between)
        except _Stopped:
            return
        except (Refused, OSError) as error:
            self._failed_at = now
            self._trouble = str(error)
            log.error("%s; it is tried again in an hour", self._trouble)
        else:
            self._failed_at = None
            log.info("the ledger was copied to %s", path)

    def _between(self) -> None:
        if self._stopping.wait(self._pause_seconds):
            raise _Stopped
