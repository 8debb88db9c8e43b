"""What a batch costs on top of its images: the ledger's pace, and the overhead per item over the bare engine.

python -m tests.benchmarks.jobs
"""

import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from orchestrator.clock import SystemClock
from orchestrator.executors import Executor, Outcome, Task, Verdict
from orchestrator.executors.http import HttpExecutor
from orchestrator.jobs import JobRunner, submit
from orchestrator.ledger import items, jobs
from orchestrator.ledger.items import Step
from orchestrator.ledger.jobs import ItemState, State
from orchestrator.ledger.store import Ledger
from tests.orchestrator.batch import find, folder, generation, numbered, opened
from tests.orchestrator.fake_engine import Replica

ITEM_SECONDS = 0.05
OVERHEAD_ITEMS = 200
IN_FLIGHT = 2  # of one replica that reads one image at a time


def main() -> None:
    """Print items/s of durable lease and acknowledge, how it grows, and the overhead at 50 ms an item."""
    print("ledger: durable lease + acknowledge, in batches (goal: at least 2,000 items/s)")
    for count, batch in ((20_000, 16), (20_000, 64), (20_000, 256), (200_000, 256)):
        created, settled, shown = ledger_pace(count, batch)
        print(
            f"  {count:>7,} items by {batch:>3}: {settled:>7,.0f} items/s; "
            f"submitted at {created:>8,.0f} items/s; `job show` {shown * 1000:.1f} ms"
        )
    print(f"overhead at {ITEM_SECONDS * 1000:.0f} ms an item, {OVERHEAD_ITEMS} items (goal: at most 5 %)")
    bare = OVERHEAD_ITEMS * ITEM_SECONDS
    for name, seconds in (("in process", through_runner(None)), ("over HTTP", through_http())):
        print(f"  {name:>10}: {seconds:.2f} s for {bare:.2f} s of work: {(seconds / bare - 1) * 100:+.1f} %")


def ledger_pace(count: int, batch: int) -> tuple[float, float, float]:
    """Items/s created, items/s leased and settled in transactions of `batch`, and seconds of one look in the middle."""
    with tempfile.TemporaryDirectory() as home:
        ledger = opened(Path(home))
        now = datetime.now(UTC)
        names = [f"{number:07d}.png" for number in range(count)]
        started = time.perf_counter()
        with ledger.write() as tx:
            job_id = jobs.create(tx, "ocr", Path("/in"), Path("/out"), (), names, now)
        created = count / (time.perf_counter() - started)
        shown = 0.0
        started = time.perf_counter()
        for turn in range(-(-count // batch)):
            with ledger.write() as tx:
                leased = items.lease(tx, job_id, "me", batch, now, now + timedelta(minutes=2))
            steps = [Step(item=item, state=ItemState.DONE, failures=0) for item in leased]
            with ledger.write() as tx:
                items.settle(tx, "me", steps, datetime.now(UTC))
            if turn == count // batch // 2:
                shown = timed(lambda: look(ledger, job_id))
        settled = count / (time.perf_counter() - started - shown)
        assert find(ledger, job_id).done == count
        ledger.close()
        return created, settled, shown


def look(ledger: Ledger, job_id: int) -> None:
    job = find(ledger, job_id)
    with ledger.read() as tx:
        jobs.progress(tx, job, datetime.now(UTC))


def timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class OneAtATime(Executor):
    """An engine that reads one image at a time in exactly 50 ms, if it is kept busy."""

    def __init__(self) -> None:
        self._turn = threading.Lock()

    def read(self, task: Task) -> Outcome:
        task.place.read_bytes()
        with self._turn:
            time.sleep(ITEM_SECONDS)
        return Outcome(verdict=Verdict.READ, result={"recognized_text": "text"})


def through_runner(executor: OneAtATime | HttpExecutor | None) -> float:
    """Seconds from the first pass to the job's end, assembling included."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        ledger = generation(opened(place / "home"))
        job = submit(ledger, None, folder(place / "in", numbered(OVERHEAD_ITEMS)), place / "out", [], datetime.now(UTC))
        reader = executor or OneAtATime()
        runner = JobRunner(ledger, SystemClock(), lambda deployment: reader, lambda deployment: IN_FLIGHT)
        started = time.perf_counter()
        runner.start()
        while find(ledger, job.id).state is not State.DONE:
            time.sleep(0.01)
        seconds = time.perf_counter() - started
        runner.stop(5.0)
        ledger.close()
        return seconds


def through_http() -> float:
    """The same through a replica in another process."""
    with tempfile.TemporaryDirectory() as scratch:
        engine = Replica(Path(scratch), ITEM_SECONDS, at_once=1).start()
        try:
            warm = HttpExecutor(engine.url)
            path = folder(Path(scratch) / "warm", {"a.png": b"a"}) / "a.png"
            with ThreadPoolExecutor(IN_FLIGHT) as pool:
                list(pool.map(lambda _: warm.read(Task(place=path, name="a.png")), range(IN_FLIGHT)))
            return through_runner(warm)
        finally:
            engine.kill()


if __name__ == "__main__":
    main()
