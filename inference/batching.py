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
#: on a CPU a batch is no faster per image than its images one by one (measured), and makes the first one wait; the
#: buckets are only taken in turns
CPU_BUCKETS = tuple(replace(bucket, at_once=1) for bucket in GPU_BUCKETS)
FIRST_GUESS_SECONDS = 0.5  # what a job takes, before any was seen


class QueueFull(Exception):
    """No room to wait. Come back after `retry_after_seconds`."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__("the queue is full")
        self.retry_after_seconds = retry_after_seconds


class DeadlinePassed(Exception):
    """The deadline came before the outcomes; what still waited was dropped. `begun`: some of it was being worked on."""

    def __init__(self, count: int, *, begun: bool) -> None:
        super().__init__(f"{count} image(s) not read before the deadline")
        self.begun = begun


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
    begun: bool = False


@dataclass(slots=True)
class _Size:
    """What is known of the jobs of one bucket; `seconds` is what one of them takes, a moving average."""

    bucket: Bucket
    seconds: float = FIRST_GUESS_SECONDS


@dataclass(slots=True, eq=False)
class _Queue(Generic[Job, Outcome]):
    """Waiting jobs of one size. `spent` is the workers' time they have had, in seconds of their turns' clock."""

    size: _Size
    jobs: deque[_Waiting[Job, Outcome]] = field(default_factory=deque)
    spent: float = 0.0


class _Turns(Generic[Job, Outcome]):
    """Waiting jobs of all sizes. The next are of the size that had the least of the workers' time so far, of two that
    had the same the one whose first job waits longer: a small image waits for the large one that runs, but not for all
    that came before it (start-time fair queueing; Goyal, Vin, Cheng, SIGCOMM 1996)."""

    def __init__(self, sizes: Sequence[_Size]) -> None:
        self._queues = [_Queue[Job, Outcome](size) for size in sizes]
        self._clock = 0.0  # `spent` of the queue that was served last, as it then was

    @property
    def waiting(self) -> int:
        return sum(not waiting.outcome.done() for queue in self._queues for waiting in queue.jobs)

    @property
    def seconds(self) -> float:
        """The work that waits, for one worker."""
        return sum(queue.size.seconds * len(queue.jobs) for queue in self._queues)

    def put(self, waiting: _Waiting[Job, Outcome], longest_side: float) -> None:
        queue = self._queues[bucket_of(longest_side, [queue.size.bucket for queue in self._queues])]
        if not queue.jobs:  # time in which it wanted nothing is not owed to it
            queue.spent = max(queue.spent, self._clock)
        queue.jobs.append(waiting)

    def drop(self) -> None:
        """Forget those that nobody waits for any more, and what they hold with them."""
        for queue in self._queues:
            queue.jobs = deque(it for it in queue.jobs if not it.outcome.done())

    def take(self, idle_workers: int) -> tuple[_Queue[Job, Outcome], list[_Waiting[Job, Outcome]]] | None:
        """The next batch, and the queue it is from."""
        now = time.monotonic()
        for queue in self._queues:
            queue.jobs = deque(it for it in queue.jobs if not it.outcome.done() and it.deadline > now)
        waiting = [queue for queue in self._queues if queue.jobs]
        if not waiting:
            return None
        queue = min(waiting, key=lambda queue: (queue.spent, queue.jobs[0].number))
        self._clock = queue.spent
        batch = [queue.jobs.popleft() for _ in range(how_many(len(queue.jobs), queue.size.bucket, idle_workers))]
        for one in batch:
            one.begun = True
        queue.spent += queue.size.seconds * len(batch)
        return queue, batch


class Batcher(Generic[Job, Outcome]):
    """Hands jobs to `workers` threads: online ones, in turns of their sizes (see _Turns), and only when none of those
    waits the others, which may fill half of the queue.

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
        self._sizes = [_Size(bucket) for bucket in buckets]
        self._online, self._offline = _Turns[Job, Outcome](self._sizes), _Turns[Job, Outcome](self._sizes)
        self._capacity = capacity
        self._workers = workers
        self._idle = workers
        self._numbers = count()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="engine")
        self._running: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """Jobs that have not begun and whose caller is still there."""
        return self._online.waiting + self._offline.waiting

    @property
    def at_once(self) -> dict[str, int]:
        """How many of each bucket may run together, as far as it is known by now."""
        return {size.bucket.name: size.bucket.at_once for size in self._sizes}

    async def submit(self, jobs: Sequence[tuple[Job, float]], deadline: float, *, online: bool = True) -> list[Outcome]:
        """The outcomes of all (job, longest side), in order; all of them are queued, or none.

        Raises QueueFull at once, DeadlinePassed when `deadline` (of time.monotonic) comes first, and what the work
        raised for the first job that failed. When the caller is cancelled, what still waits is dropped. The largest of
        the jobs begin first, so that at the end no worker is left alone with a long one.
        """
        outcomes = await self.outcomes(jobs, deadline, online=online, at_first_failure=True)
        return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]

    async def outcomes(
        self,
        jobs: Sequence[tuple[Job, float]],
        deadline: float,
        *,
        online: bool = True,
        at_first_failure: bool = False,
    ) -> list[Outcome | BaseException]:
        """As submit; but what the work raised for a job stands in that job's place."""
        if self.waiting + len(jobs) > (self._capacity if online else max(len(jobs), self._capacity // 2)):
            raise QueueFull(self._retry_after_seconds())
        queued = [_Waiting[Job, Outcome](job, deadline, next(self._numbers)) for job, _ in jobs]
        sides = [longest_side for _, longest_side in jobs]
        for i in sorted(range(len(jobs)), key=lambda i: -sides[i]):
            (self._online if online else self._offline).put(queued[i], sides[i])
        self._start()
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + deadline - time.monotonic()):
                return await asyncio.gather(
                    *(waiting.outcome for waiting in queued), return_exceptions=not at_first_failure
                )
        except TimeoutError:
            raise DeadlinePassed(len(jobs), begun=any(waiting.begun for waiting in queued)) from None
        finally:
            for waiting in queued:
                waiting.outcome.cancel()
            (self._online if online else self._offline).drop()

    async def close(self) -> None:
        """Wait for what runs."""
        await asyncio.gather(*self._running)
        self._threads.shutdown()

    def _start(self) -> None:
        while self._idle and (batch := self._online.take(self._idle) or self._offline.take(self._idle)):
            self._idle -= 1
            task = asyncio.get_running_loop().create_task(self._run(*batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _run(self, queue: _Queue[Job, Outcome], batch: list[_Waiting[Job, Outcome]]) -> None:
        started, charged = time.monotonic(), queue.size.seconds * len(batch)
        outcomes = await self._outcomes(queue.size, [waiting.job for waiting in batch])
        self._idle += 1
        seconds = time.monotonic() - started
        queue.spent += seconds - charged
        queue.size.seconds += 0.2 * (seconds / len(batch) - queue.size.seconds)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.outcome.done():
                continue
            if isinstance(outcome, Exception):
                waiting.outcome.set_exception(outcome)
            else:
                waiting.outcome.set_result(outcome)
        self._start()

    async def _outcomes(self, size: _Size, jobs: Sequence[Job]) -> Sequence[Outcome | Exception]:
        """Of a batch of this size; a batch that cannot be run whole is run in halves."""
        self.batches += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._work, jobs)
        except Exception as error:  # noqa: BLE001  it belongs to those who wait for this batch
            if len(jobs) == 1:
                return [error]
            half = len(jobs) // 2
            if out_of_memory(error) and half < size.bucket.at_once:
                size.bucket = replace(size.bucket, at_once=half)
                log.warning("out of memory with %d images at once: from now on at most %d", len(jobs), half)
            return [*await self._outcomes(size, jobs[:half]), *await self._outcomes(size, jobs[half:])]

    def _retry_after_seconds(self) -> int:
        """About how long until half of the queue is worked off."""
        seconds = self._online.seconds + self._offline.seconds
        return max(1, min(60, round(seconds / self._workers / 2)))


def out_of_memory(error: Exception) -> bool:
    """Each runtime has an exception of its own for it; they agree on the word."""
    return isinstance(error, MemoryError) or "memory" in str(error).lower() or "alloc" in str(error).lower()
