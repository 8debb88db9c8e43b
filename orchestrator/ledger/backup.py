"""Copies of a SQLite ledger, made while others read and write it, and the way back."""

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from orchestrator.errors import Refused
from orchestrator.ledger.store import BUSY_TIMEOUT_MS, HEAD, address, revisions
from orchestrator.ledger.tables import EPOCH, MICROSECOND

FOLDER = "backups"
KEPT = 7
STAMP = "halve-%Y-%m-%dT%H%M%SZ.db"
#: pages copied between two questions whether to go on: under a megabyte
PAGES = 200
#: a lease that nobody holds, and whose generation does not go back
FREE = """
INSERT INTO lease (name, owner, pid, generation, expires_at, tick_errors) VALUES ('daemon', 'nobody:0:', 0, ?, 0, 0)
ON CONFLICT (name) DO UPDATE SET expires_at = 0, generation = max(lease.generation, excluded.generation)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fenced:
    """A ledger whose lease nobody can take for a while: whose it is, and the generation that nobody may reach."""

    installation: str
    generation: int


def place(home: Path) -> Path:
    """The ledger's file. Raises Refused where it is none: such a database has tools of its own."""
    url = sa.make_url(address(home))
    if url.get_backend_name() != "sqlite" or not url.database:
        raise Refused("the ledger is on PostgreSQL: back it up with pg_dump, and restore it with pg_restore")
    return Path(url.database).absolute()


def copies(home: Path) -> dict[datetime, Path]:
    """The dated copies in HALVE_HOME/backups, oldest first."""
    found = {}
    for path in sorted((home / FOLDER).glob("halve-*.db")):
        with suppress(ValueError):
            found[datetime.strptime(path.name, STAMP).replace(tzinfo=UTC)] = path
    return found


def newest_at(home: Path, now: datetime) -> datetime | None:
    """When the ledger was last copied; a copy that seems to come from the future does not count."""
    return max((at for at in copies(home) if at <= now), default=None)


def keep(source: Path, home: Path, now: datetime, between: Callable[[], None] = lambda: None) -> Path:
    """Add a dated copy to HALVE_HOME/backups, and forget the oldest beyond the last KEPT. Raises Refused."""
    folder = home / FOLDER
    target = folder / now.astimezone(UTC).strftime(STAMP)
    with _alone(folder):
        for left in folder.glob(".*.draft*"):  # whoever wrote it was killed: nobody else is here
            left.unlink(missing_ok=True)
        copy(source, target, between)
        others = [path for path in copies(home).values() if path != target]
        for old in others[: max(0, len(others) + 1 - KEPT)]:
            old.unlink(missing_ok=True)
    return target


def copy(source: Path, target: Path, between: Callable[[], None] = lambda: None) -> None:
    """Copy a database as it is at this moment, while others write to it; `target` is whole or absent.

    `between` is called every PAGES pages; what it raises ends the copy. Raises Refused when there is no room, when
    the source is no database, or when the copy is not sound.
    """
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.draft")
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL, 0o600))  # it holds the specs, and they may hold a token
        with closing(_open(source, "ro")) as present, closing(_open(draft, "rw")) as copied:
            # An open view of the source: nobody who writes meanwhile makes the copy start again, or waits for it.
            present.execute("BEGIN")
            present.execute("SELECT count(*) FROM sqlite_master").fetchone()
            present.backup(copied, pages=PAGES, progress=lambda status, left, total: between())
            copied.execute("PRAGMA journal_mode=DELETE")  # one file, wherever it is carried
            sound(copied)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(target)
    except (sqlite3.Error, OSError) as error:
        words = error.strerror if isinstance(error, OSError) else str(error)
        raise Refused(f"backup of {source} to {target}: {words}; nothing else is affected") from None
    finally:
        with suppress(OSError):
            for left in draft.parent.glob(f"{draft.name}*"):
                left.unlink(missing_ok=True)


def sound(connection: sqlite3.Connection) -> None:
    """Raise DatabaseError when the pages or the references of a database do not fit together."""
    (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if said != "ok":
        raise sqlite3.DatabaseError(str(said).replace("\n", " "))


def check(file: Path, installation: str | None) -> None:
    """Raise Refused for what is no sound ledger of this version or an older one, or not of this installation."""
    try:
        with closing(_open(file, "ro")) as found:
            sound(found)
            (revision,) = found.execute("SELECT version_num FROM alembic_version").fetchone()
            (theirs,) = found.execute("SELECT id FROM installation").fetchone()
    except (sqlite3.Error, TypeError) as error:
        raise Refused(f"{file} is not a sound ledger: {error}; nothing was changed") from None
    if revision not in revisions():
        raise Refused(f"{file} was written by a newer halve (schema {revision}, this one speaks {HEAD})")
    if installation is not None and theirs != installation:
        raise Refused(f"{file} is the ledger of another installation; nothing was changed")


def fence(present: Path, owner: str, until: datetime, lives: Callable[[str, datetime], bool]) -> Fenced | None:
    """Hold the lease of the present ledger, so that no daemon writes meanwhile. None: it is no database any more.

    Raises Refused when a daemon holds it (`lives` by its owner and its expiry).
    """
    try:
        with closing(_open(present, "rw")) as ledger:
            ledger.execute("BEGIN IMMEDIATE")
            (installation,) = ledger.execute("SELECT id FROM installation").fetchone()
            held = ledger.execute("SELECT owner, generation, expires_at FROM lease").fetchone()
            if held is None:
                return Fenced(installation=installation, generation=0)
            if lives(held[0], EPOCH + MICROSECOND * held[2]):
                raise Refused(
                    f"daemon {held[0]} is alive: stop it first (systemctl stop, or kill -TERM); nothing was changed"
                )
            take = "UPDATE lease SET owner = ?, generation = ?, expires_at = ?"
            ledger.execute(take, (owner, held[1] + 1, (until - EPOCH) // MICROSECOND))
            ledger.execute("COMMIT")
            return Fenced(installation=installation, generation=held[1] + 1)
    except (sqlite3.DatabaseError, TypeError) as error:
        if "locked" in str(error):
            raise Refused(f"{present}: {error}: end who else writes to it; nothing was changed") from None
        return None


def put_back(file: Path, present: Path, fenced: Fenced | None) -> None:
    """Replace the contents of `present` by those of `file`, in one transaction; where there is none, put it there.

    The lease is free afterwards, and its generation above all that daemons of before have had: they stay fenced.
    """
    draft = present.with_name(f".{present.name}.{secrets.token_hex(4)}.draft")
    copy(file, draft)
    try:
        with closing(_open(draft, "rw")) as restored:
            if fenced is not None:
                restored.execute(FREE, (fenced.generation,))
                with closing(_open(present, "rw")) as target:
                    restored.backup(target)
        if fenced is None:
            draft.replace(present)
    except (sqlite3.Error, OSError) as error:
        raise Refused(f"{present} could not be restored: {error}; it is as it was") from None
    finally:
        draft.unlink(missing_ok=True)


def move_away(present: Path, to: Path) -> None:
    """Keep what is no database any more under another name, with what SQLite had beside it."""
    for suffix in ("", "-wal", "-shm"):
        beside = present.with_name(present.name + suffix)
        if beside.exists():
            beside.replace(to.with_name(to.name + suffix))


def _open(path: Path, mode: str) -> sqlite3.Connection:
    address = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One copy at a time, whoever makes it."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = (folder / ".lock").open("ab")
    except OSError as error:
        raise Refused(f"backups in {folder}: {error.strerror}") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
