"""One replica's life: loading, ready, draining; and the way of an image through it."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from inference import images, models
from inference.backends import Accelerator
from inference.batching import CPU_BUCKETS, GPU_BUCKETS, Batcher
from inference.engine import Engine, Reading
from inference.images import BadImage, File
from inference.metrics import Metrics

Status = Literal["loading", "ready", "draining"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a replica runs. `workers` threads each run calls of `threads` threads; None means one worker per core."""

    model: str = "ppocr"
    accelerator: Accelerator = "auto"
    workers: int | None = None
    threads: int = 1
    queue: int = 64  # images waiting; the next one gets 429
    deadline_seconds: float = 60.0
    max_bytes: int = images.MAX_BYTES  # of one image
    max_pixels: int = images.MAX_PIXELS
    max_body_bytes: int = 64 * 2**20  # of one request


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One image read, and how long that took from its bytes on."""

    reading: Reading
    milliseconds: float


class Service:
    """Belongs to one event loop. `read` is refused unless the status is ready."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.in_flight = 0
        self.workers = settings.workers or max(1, cores() // settings.threads)
        self.engine: Engine | None = None
        self._batcher: Batcher[File, Read] | None = None
        self._draining = False

    @property
    def status(self) -> Status:
        if self._draining:
            return "draining"
        return "ready" if self._batcher else "loading"

    @property
    def waiting(self) -> int:
        return self._batcher.waiting if self._batcher else 0

    async def load(self) -> None:
        """Load the model in a thread, so that health is answered meanwhile. Raises what models.load raises."""
        settings = self.settings
        started = time.monotonic()
        engine = await asyncio.to_thread(
            models.load, settings.model, accelerator=settings.accelerator, threads=settings.threads
        )
        log.info("%s loaded in %.1f s on %s", engine.model, time.monotonic() - started, engine.provider)
        self.engine = engine
        self._batcher = Batcher(
            lambda files: self._work(engine, files),
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
    def entered(self) -> Iterator[None]:
        """A request is in flight."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def read(self, files: Sequence[File], deadline: float) -> list[Read]:
        """Read image files, in order; `deadline` is of time.monotonic().

        Raises BadImage for one that is not an image we read, QueueFull, DeadlinePassed.
        """
        if self._batcher is None:
            raise RuntimeError("read before the model was loaded")
        jobs = [(file, self._header(file).longest_side) for file in files]
        return await self._batcher.submit(jobs, deadline)

    def _header(self, file: File) -> images.Header:
        with _named(file):
            return images.header(file.content, max_bytes=self.settings.max_bytes, max_pixels=self.settings.max_pixels)

    def _decode(self, file: File) -> images.Pixels:
        with _named(file):
            return images.decode(file.content, max_bytes=self.settings.max_bytes, max_pixels=self.settings.max_pixels)

    def _work(self, engine: Engine, files: Sequence[File]) -> list[Read | Exception]:
        started = time.perf_counter()
        outcomes: dict[int, Read | Exception] = {}
        pages: dict[int, images.Pixels] = {}
        for i, file in enumerate(files):
            try:
                pages[i] = self._decode(file)
            except BadImage as bad:
                outcomes[i] = bad
        readings = engine.read(list(pages.values()))
        milliseconds = (time.perf_counter() - started) * 1000
        for i, reading in zip(pages, readings, strict=True):
            outcomes[i] = Read(reading=reading, milliseconds=milliseconds)
        return [outcomes[i] for i in range(len(files))]


@contextlib.contextmanager
def _named(file: File) -> Iterator[None]:
    try:
        yield
    except BadImage as bad:
        raise BadImage(f"{file.name}: {bad.reason}", bad.status) from None


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
