"""One replica's life: loading, ready, draining; and the way of an image through it."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from inference import bench, images, models, pages, tuning
from inference.backends import Accelerator, Backend, Precision
from inference.batching import CPU_BUCKETS, GPU_BUCKETS, Batcher, Bucket, QueueFull, bucket_of
from inference.engine import Engine
from inference.images import BadImage, File
from inference.metrics import Metrics
from inference.pages import Asked, Page
from inference.sources import Sources
from inference.uploads import Upload

Status = Literal["loading", "ready", "draining"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a replica runs. `workers` threads each run calls of `threads` threads; None means one worker per core."""

    model: str = "ppocr"
    accelerator: Accelerator = "auto"
    backend: Backend = "auto"
    precision: Precision = "fp32"
    workers: int | None = None
    threads: int = 1
    queue: int = 64  # images waiting; the next one gets 429
    deadline_seconds: float = 60.0
    max_bytes: int = images.MAX_BYTES  # of one image
    max_pixels: int = images.MAX_PIXELS
    max_body_bytes: int = 64 * 2**20  # of one request
    max_held_bytes: int = 512 * 2**20  # of all requests that wait or run; the next byte gets 429
    batch_seconds: float = 1.0  # what a batch may take, on an accelerator
    tuning_seconds: float = 30.0  # of the start, for finding the fastest batches there; 0: those of the policy
    notices: Path | None = None  # of the host's watcher: JSON, {"reclaim_at", "rebalance_at"}
    sources: tuple[str, ...] = ()  # what requests may name instead of sending: file:///folder, s3://bucket/prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    asked: Asked
    since: float  # time.monotonic()


class Service:
    """Belongs to one event loop. `read` is refused unless the status is ready."""

    def __init__(self, settings: Settings) -> None:
        """Raises sources.UnknownSource."""
        self.settings = settings
        self.sources = Sources(settings.sources)
        self.metrics = Metrics()
        self.in_flight = 0
        self.workers = settings.workers or max(1, cores() // settings.threads)
        self.engine: Engine | None = None
        self.held_bytes = 0
        self.leaving = asyncio.Event()  # the process is about to end: what is never done by itself has to stop
        self._batcher: Batcher[_Job, Page] | None = None
        self._draining = False

    @property
    def status(self) -> Status:
        """Draining counts more than loading: a replica told to end is never ready again."""
        if self._draining:
            return "draining"
        return "ready" if self._batcher else "loading"

    @property
    def model(self) -> str:
        """Its name; that in a model card is known once the card is loaded."""
        return self.engine.model if self.engine else self.settings.model

    @property
    def waiting(self) -> int:
        return self._batcher.waiting if self._batcher else 0

    @property
    def batches(self) -> int:
        """How many were run."""
        return self._batcher.batches if self._batcher else 0

    @property
    def at_once(self) -> dict[str, int]:
        """How many images of each size run together, as far as it is known by now."""
        return self._batcher.at_once if self._batcher else {}

    async def load(self) -> None:
        """Load the model in a thread, so that health is answered meanwhile. Raises what models.load raises."""
        settings = self.settings
        started = time.monotonic()
        engine = await asyncio.to_thread(
            models.load,
            settings.model,
            accelerator=settings.accelerator,
            threads=settings.threads,
            backend=settings.backend,
            precision=settings.precision,
        )
        log.info("%s loaded in %.1f s on %s", engine.model, time.monotonic() - started, engine.provider)
        buckets = CPU_BUCKETS
        if engine.on_accelerator:
            buckets = await asyncio.to_thread(self._tuned, engine)
        self.start(engine, buckets)

    def start(self, engine: Engine, buckets: Sequence[Bucket] = CPU_BUCKETS) -> None:
        """Be ready, with this engine."""
        self.engine = engine
        self._batcher = Batcher(
            lambda jobs: self._work(engine, jobs),
            workers=self.workers,
            capacity=self.settings.queue,
            buckets=buckets,
        )

    def _tuned(self, engine: Engine) -> tuple[Bucket, ...]:
        return tuning.tuned(
            engine.read,
            GPU_BUCKETS,
            bench.drawn_pages(),
            latency_seconds=self.settings.batch_seconds,
            total_seconds=self.settings.tuning_seconds,
        )

    def drain(self) -> None:
        """Take no new request; those in flight finish. Repeatable."""
        self._draining = True

    async def close(self) -> None:
        """Wait for what is being read."""
        if self._batcher:
            await self._batcher.close()

    @contextlib.contextmanager
    def entered(self, *, online: bool = True) -> Iterator[Callable[[int], None]]:
        """A request is in flight. It says how many bytes it keeps, as they come; QueueFull when they are too many: for
        one that is not online when half of all that may be held is."""
        most = self.settings.max_held_bytes if online else self.settings.max_held_bytes // 2
        held = 0

        def hold(count: int) -> None:
            nonlocal held
            if self.held_bytes + count > most:
                raise QueueFull(1)
            self.held_bytes += count
            held += count

        self.in_flight += 1
        try:
            yield hold
        finally:
            self.in_flight -= 1
            self.held_bytes -= held

    async def read(self, upload: Upload, deadline: float, *, online: bool = True) -> list[Page]:
        """Read the images, in order; `deadline` is of time.monotonic(). What is not online waits for all that is.

        Raises BadImage for one that is not an image we read, or when there are more than ever wait, QueueFull,
        DeadlinePassed.
        """
        if self._batcher is None:
            raise RuntimeError("read before the model was loaded")
        if len(upload.files) > self.settings.queue:  # 429 would say that it may come back
            raise BadImage(f"{len(upload.files)} images; at most {self.settings.queue} at once here", 413)
        sides = await asyncio.to_thread(self._longest_sides, upload.files)
        now = time.monotonic()
        jobs = [
            (_Job(asked=Asked(file=file, wanted=upload.wanted, visualize=upload.visualize), since=now), side)
            for file, side in zip(upload.files, sides, strict=True)
        ]
        read = await self._batcher.submit(jobs, deadline, online=online)
        for page, side in zip(read, sides, strict=True):
            size = GPU_BUCKETS[bucket_of(side, GPU_BUCKETS)].name
            self.metrics.read(size, page.waited_seconds, page.worked_seconds)
        return read

    def _longest_sides(self, files: Sequence[File]) -> list[int]:
        """In a thread, because a hostile file may hold a million chunks before its first pixel."""
        limits = self.settings
        sides = []
        for file in files:
            try:
                header = images.header(file.content, max_bytes=limits.max_bytes, max_pixels=limits.max_pixels)
            except BadImage as bad:
                raise _of_file(file, bad) from None
            sides.append(header.longest_side)
        return sides

    def _work(self, engine: Engine, jobs: Sequence[_Job]) -> list[Page | Exception]:
        started = time.monotonic()
        limits = self.settings
        outcomes = pages.read(
            engine, [job.asked for job in jobs], max_bytes=limits.max_bytes, max_pixels=limits.max_pixels
        )
        return [
            _of_file(job.asked.file, one)
            if isinstance(one, BadImage)
            else replace(one, waited_seconds=started - job.since)
            for job, one in zip(jobs, outcomes, strict=True)
        ]


def _of_file(file: File, bad: BadImage) -> BadImage:
    """One of several files has to be named."""
    return BadImage(f"{file.name}: {bad.reason}", bad.status)


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
