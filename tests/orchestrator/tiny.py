"""The local provider with tiny replicas, and the end of every process that a test has started."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from orchestrator.clock import Clock, SystemClock
from orchestrator.providers.local import REPLICA, Command, LocalProvider
from policies.snapshot import Offer, Purchase

SCRIPT = Path(__file__).with_name("tiny_replica.py")
THIS_MACHINE = Offer(
    id="local/this",
    provider="local",
    zone="this",
    instance_type="this",
    gpu="tiny",
    purchase=Purchase.OWNED,
    price_per_hour_micros=1_800_000,
    currency="CNY",
)


def tiny(*manners: str) -> Command:
    """A tiny replica's command line; a payload may bring manners of its own."""

    def command(payload: Mapping[str, Any], announce: Path) -> list[str]:
        own = [str(one) for one in payload.get("manners", ())]
        return [sys.executable, "-S", str(SCRIPT), str(announce), *manners, *own]

    return command


def local(home: Path, *manners: str, clock: Clock | None = None) -> LocalProvider:
    return LocalProvider(home, clock or SystemClock(), THIS_MACHINE, tiny(*manners))


def until(condition: Callable[[], Any], seconds: float = 60.0, why: str = "it never came true") -> Any:
    """Wait until it holds, and return what it said. Who has waited for long is looked at less often."""
    start = time.monotonic()
    while not (said := condition()):
        waited = time.monotonic() - start
        assert waited < seconds, why
        time.sleep(min(max(0.02, waited / 20), 0.2))
    return said


def living(home: Path) -> list[psutil.Process]:
    """Replicas, doors and daemons of a home: what has a folder of it as its own, or its name on the command line."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            mine = process.pid != psutil.Process().pid and process.status() != psutil.STATUS_ZOMBIE
            if mine and str(home) in f"{process.cwd()} {' '.join(process.cmdline())}":
                found.append(process)
    return found


def replicas(home: Path) -> list[psutil.Process]:
    """Those of `living` that are replicas."""
    found = []
    for process in living(home):
        with suppress(psutil.Error):
            if REPLICA in process.environ():
                found.append(process)
    return found


def end_all(home: Path) -> None:
    """Whatever a test has left behind under its own home."""

    def none_left() -> bool:
        left = living(home)
        for process in left:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        return not left

    until(none_left, why="a process cannot be ended")


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system that is soon full. Needs root."""
    import pytest  # not by the processes that tests start

    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "halve-test", str(path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here: it needs root")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path) -> Path:
    """Leave no room at all; returns the file to remove."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 512):
            pass
    return filler
