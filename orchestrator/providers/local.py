"""This machine as a provider: a replica is a child process that outlives the daemon.

A replica's folder is `HALVE_HOME/replicas/<token>`. Its process inherits a lock on `lock` there and holds it for life:
a restarted daemon adopts by lock and token, and no pid is ever taken on trust. What holds no lock is gone.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from orchestrator.billing import Terms
from orchestrator.clock import Clock
from orchestrator.files import read_json, write_json
from orchestrator.providers import (
    Listed,
    Misconfigured,
    NoCapacity,
    Priced,
    Request,
    State,
    Throttled,
    Unreachable,
    tags_of,
)
from policies.snapshot import Offer

#: a replica that ignores SIGTERM is killed after this long
KILL_AFTER = timedelta(seconds=10)
#: folders of replicas that ended longer ago than this are removed
KEEP_ENDED = timedelta(days=3)
#: environment variables that a replica is given; nothing else of the daemon's is its business
PASSED_ON = (
    "PATH",
    "HOME",
    "HALVE_HOME",  # where checkpoints lie
    "LANG",
    "LC_ALL",
    "TZ",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "VIRTUAL_ENV",
    "TMPDIR",
)
#: the variable that names a replica's folder to its processes, and so tells that they are ours
REPLICA = "HALVE_REPLICA"

Command = Callable[[Mapping[str, Any], Path], list[str]]


def engine_command(payload: Mapping[str, Any], announce: Path) -> list[str]:
    """The engine's command line: a pure function of the frozen payload and of where it should announce itself."""
    command = [sys.executable, "-m", "inference", "--host", "127.0.0.1", "--port", "0", "--announce", str(announce)]
    command += ["--model", str(payload["model"])]
    for name in ("backend", "precision", "workers", "threads"):
        if name in payload["engine"]:
            command += [f"--{name}", str(payload["engine"][name])]
    for source in payload["engine"].get("sources", ()):
        command += ["--allow-source", str(source)]
    return command


class LocalProvider:
    """Replicas on this machine, each started by `command`. Safe to use from several threads and processes."""

    name = "local"
    listing_deadline_seconds = 5.0
    terms = Terms()

    def __init__(
        self, home: Path, clock: Clock, offer: Offer | Callable[[], Offer], command: Command = engine_command
    ) -> None:
        """`offer`: this machine, or who says what it costs now."""
        self._replicas = home.absolute() / "replicas"
        self._clock = clock
        self._offer = offer
        self._command = command
        self._children: list[subprocess.Popen[bytes]] = []
        self._unnoted: dict[str, dict[str, str]] = {}  # ends that no disk has had room for yet, by token

    def offers(self) -> Sequence[Offer]:
        return (self._offer() if callable(self._offer) else self._offer,)

    def prices(self, since: datetime) -> Sequence[Priced] | None:
        return None  # it costs what its owner says, from when he says it

    def instances(self) -> Sequence[Listed]:
        self._children = [child for child in self._children if child.poll() is None]  # reaps
        try:
            folders = sorted(self._replicas.iterdir()) if self._replicas.is_dir() else []
            return tuple(listed for folder in folders if (listed := self._listed(folder)) is not None)
        except OSError as error:
            raise Unreachable(_words(error)) from None

    def launch(self, request: Request) -> str:
        folder = self._replicas / request.token
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with held(folder / "lock") as lock:
                if (folder / "started.json").exists():
                    return request.token  # it runs, or it ran: the same token never starts twice
                if lock is None:
                    raise Throttled(f"{folder}: somebody else is starting it")
                now = self._clock.now()
                write_json(folder / "started.json", {"launched_at": now.isoformat(), "payload": dict(request.payload)})
                self._children.append(self._start(folder, request.payload, lock))
        except OSError as error:
            raise NoCapacity(_words(error)) from None
        return request.token

    def terminate(self, provider_id: str) -> None:
        folder = self._replicas / provider_id
        processes = list(replicas_of(folder))
        if not processes:
            if is_held(folder / "lock"):  # it is being born: its environment cannot be read for an instant
                raise Unreachable(f"{folder}: it runs and cannot be found yet")
            return
        note = folder / "terminating.json"
        now = self._clock.now()
        try:
            asked = read_json(note)
            if asked is None:
                _signal(processes, signal.SIGTERM)
                write_json(note, {"at": now.isoformat()})
            elif not timedelta(0) <= now - datetime.fromisoformat(asked["at"]) < KILL_AFTER:
                _signal(processes, signal.SIGKILL)
        except OSError as error:
            raise Unreachable(_words(error)) from None

    def _start(self, folder: Path, payload: Mapping[str, Any], lock: int) -> "subprocess.Popen[bytes]":
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {REPLICA: str(folder)}
        with (folder / "engine.log").open("ab") as log:
            try:
                return subprocess.Popen(
                    self._command(payload, folder / "announce.json"),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=folder,
                    env=environment,
                    pass_fds=(lock,),
                    start_new_session=True,
                )
            except (FileNotFoundError, PermissionError) as error:
                raise Misconfigured(_words(error)) from None

    def _listed(self, folder: Path) -> Listed | None:
        started = read_json(folder / "started.json")
        if started is None:
            return None
        launched_at = datetime.fromisoformat(started["launched_at"])
        now = self._clock.now()
        tags = tags_of(started["payload"])
        if is_held(folder / "lock"):
            announced = read_json(folder / "announce.json")
            url = announced["url"] if announced else None
            return Listed(
                provider_id=folder.name,
                token=folder.name,
                state=State.RUNNING,
                launched_at=launched_at,
                url=url,
                tags=tags,
            )
        ended = self._end_of(folder, now)
        ended_at = datetime.fromisoformat(ended["at"])
        if now - ended_at > KEEP_ENDED:
            shutil.rmtree(folder, ignore_errors=True)
            return None
        return Listed(
            provider_id=folder.name,
            token=folder.name,
            state=State.GONE,
            launched_at=launched_at,
            ended_at=max(ended_at, launched_at),
            detail=ended["detail"],
            tags=tags,
        )

    def _end_of(self, folder: Path, now: datetime) -> dict[str, str]:
        """When it ended and what it said last: the first sight of its end is its end. A full disk hides none."""
        noted = read_json(folder / "ended.json")
        if noted is not None:
            return noted
        seen = {"at": now.isoformat(), "detail": last_words(folder / "engine.log")}
        ended = self._unnoted.setdefault(folder.name, seen)
        with suppress(OSError):
            write_json(folder / "ended.json", ended)
            self._unnoted.pop(folder.name, None)
        return ended


@contextmanager
def held(path: Path) -> Iterator[int | None]:
    """Hold the lock at `path`, giving its descriptor; None when another process holds it. A child may inherit it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)  # a child that inherited it goes on holding the lock


def is_held(path: Path) -> bool:
    """Whether some process holds the lock at `path`. Those who only look do not see each other."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def replicas_of(folder: Path) -> Iterator[psutil.Process]:
    """The processes that were started for this token in this home. No pid is taken on trust."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(REPLICA) == str(folder):
                yield process


def _signal(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def last_words(log: Path) -> str:
    """The last line that a replica wrote: why it ended, as far as it said."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return json.dumps(lines[-1][:200], ensure_ascii=False)[1:-1] if lines else ""


def _words(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
