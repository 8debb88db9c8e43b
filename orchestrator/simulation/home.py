"""Where the daemon of a bad day lives: the file of its ledger, on a disk that may be full, and copies of it."""

import shutil
import tempfile
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path

from orchestrator.clock import Clock
from orchestrator.ledger import leases
from orchestrator.ledger.store import Ledger, LedgerUnwritable, open_file

LEASE = timedelta(seconds=15)
#: a ledger that may be restored is copied this often
COPY = timedelta(hours=2)


@lru_cache(maxsize=1)
def _blank() -> bytes:
    """An empty ledger: making one takes a second, copying it nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "blank.db"
        open_file(path, simulated=True, create=True).close()
        return path.read_bytes()


class Home:
    """One ledger; `ledger` bears the generation of the daemon that lives now."""

    def __init__(self, folder: Path, truth: Clock, clock: Clock) -> None:
        self._truth, self._clock = truth, clock
        self._path = folder / "halve.db"
        self._path.write_bytes(_blank())
        self._copies: list[tuple[datetime, Path]] = []
        self._full_until: datetime | None = None
        self.ledger = self._opened()
        self.generation = 0

    def start_daemon(self) -> None:
        """A new process: it takes the lease, and knows what the ledger knows."""
        self.ledger = Ledger(self.ledger.engine, self.ledger.key)
        with self.ledger.write() as tx:
            self.generation = leases.take(tx, "halve", 1, self._clock.now() + LEASE)
        self.ledger.generation = self.generation

    def fill_disk(self, until: datetime) -> None:
        self._full_until = until

    def clear_disk(self) -> None:
        self._full_until = None

    @property
    def full(self) -> bool:
        return self._full_until is not None

    def pass_commit(self, name: str) -> None:
        """Called at every effect. Raises LedgerUnwritable before a commit for which there is no room."""
        if self._full_until is None:
            return
        if self._truth.now() >= self._full_until:
            self._full_until = None
        elif name.startswith("before the commit"):
            raise LedgerUnwritable("the disk is full")

    def copy(self) -> None:
        """A copy of the ledger, as a backup is one: whole, of one moment."""
        copy = self._path.with_name(f"copy-{len(self._copies)}.db")
        self.ledger.close()  # so that everything is in one file
        shutil.copyfile(self._path, copy)
        self._copies.append((self._truth.now(), copy))

    def copy_when_due(self) -> None:
        if self._truth.now() - self._copies[-1][0] >= COPY:
            self.copy()

    def restore(self, wanted: datetime) -> datetime:
        """Put the ledger back to the newest copy of before `wanted`, or to the first. Returns when that was."""
        at, copy = max((one for one in self._copies if one[0] <= wanted), default=self._copies[0])
        self.ledger.close()
        shutil.copyfile(copy, self._path)
        self.ledger = self._opened()
        return at

    def _opened(self) -> Ledger:
        ledger = open_file(self._path, simulated=True)
        ledger.hurry()
        return ledger
