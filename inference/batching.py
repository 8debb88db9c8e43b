"""Which waiting images run next, and how many together. The queue is bounded and knows each image's deadline."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Generic, TypeVar

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Images whose longest side is at most `up_to` pixels run at most `at_once` together."""

    up_to: float
    at_once: int
    name: str = ""


#: small images fill a GPU only in numbers, large ones fill it alone
GPU_BUCKETS = (
    Bucket(name="small", up_to=639, at_once=8),
    Bucket(name="middle", up_to=1280, at_once=2),
    Bucket(name="large", up_to=float("inf"), at_once=1),
)
#: on a CPU a batch is no faster per image than its images one by one (measured), and makes the first one wait
CPU_BUCKETS = (Bucket(up_to=float("inf"), at_once=1),)


class QueueFull(Exception):
    """No room to wait. Come back after `retry_after_seconds`."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__("the queue is full")
        self.retry_after_seconds = retry_after_seconds


class DeadlinePassed(Exception):
    """The image was still waiting when its deadline came, and was dropped."""


def bucket_of(longest_side: float, buckets: Sequence[Bucket]) -> int:
    """The index of the bucket that images of this size belong to."""
    return next(i for i, bucket in enumerate(buckets) if longest_side <= bucket.up_to)


def how_many(waiting_in_bucket: int, bucket: Bucket, idle_workers: int) -> int:
    """How many of a bucket's waiting images one worker takes now: its share of them among the idle workers (itself
    included), at most `at_once`. Nobody waits for a batch to fill."""
    share = -(-waiting_in_bucket // max(1, idle_workers))
    return min(share, bucket.at_once)


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Job, Outcome]):
    job: Job
    deadline: float  # time.monotonic()
    number: int
    outcome: asyncio.Future[Outcome] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher(Generic[Job, Outcome]):
    """Hands jobs to `workers` threads, the longest waiting bucket first.

    `work` gets a batch and answers with as many outcomes; an exception among them fails that job alone. When it raises,
    the batch is tried again in halves, and a bucket that ran out of memory stays with the smaller number. A job whose
    caller was cancelled, or whose deadline has passed, never runs.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Job]], Sequence[Outcome | Exception]],
        *,
        workers: int,
        capacity: int,
        buckets: Sequence[Bucket] = CPU_BUCKETS,
    ) -> None:
        self.batches = 0  # run so far
        self._work = work
        self._buckets = list(buckets)
        self._queues: list[deque[_Waiting[Job, Outcome]]] = [deque() for _ in buckets]
        self._capacity = capacity
        self._workers = workers
        self._idle = workers
        self._numbers = count()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="engine")
        self._running: set[asyncio.Task[None]] = set()
        self._seconds_per_job = 0.5  # a first guess, then a moving average

    @property
    def waiting(self) -> int:
        return sum(not waiting.outcome.done() for queue in self._queues for waiting in queue)

    async def submit(self, jobs: Sequence[tuple[Job, float]], deadline: float) -> list[Outcome]:
        """The outcomes of all (job, longest side), in order; all of them are queued, or none.

        Raises QueueFull at once, DeadlinePassed when `deadline` (of time.monotonic) comes first, and what the work
        raised for the first job that failed. When the caller is cancelled, what still waits is dropped.
        """
        if self.waiting + len(jobs) > self._capacity:
            raise QueueFull(self._retry_after_seconds())
        queued = [_Waiting[Job, Outcome](job, deadline, next(self._numbers)) for job, _ in jobs]
        for waiting, (_, longest_side) in zip(queued, jobs, strict=True):
            self._queues[bucket_of(longest_side, self._buckets)].append(waiting)
        self._start()
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + deadline - time.monotonic()):
                return await asyncio.gather(*(waiting.outcome for waiting in queued))
        except TimeoutError:
            raise DeadlinePassed(f"{len(jobs)} image(s) not read before the deadline") from None
        finally:
            for waiting in queued:
                waiting.outcome.cancel()

    async def close(self) -> None:
        """Wait for what runs."""
        await asyncio.gather(*self._running)
        self._threads.shutdown()

    def _start(self) -> None:
        while self._idle and (batch := self._take()):
            self._idle -= 1
            task = asyncio.get_running_loop().create_task(self._run(*batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _take(self) -> tuple[int, list[_Waiting[Job, Outcome]]] | None:
        """The next batch and its bucket: the one whose head has waited longest."""
        now = time.monotonic()
        for i, queue in enumerate(self._queues):
            self._queues[i] = deque(it for it in queue if not it.outcome.done() and it.deadline > now)
        heads = [(queue[0].number, i) for i, queue in enumerate(self._queues) if queue]
        if not heads:
            return None
        i = min(heads)[1]
        queue = self._queues[i]
        return i, [queue.popleft() for _ in range(how_many(len(queue), self._buckets[i], self._idle))]

    async def _run(self, i: int, batch: list[_Waiting[Job, Outcome]]) -> None:
        started = time.monotonic()
        outcomes = await self._outcomes(i, [waiting.job for waiting in batch])
        self._idle += 1
        self._seconds_per_job += 0.2 * ((time.monotonic() - started) / len(batch) - self._seconds_per_job)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.outcome.done():
                continue
            if isinstance(outcome, Exception):
                waiting.outcome.set_exception(outcome)
            else:
                waiting.outcome.set_result(outcome)
        self._start()

    async def _outcomes(self, i: int, jobs: Sequence[Job]) -> Sequence[Outcome | Exception]:
        """Of a batch from bucket `i`; a batch that cannot be run whole is run in halves."""
        self.batches += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._work, jobs)
        except Exception as error:  # noqa: BLE001  it belongs to those who wait for this batch
            if len(jobs) == 1:
                return [error]
            half = len(jobs) // 2
            if out_of_memory(error) and half < self._buckets[i].at_once:
                self._buckets[i] = replace(self._buckets[i], at_once=half)
                log.warning("out of memory with %d images at once: from now on at most %d", len(jobs), half)
            return [*await self._outcomes(i, jobs[:half]), *await self._outcomes(i, jobs[half:])]

    def _retry_after_seconds(self) -> int:
        """About how long until half of the queue is worked off."""
        return max(1, min(60, round(self._seconds_per_job * self.waiting / self._workers / 2)))


def out_of_memory(error: Exception) -> bool:
    """Each runtime has an exception of its own for it; they agree on the word."""
    return isinstance(error, MemoryError) or "memory" in str(error).lower() or "alloc" in str(error).lower()
