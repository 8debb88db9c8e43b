"""What a batch costs on top of its images: the ledger's pace, and the overhead per item over the bare engine.

python -m tests.benchmarks.jobs
"""

import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from PIL import Image

from orchestrator.clock import SystemClock
from orchestrator.door import Door, ServingSet
from orchestrator.door import Replica as Published
from orchestrator.executors import Executor, Outcome, Task, Verdict
from orchestrator.executors.http import HttpExecutor
from orchestrator.executors.room import Room
from orchestrator.jobs import JobRunner, results, submit
from orchestrator.jobs.sources import listed
from orchestrator.ledger import items, jobs
from orchestrator.ledger.items import Step
from orchestrator.ledger.jobs import ItemState, State
from orchestrator.ledger.store import Ledger
from tests.inference.files import encoded
from tests.inference.sleeper import SleepingReplica
from tests.orchestrator.batch import find, folder, generation, numbered, opened, until

ITEM_SECONDS = 0.05
OVERHEAD_ITEMS = 200
GROWTH = (10_000, 100_000, 1_000_000)
ONLINE_PER_SECOND = 2.0
ONLINE_SECONDS = 20.0
IN_FLIGHT = 2  # of one replica that reads one image at a time


IMAGE = encoded(Image.new("L", (64, 48)))


def images(count: int) -> dict[str | bytes, bytes]:
    return dict.fromkeys(numbered(count), IMAGE)


def main() -> None:
    """Print items/s of durable lease and acknowledge, how the ledger grows, the overhead at 50 ms an item, and what
    a batch does to the answers of others."""
    print("ledger: durable lease + acknowledge, in batches (goal: at least 2,000 items/s)")
    for batch in (16, 64, 256):
        one = grown(20_000, batch)
        print(f"  20,000 items by {batch:>3}: {one.settled_per_second:>7,.0f} items/s")
    print("ledger: how it grows (goal: no worse than linearly)")
    print("        items  bytes/item   CPU us/item: list  record  lease+acknowledge  finish   `job show` ms")
    for count in GROWTH:
        one = grown(count, 256)
        cpu = one.cpu_us
        print(
            f"  {count:>11,} {one.bytes_per_item:>11.1f} {cpu['list']:>18.1f} {cpu['record']:>7.1f}"
            f" {cpu['settle']:>18.1f} {cpu['finish']:>7.1f} {one.shown_ms:>15.1f}"
        )
    print(f"overhead at {ITEM_SECONDS * 1000:.0f} ms an item, {OVERHEAD_ITEMS} items (goal: at most 5 %)")
    for name, of_engine in (("in process", in_process), ("over HTTP", over_http)):
        bare, batch = of_engine(fed), of_engine(through_runner)
        print(f"  {name:>10}: {batch:.2f} s, fed without a batch {bare:.2f} s: {(batch / bare - 1) * 100:+.1f} %")
    print(f"online beside a batch, {ONLINE_PER_SECOND} requests/s for {ONLINE_SECONDS:.0f} s, one replica, real door")
    for item_seconds, slo in ((0.05, 0.3), (0.2, 0.8)):
        alone, beside, rate = beside_a_batch(item_seconds)
        print(
            f"  {item_seconds * 1000:.0f} ms an image: p95 {alone * 1000:.0f} ms alone, {beside * 1000:.0f} ms beside"
            f" a batch of {rate:.1f} images/s (SLO {slo * 1000:.0f} ms: {'kept' if beside <= slo else 'MISSED'})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """What a job of some size took."""

    bytes_per_item: float
    cpu_us: Mapping[str, float]  # per item, by what was done
    settled_per_second: float
    shown_ms: float


def grown(count: int, batch: int) -> Grown:
    """List a folder of `count` images, record them, lease and settle them in transactions of `batch`, and finish."""
    memory = Path("/dev/shm")  # a million files are made faster there; the ledger stays on the disk
    with (
        tempfile.TemporaryDirectory() as home,
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as scratch,
    ):
        source, out = Path(scratch) / "in", Path(scratch) / "out"
        for path in (source, out):
            path.mkdir()
        for number in range(count):
            os.close(os.open(source / f"{number:07d}.png", os.O_CREAT | os.O_WRONLY))
        ledger = opened(Path(home))
        empty = size(ledger, Path(home))
        now = datetime.now(UTC)
        cpu: dict[str, float] = {}
        with measured(cpu, "list"):
            names = listed(str(source)).names
        with measured(cpu, "record"), ledger.write() as tx:
            job_id = jobs.create(tx, "ocr", source, out, (), names, now)
        shown = 0.0
        started = time.perf_counter()
        with measured(cpu, "settle"):
            for turn in range(-(-count // batch)):
                with ledger.write() as tx:
                    leased = items.lease(tx, job_id, "me", batch, now, now + timedelta(minutes=2))
                steps = [Step(item=item, state=ItemState.FAILED, failures=1, error="400 damaged") for item in leased]
                with ledger.write() as tx:
                    items.settle(tx, "me", steps, datetime.now(UTC))
                if turn == count // batch // 2:
                    shown = timed(lambda: look(ledger, job_id))
        seconds = time.perf_counter() - started - shown
        with measured(cpu, "finish"):
            results.assemble(find(ledger, job_id), results.settled(ledger, job_id))
            with ledger.write() as tx:
                jobs.finish(tx, job_id, "", datetime.now(UTC))
        assert find(ledger, job_id).state is State.DONE
        grew = size(ledger, Path(home)) - empty
        ledger.close()
        return Grown(
            bytes_per_item=grew / count,
            cpu_us={name: spent / count * 1e6 for name, spent in cpu.items()},
            settled_per_second=count / seconds,
            shown_ms=shown * 1000,
        )


@contextmanager
def measured(cpu: dict[str, float], what: str) -> Iterator[None]:
    started = time.process_time()
    yield
    cpu[what] = time.process_time() - started


def size(ledger: Ledger, home: Path) -> int:
    """Bytes of the ledger with nothing left in its log."""
    with ledger.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    return (home / "halve.db").stat().st_size


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


def in_process(measure: Callable[[Executor], float]) -> float:
    return measure(OneAtATime())


def over_http(measure: Callable[[Executor], float]) -> float:
    """The same behind the real server in another process, its connections warm."""
    engine = SleepingReplica(ITEM_SECONDS)
    try:
        executor = HttpExecutor(engine.url)
        fed(executor, IN_FLIGHT)
        return measure(executor)
    finally:
        engine.kill()


def fed(executor: Executor, count: int = OVERHEAD_ITEMS) -> float:
    """Seconds of as many threads as are under way that do nothing but have images read: the bare engine."""
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(IN_FLIGHT) as pool:
        source = folder(Path(scratch), images(count))
        tasks = [Task(place=path, name=path.name) for path in sorted(source.iterdir())]
        started = time.perf_counter()
        assert all(outcome.verdict is Verdict.READ for outcome in pool.map(executor.read, tasks))
        return time.perf_counter() - started


def through_runner(executor: Executor) -> float:
    """Seconds from the first pass to the job's end, assembling included."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        ledger = generation(opened(place / "home"))
        job = submit(ledger, None, folder(place / "in", images(OVERHEAD_ITEMS)), place / "out", [], datetime.now(UTC))
        runner = JobRunner(ledger, SystemClock(), lambda deployment: executor, lambda deployment: IN_FLIGHT)
        started = time.perf_counter()
        runner.start()
        while find(ledger, job.id).state is not State.DONE:
            time.sleep(0.01)
        seconds = time.perf_counter() - started
        runner.stop(5.0)
        ledger.close()
        return seconds


def beside_a_batch(item_seconds: float) -> tuple[float, float, float]:
    """Seconds at the 95th percentile of others' requests alone and beside a batch, and the batch's images/s."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        ledger = generation(opened(place / "home"))
        engine = SleepingReplica(item_seconds)
        door = Door(place / "home", "ocr")
        url = f"{door.ensure('127.0.0.1:0').url}/v1/ocr"
        replica, room = f"http://127.0.0.1:{engine.port}", Room()
        serving = (Published(id="ocr-1", url=replica),)
        door.publish(ServingSet(deployment="ocr", open=True, replicas=serving))
        executor = HttpExecutor(url)
        runner = JobRunner(ledger, SystemClock(), lambda deployment: executor, lambda deployment: room.of([replica]))
        try:
            alone = online(url)
            job = submit(ledger, None, folder(place / "in", images(20_000)), place / "out", [], datetime.now(UTC))
            runner.start()
            until(lambda: find(ledger, job.id).done > 20)
            before, started = find(ledger, job.id).done, time.perf_counter()
            beside = online(url)
            rate = (find(ledger, job.id).done - before) / (time.perf_counter() - started)
            return alone, beside, rate
        finally:
            runner.stop(5.0)
            door.stop()
            door.close()
            room.close()
            engine.kill()
            ledger.close()


def online(url: str) -> float:
    """Requests at random moments, as many as asked for whether or not earlier ones are answered. Their p95, seconds."""
    chance = random.Random(0)
    client = httpx.Client(timeout=30.0, limits=httpx.Limits(max_connections=None, max_keepalive_connections=None))

    def ask() -> float:
        started = time.perf_counter()
        client.post(url, files={"file": ("a.png", IMAGE)}).raise_for_status()
        return time.perf_counter() - started

    end = time.perf_counter() + ONLINE_SECONDS
    with client, ThreadPoolExecutor(64) as pool:
        asked = []
        while time.perf_counter() < end:
            asked.append(pool.submit(ask))
            time.sleep(chance.expovariate(ONLINE_PER_SECOND))
        seconds = sorted(one.result() for one in asked)
    return seconds[int(len(seconds) * 0.95)]


if __name__ == "__main__":
    main()
