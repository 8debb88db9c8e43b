"""This machine as a provider: a replica is a child process that outlives the daemon.

A replica's folder is `HALVE_HOME/replicas/<token>`. Its process inherits a lock on `lock` there and holds it for life,
so a restarted daemon adopts by lock and token, never by pid alone; what holds no lock is gone.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from orchestrator.clock import Clock
from orchestrator.files import read_json, write_json
from orchestrator.providers import Listed, Misconfigured, NoCapacity, Request, State
from policies.snapshot import Offer

#: a replica that ignores SIGTERM is killed after this long
KILL_AFTER = timedelta(seconds=10)
#: folders of replicas that ended longer ago than this are removed
KEEP_ENDED = timedelta(days=3)
#: environment variables that a replica is given; nothing else of the daemon's is its business
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "VIRTUAL_ENV", "TMPDIR")


class LocalProvider:
    """Replicas on this machine. All methods may be called from one daemon at a time."""

    name = "local"
    listing_deadline_seconds = 5.0

    def __init__(self, home: Path, clock: Clock, offer: Offer) -> None:
        self._replicas = home / "replicas"
        self._clock = clock
        self._offer = offer
        self._children: list[subprocess.Popen[bytes]] = []

    def offers(self) -> Sequence[Offer]:
        return (self._offer,)

    def instances(self) -> Sequence[Listed]:
        self._children = [child for child in self._children if child.poll() is None]  # reaps
        if not self._replicas.is_dir():
            return ()
        folders = sorted(self._replicas.iterdir())
        return tuple(listed for folder in folders if (listed := self._listed(folder)) is not None)

    def launch(self, request: Request) -> str:
        folder = self._replicas / request.token
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with held(folder / "lock") as lock:
                if lock is None or (folder / "started.json").exists():
                    return request.token  # it runs, or it ran: the same token never starts twice
                now = self._clock.now()
                write_json(folder / "started.json", {"launched_at": now.isoformat(), "payload": dict(request.payload)})
                child = self._start(folder, request.payload, lock)
                self._children.append(child)
                process = {"pid": child.pid, "create_time": psutil.Process(child.pid).create_time()}
                write_json(folder / "process.json", process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            pass  # it died at once; the listing will say so
        except OSError as error:
            raise NoCapacity(f"{folder}: {error.strerror or error}") from None
        return request.token

    def terminate(self, provider_id: str) -> None:
        folder = self._replicas / provider_id
        process = find_process(folder)
        if process is None or not is_held(folder / "lock"):
            return
        asked = read_json(folder / "terminating.json")
        now = self._clock.now()
        with suppress(psutil.NoSuchProcess):
            if asked is None:
                write_json(folder / "terminating.json", {"at": now.isoformat()})
                process.send_signal(signal.SIGTERM)
            elif now - datetime.fromisoformat(asked["at"]) >= KILL_AFTER:
                process.kill()

    def _start(self, folder: Path, payload: Mapping[str, Any], lock: int) -> "subprocess.Popen[bytes]":
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        with (folder / "engine.log").open("ab") as log:
            try:
                return subprocess.Popen(
                    engine_command(payload, folder / "announce.json"),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=folder,
                    env=environment,
                    pass_fds=(lock,),
                    start_new_session=True,
                )
            except FileNotFoundError as error:
                raise Misconfigured(f"{error.filename}: no such program") from None

    def _listed(self, folder: Path) -> Listed | None:
        started = read_json(folder / "started.json")
        if started is None:
            return None
        launched_at = datetime.fromisoformat(started["launched_at"])
        now = self._clock.now()
        if is_held(folder / "lock"):
            announced = read_json(folder / "announce.json")
            url = announced["url"] if announced else None
            return Listed(
                provider_id=folder.name, token=folder.name, state=State.RUNNING, launched_at=launched_at, url=url
            )
        ended = read_json(folder / "ended.json")
        if ended is None:
            ended = {"at": now.isoformat(), "detail": last_words(folder / "engine.log")}
            write_json(folder / "ended.json", ended)  # the first sight of its end is its end
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
        )


def engine_command(payload: Mapping[str, Any], announce: Path) -> list[str]:
    """The engine's command line: a pure function of the frozen payload and of where it should announce itself."""
    command = [sys.executable, "-m", "inference", "--host", "127.0.0.1", "--port", "0", "--announce", str(announce)]
    command += ["--model", str(payload["model"])]
    for name in ("workers", "threads"):
        if name in payload["engine"]:
            command += [f"--{name}", str(payload["engine"][name])]
    return command


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
    """Whether some process holds the lock at `path`."""
    if not path.exists():
        return False
    with held(path) as lock:
        return lock is None


def find_process(folder: Path) -> psutil.Process | None:
    """The replica's process: by pid and start time, else by its command line, which names its folder."""
    known = read_json(folder / "process.json")
    if known is not None:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(known["pid"])
            if abs(process.create_time() - known["create_time"]) < 1.0:
                return process
        return None
    announce = str(folder / "announce.json")  # the daemon died before it wrote the pid down
    for process in psutil.process_iter(["cmdline"]):
        if announce in (process.info["cmdline"] or ()):
            return process
    return None


def last_words(log: Path) -> str:
    """The last line that a replica wrote: why it ended, as far as it said."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return json.dumps(lines[-1][:200], ensure_ascii=False)[1:-1] if lines else ""
