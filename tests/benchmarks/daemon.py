"""From `halve daemon` to its first correct plan: on a fresh home, and after a crash with a fleet to adopt."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.door.client import Door
from orchestrator.ledger import deployments, fleet, leases
from orchestrator.ledger.store import Ledger, open_ledger
from policies.lifecycle import Status

ROUNDS = 5
REPLICAS = 3
PATIENCE_SECONDS = 60.0
POLL_SECONDS = 0.005
SPEC = """
name: bench
model: ppocr
provider: simulated
simulated: {price_per_hour: 1.80, boot: 1s}
replicas: {min: %d, max: %d}
door: {listen: "127.0.0.1:0"}
"""


def main() -> None:
    """Print medians over ROUNDS, as times of a bare interpreter's start in the same run."""
    bare, imports, fresh, again = [], [], [], []
    for _ in range(ROUNDS):
        bare.append(seconds(lambda: python("-c", "pass")))
        imports.append(seconds(lambda: python("-c", "import orchestrator.daemon")))
        with tempfile.TemporaryDirectory() as home:
            first, second = both(Path(home))
        fresh.append(first)
        again.append(second)
    unit = statistics.median(bare)
    rows = {
        "python -c pass": bare,
        "its imports alone": imports,
        f"fresh home -> {REPLICAS} launches recorded": fresh,
        f"killed with {REPLICAS} machines -> found, no plan": again,
    }
    for name, measured in rows.items():
        median = statistics.median(measured)
        print(f"{name:50} {median * 1000:8.1f} ms  {median / unit:6.1f} x bare")


def both(home: Path) -> tuple[float, float]:
    """Seconds from the start to the first plan: of a fresh ledger, and of one whose daemon was killed with machines."""
    ledger = open_ledger(home)
    with ledger.write() as tx:
        deployments.put_up(tx, "bench", SPEC % (REPLICAS, REPLICAS), "bench.yaml", datetime.now(UTC))
    try:
        process, first = started(home, lambda pid: launches(ledger) == REPLICAS)
        wait(lambda: ready(ledger) == REPLICAS)
        process.kill()
        process.wait()
        process, second = started(home, lambda pid: has_ticked(ledger, pid))
        assert (ready(ledger), launches(ledger)) == (REPLICAS, REPLICAS), "machines were not adopted as they are"
        process.terminate()
        process.wait(30)
    finally:
        Door(home, "bench").stop()
        ledger.close()
    return first, second


def started(home: Path, planned: Callable[[int], bool]) -> "tuple[subprocess.Popen[bytes], float]":
    """A daemon, and how long it took until it had planned."""
    environment = {**os.environ, "HALVE_HOME": str(home)}
    with (home / "daemon.log").open("ab") as log:
        begun = time.perf_counter()
        command = [sys.executable, "-m", "orchestrator", "daemon", "--no-wait"]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        wait(lambda: planned(process.pid))
        return process, time.perf_counter() - begun


def launches(ledger: Ledger) -> int:
    with ledger.read() as tx:
        return len(fleet.launches_since(tx, "bench", datetime.fromtimestamp(0, UTC)))


def ready(ledger: Ledger) -> int:
    with ledger.read() as tx:
        return sum(machine.status is Status.READY for machine in fleet.machines(tx, "bench"))


def has_ticked(ledger: Ledger, pid: int) -> bool:
    with ledger.read() as tx:
        lease = leases.held(tx)
    return lease is not None and lease.pid == pid and lease.last_tick_at is not None


def wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(POLL_SECONDS)


def seconds(do: Callable[[], object]) -> float:
    begun = time.perf_counter()
    do()
    return time.perf_counter() - begun


def python(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True)


if __name__ == "__main__":
    main()
