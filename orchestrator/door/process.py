"""The door as a process: the lock that says it lives, and the note in which it says where."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import psutil

_START_TOLERANCE_SECONDS = 2.0  # of a process's start time as the system tells it twice


@dataclass(frozen=True, slots=True)
class Files:
    """Where a deployment's door keeps things."""

    lock: Path
    serving: Path
    process: Path
    counts: Path
    log: Path

    @classmethod
    def of(cls, home: Path, deployment: str) -> "Files":
        folder = home / "doors"
        return cls(
            lock=folder / f"{deployment}.lock",
            serving=folder / f"{deployment}.json",
            process=folder / f"{deployment}.process.json",
            counts=folder / f"{deployment}.counts.json",
            log=folder / f"{deployment}.log",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorProcess:
    """A living door. `url` is how this machine reaches it, `settings` the digest of all that it goes by, `files` where
    that is read anew on SIGHUP, `started_at` when its process began."""

    pid: int
    url: str
    listen: str
    settings: str
    files: tuple[str, ...] = ()
    started_at: datetime

    def to_json(self) -> bytes:
        return json.dumps(asdict(self) | {"started_at": self.started_at.isoformat()}).encode() + b"\n"

    @property
    def lives(self) -> bool:
        """Whether `pid` still is the process that wrote the note, and no later one."""
        try:
            return abs((started_at(self.pid) - self.started_at).total_seconds()) <= _START_TOLERANCE_SECONDS
        except psutil.NoSuchProcess:
            return False


def started_at(pid: int) -> datetime:
    """When a process began. Raises psutil.NoSuchProcess."""
    return datetime.fromtimestamp(psutil.Process(pid).create_time(), UTC)


def read_note(path: Path) -> DoorProcess | None:
    """None when there is none, or none that makes sense."""
    try:
        said = json.loads(path.read_bytes())
        return DoorProcess(
            pid=int(said["pid"]),
            url=str(said["url"]),
            listen=str(said["listen"]),
            settings=str(said.get("settings", "")),  # a door of an older version wrote none: it is opened anew
            files=tuple(str(one) for one in said.get("files", ())),
            started_at=datetime.fromisoformat(said["started_at"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def hold(lock: Path) -> IO[bytes] | None:
    """Take the lock for as long as the file stays open; None when another process has it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = lock.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def held(lock: Path) -> bool:
    """Whether a living process has the lock."""
    with _opened(lock) as file:
        if file is None:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who look do not see each other
        except BlockingIOError:
            return True
        return False


@contextmanager
def _opened(lock: Path) -> Iterator[IO[bytes] | None]:
    try:
        file = lock.open("rb")
    except FileNotFoundError:
        yield None
        return
    with file:
        yield file
