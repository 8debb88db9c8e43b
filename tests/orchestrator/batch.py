"""What the tests of jobs share: a ledger with one deployment, folders of images, and a runner that can be killed.

python -m tests.orchestrator.batch HOME URL      runs the jobs of a ledger, as a daemon would, until none is open
"""

import atexit
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from orchestrator.clock import SystemClock
from orchestrator.executors import Executor
from orchestrator.executors.http import HttpExecutor
from orchestrator.holder import identity
from orchestrator.jobs import JobRunner
from orchestrator.ledger import deployments, jobs, leases
from orchestrator.ledger.jobs import Job, State
from orchestrator.ledger.store import Ledger, open_ledger

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


class HurriedClock:
    """Thirty seconds pass in one, so that back-off takes no time worth waiting for.

    No more than twenty from one look at it to the next: who is stopped for a while has not slept for minutes.
    """

    def __init__(self) -> None:
        self._looked = time.monotonic()
        self._now = NOW
        self._turn = threading.Lock()

    def now(self) -> datetime:
        with self._turn:
            before, self._looked = self._looked, time.monotonic()
            self._now += timedelta(seconds=min(20.0, 30 * (self._looked - before)))
            return self._now

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / 30)


@lru_cache(maxsize=1)
def _new() -> Path:
    """A home that has just been made; making one takes a second, copying it nothing."""
    home = Path(tempfile.mkdtemp(prefix="halve-new-"))
    atexit.register(shutil.rmtree, home)
    open_ledger(home).close()
    return home


def opened(home: Path, *names: str) -> Ledger:
    """The ledger of a home, with these deployments, `ocr` when none is named."""
    if not (home / "halve.db").exists():
        shutil.copytree(_new(), home, dirs_exist_ok=True)
    ledger = open_ledger(home)
    with ledger.write() as tx:
        for name in names or ("ocr",):
            deployments.put_up(tx, name, "spec", f"/specs/{name}.yaml", NOW)
    return ledger


def generation(ledger: Ledger) -> Ledger:
    """Take the daemon's lease, as a new daemon does."""
    with ledger.write() as tx:
        taken = leases.take(tx, identity(), os.getpid(), datetime.now(UTC) + timedelta(hours=1))
    ledger.generation = taken
    return ledger


def folder(path: Path, images: Mapping[str | bytes, bytes]) -> Path:
    """A folder with these files."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in images.items():
        file = path / os.fsdecode(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return path


def numbered(count: int) -> dict[str | bytes, bytes]:
    return {f"{number:05d}.png": f"text {number}".encode() for number in range(count)}


def held_in_the_middle(count: int, held: Path) -> dict[str | bytes, bytes]:
    """So many, of which a few are not read by a tiny replica before this file is removed: till then no job is over."""
    held.touch()
    images = numbered(count)
    for name in list(images)[count // 2 : count // 2 + 4]:
        images[name] = b"held by " + os.fsencode(held)
    return images


def runner(ledger: Ledger, executor: Executor | None, *, in_flight: int = 4, clock: Any = None) -> JobRunner:
    return JobRunner(ledger, clock or SystemClock(), lambda deployment: executor, lambda deployment: in_flight)


def begin(running: list[JobRunner], one: JobRunner) -> JobRunner:
    """Start it; the fixture `running` stops it."""
    running.append(one)
    one.start()
    return one


def find(ledger: Ledger, job_id: int) -> Job:
    with ledger.read() as tx:
        job = jobs.get(tx, job_id)
    assert job is not None
    return job


def is_done(ledger: Ledger, job: Job) -> bool:
    return find(ledger, job.id).state is State.DONE


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until it holds. Fails after so many seconds."""
    start = time.monotonic()
    while not condition():
        waited = time.monotonic() - start
        assert waited < seconds, "it never came true"
        time.sleep(min(max(0.01, waited / 20), 0.2))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def main() -> None:
    ledger = generation(open_ledger(Path(sys.argv[1])))
    executor = HttpExecutor(sys.argv[2])
    running = runner(ledger, executor)
    print("running", flush=True)
    running.start()
    while True:
        with ledger.read() as tx:
            if not jobs.known(tx, still_open=True):
                break
        time.sleep(0.05)
    running.stop(5.0)


if __name__ == "__main__":
    main()
