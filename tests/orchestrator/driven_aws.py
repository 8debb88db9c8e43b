"""A real daemon in a process of its own that rents on the AWS of its surroundings, on a clock that runs too fast.

python -m tests.orchestrator.driven_aws HOME STARTED_AT DAY_BEGINS_AT TIMES_AS_FAST
"""

import logging
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from orchestrator.clock import SystemClock
from orchestrator.daemon import Daemon
from orchestrator.deployment import Running, open_running
from orchestrator.ledger.deployments import Deployment
from orchestrator.ledger.store import Ledger, open_ledger
from orchestrator.spec import Spec
from tests.orchestrator import aws_proxy as aws
from tests.orchestrator.aws_day import Engines
from tests.orchestrator.scene import FakeDoor


class CompressedClock(SystemClock):
    """All who share its three numbers have the same time."""

    def __init__(self, started_at: float, begins_at: datetime, times: float) -> None:
        super().__init__()
        self._started_at, self._begins_at, self._times = started_at, begins_at, times

    def now(self) -> datetime:
        passed = timedelta(seconds=(time.time() - self._started_at) * self._times)
        return (self._begins_at + passed).astimezone(UTC)

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds / self._times)

    def arguments(self) -> list[str]:
        return [str(self._started_at), self._begins_at.isoformat(), str(self._times)]


class Street(FakeDoor):
    """A door that is always open, and that nobody goes through."""

    def ensure(self, wanted: Spec) -> str:
        return "http://127.0.0.1:9"

    def is_open(self) -> bool:
        return True

    def stop(self) -> None: ...

    def close(self) -> None: ...


def main() -> None:
    home, clock = Path(sys.argv[1]), CompressedClock(float(sys.argv[2]), at(sys.argv[3]), float(sys.argv[4]))
    logging.basicConfig(level=logging.INFO)

    def open_one(home: Path, clock: SystemClock, ledger: Ledger, row: Deployment) -> Running:
        running = open_running(home, clock, ledger, row)
        door = Street()
        rented = aws.provider(home, clock)
        running.door = door  # type: ignore[assignment]  # it has what the daemon asks of one
        running.world = replace(running.world, providers={"aws": rented}, probes=Engines(), door=door)
        return running

    Daemon(home, open_ledger(home), clock, open_one).run()


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


if __name__ == "__main__":
    main()
