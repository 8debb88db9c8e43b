"""One replica's life: loading, ready, draining; and the way of an image through it."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from inference import drawing, fields, images, models, schema
from inference.backends import Accelerator, Backend, Precision
from inference.batching import CPU_BUCKETS, GPU_BUCKETS, Batcher, QueueFull
from inference.engine import Engine, Reading
from inference.images import BadImage, File
from inference.metrics import Metrics
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
    sources: tuple[str, ...] = ()  # what requests may name instead of sending: file:///folder, s3://bucket/prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One image read: its JSON-ready values, its drawing (a PNG) where one was wished, and what it took."""

    content: dict[str, Any]
    drawn: bytes | None
    waited_seconds: float
    worked_seconds: float  # of its batch


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    file: File
    wanted: tuple[str, ...] | None
    visualize: bool
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
        self._batcher: Batcher[_Job, Page] | None = None
        self._draining = False

    @property
    def status(self) -> Status:
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
        self.engine = engine
        self._batcher = Batcher(
            lambda jobs: self._work(engine, jobs),
            workers=self.workers,
            capacity=settings.queue,
            buckets=GPU_BUCKETS if engine.on_accelerator else CPU_BUCKETS,
        )

    def drain(self) -> None:
        """Take no new request; those in flight finish. Repeatable."""
        self._draining = True

    async def close(self) -> None:
        if self._batcher:
            await self._batcher.close()

    @contextlib.contextmanager
    def entered(self) -> Iterator[Callable[[int], None]]:
        """A request is in flight. It says how many bytes it keeps, as they come; QueueFull when they are too many."""
        held = 0

        def hold(count: int) -> None:
            nonlocal held
            if self.held_bytes + count > self.settings.max_held_bytes:
                raise QueueFull(1)
            self.held_bytes += count
            held += count

        self.in_flight += 1
        try:
            yield hold
        finally:
            self.in_flight -= 1
            self.held_bytes -= held

    async def read(self, upload: Upload, deadline: float) -> list[Page]:
        """Read the images, in order; `deadline` is of time.monotonic().

        Raises BadImage for one that is not an image we read, QueueFull, DeadlinePassed.
        """
        if self._batcher is None:
            raise RuntimeError("read before the model was loaded")
        sides = await asyncio.to_thread(self._longest_sides, upload.files)
        now = time.monotonic()
        jobs = [
            (_Job(file=file, wanted=upload.wanted, visualize=upload.visualize, since=now), side)
            for file, side in zip(upload.files, sides, strict=True)
        ]
        pages = await self._batcher.submit(jobs, deadline)
        for page in pages:
            self.metrics.read(page.waited_seconds, page.worked_seconds)
        return pages

    def _longest_sides(self, files: Sequence[File]) -> list[int]:
        """In a thread, because a hostile file may hold a million chunks before its first pixel."""
        limits = self.settings
        sides = []
        for file in files:
            with _named(file):
                header = images.header(file.content, max_bytes=limits.max_bytes, max_pixels=limits.max_pixels)
                sides.append(header.longest_side)
        return sides

    def _work(self, engine: Engine, jobs: Sequence[_Job]) -> list[Page | Exception]:
        started = time.monotonic()
        outcomes: dict[int, Page | Exception] = {}
        pixels: dict[int, images.Pixels] = {}
        for i, job in enumerate(jobs):
            try:
                with _named(job.file):
                    pixels[i] = images.decode(
                        job.file.content, max_bytes=self.settings.max_bytes, max_pixels=self.settings.max_pixels
                    )
            except BadImage as bad:
                outcomes[i] = bad
        readings = engine.read(list(pixels.values()))
        for (i, page), reading in zip(pixels.items(), readings, strict=True):
            outcomes[i] = _page(engine, jobs[i], page, reading, started)
        return [outcomes[i] for i in range(len(jobs))]


def _page(engine: Engine, job: _Job, pixels: images.Pixels, reading: Reading, started: float) -> Page:
    structured = fields.extract(reading.lines, job.wanted)
    drawn = drawing.drawn(pixels, reading.lines) if job.visualize else None
    worked = time.monotonic() - started
    content = schema.page(
        job.file.name,
        reading,
        structured,
        milliseconds=worked * 1000,
        model=engine.model,
        precision=engine.precision,
    )
    return Page(content=content, drawn=drawn, waited_seconds=started - job.since, worked_seconds=worked)


@contextlib.contextmanager
def _named(file: File) -> Iterator[None]:
    try:
        yield
    except BadImage as bad:
        raise BadImage(f"{file.name}: {bad.reason}", bad.status) from None


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
