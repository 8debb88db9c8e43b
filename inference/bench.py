"""How fast this machine reads: images per second with all workers busy, and how long one image takes then; for all
images together and for each size, batch and precision; and how long a start takes."""

import importlib.metadata
import multiprocessing
import platform
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import cv2
import numpy as np

from inference import images, meters, models
from inference.backends import RUNTIME_PACKAGES, Backend, Precision
from inference.batching import GPU_BUCKETS, bucket_of, out_of_memory
from inference.engine import Engine

LEAST_SECONDS = 5.0
LEAST_SAMPLES = 20  # calls, for a 95th percentile
ALL_SIZES = ""  # the size of a row that is of all images together

Box = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One row: what ran where, and how fast. `size` is small, middle or large, or "" for all images together.

    `p95_ms` is of a call, in which `batch` images are read together. Memory is the peak while the row was measured;
    what cannot be known here is None.
    """

    model: str
    gpu: str
    provider: str
    fallback: str | None
    precision: str
    size: str
    batch: int
    workers: int
    threads: int
    images: int
    seconds: float
    images_per_second: float
    p95_ms: float
    memory_bytes: int
    gpu_memory_bytes: int | None
    joules_per_image: float | None
    versions: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Seconds until the first image is read: `cold_seconds` from nothing, process included; `warm_seconds` in a process
    that has its packages loaded already."""

    cold_seconds: float
    warm_seconds: float


def measure(
    engine: Engine,
    files: Sequence[bytes],
    *,
    workers: int,
    threads: int,
    batch: int = 1,
    size: str = ALL_SIZES,
    least_seconds: float = LEAST_SECONDS,
    least_samples: int = LEAST_SAMPLES,
) -> Measured:
    """Read the files over and over, decoding included, `batch` at a time, until both minima are reached. One round
    before is not counted: it warms what is made per input shape. Raises BadImage."""
    for number in range(-(-len(files) // batch)):
        _read(engine, files, number, batch)
    taken: list[float] = []
    numbers = count()
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                number = next(numbers)
                enough = number >= least_calls and time.perf_counter() - started >= least_seconds
            if enough:
                return
            begun = time.perf_counter()
            _read(engine, files, number, batch)
            taken.append((time.perf_counter() - begun) * 1000)

    least_calls = max(least_samples, -(-len(files) // batch))
    with meters.metered(meters.gpu_library() if engine.on_accelerator else None) as spent:
        started = time.perf_counter()
        with ThreadPoolExecutor(workers) as pool:
            for worker in [pool.submit(work) for _ in range(workers)]:
                worker.result()
        seconds = time.perf_counter() - started
    read = len(taken) * batch
    return Measured(
        model=engine.model,
        gpu=device_name(engine),
        provider=engine.provider,
        fallback=engine.fallback,
        precision=engine.precision,
        size=size,
        batch=batch,
        workers=workers,
        threads=threads,
        images=read,
        seconds=round(seconds, 3),
        images_per_second=round(read / seconds, 4),
        p95_ms=round(statistics.quantiles(taken, n=20, method="inclusive")[-1], 1),
        memory_bytes=spent.memory_bytes,
        gpu_memory_bytes=spent.gpu_memory_bytes,
        joules_per_image=None if spent.joules is None else round(spent.joules / read, 4),
        versions=versions(),
    )


def table(
    engine: Engine,
    files: Sequence[bytes],
    *,
    workers: int,
    threads: int,
    batches: Sequence[int] | None = None,
    least_seconds: float = LEAST_SECONDS,
) -> list[Measured]:
    """The row of all files, one by one; then one for each size and batch (of `batches`, else of those that may pay).

    A batch that does not fit into memory ends its size's rows. Raises BadImage.
    """
    rows = [measure(engine, files, workers=workers, threads=threads, least_seconds=least_seconds)]
    for size, those in by_size(files).items():
        for batch in batches or batches_for(engine, size):
            try:
                row = measure(
                    engine,
                    those,
                    workers=workers,
                    threads=threads,
                    batch=batch,
                    size=size,
                    least_seconds=least_seconds,
                )
            except Exception as error:
                if batch == 1 or not out_of_memory(error):
                    raise
                break
            rows.append(row)
    return rows


def by_size(files: Sequence[bytes]) -> dict[str, list[bytes]]:
    """The files of each size that there are any of, smallest first. Raises BadImage."""
    found: dict[str, list[bytes]] = {bucket.name: [] for bucket in GPU_BUCKETS}
    for file in files:
        found[GPU_BUCKETS[bucket_of(images.header(file).longest_side, GPU_BUCKETS)].name].append(file)
    return {size: those for size, those in found.items() if those}


def batches_for(engine: Engine, size: str) -> list[int]:
    """The batches worth measuring: on a CPU images one by one, on an accelerator doubled up to twice the policy's."""
    most = 1
    if engine.on_accelerator:
        most = 2 * next(bucket.at_once for bucket in GPU_BUCKETS if bucket.name == size)
    return [2**i for i in range(most.bit_length())]


def start(model: str, file: bytes, *, threads: int, backend: Backend = "auto", precision: Precision = "fp32") -> Start:
    """Start a process that reads one image. Raises what loading the model raises."""
    begun = time.monotonic()  # of the system, so that another process may say when it was done
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        cold, warm = process.submit(_started, model, file, threads, backend, precision).result()
    return Start(cold_seconds=round(cold - begun, 3), warm_seconds=round(warm, 3))


def _started(model: str, file: bytes, threads: int, backend: Backend, precision: Precision) -> tuple[float, float]:
    """When the first image was read, and how long another engine took until its first."""

    def first() -> float:
        engine = models.load(model, threads=threads, backend=backend, precision=precision)
        engine.read([images.decode(file)])
        return time.monotonic()

    cold = first()
    return cold, first() - cold


def _read(engine: Engine, files: Sequence[bytes], number: int, batch: int) -> None:
    some = [files[(number * batch + i) % len(files)] for i in range(batch)]
    engine.read([images.decode(file) for file in some])


def device_name(engine: Engine) -> str:
    """What the row is filed under: the GPU's name by NVML, or the CPU's model name."""
    if not engine.on_accelerator:
        return cpu_name()
    nvml = meters.gpu_library()
    name = None if nvml is None else meters.gpu_name(nvml)
    if name is None:
        return engine.provider
    return name.removeprefix("NVIDIA ").removeprefix("GeForce ")


def cpu_name() -> str:
    """As the system says it; virtual machines hide the exact model."""
    described = Path("/proc/cpuinfo")
    if described.exists():
        for line in described.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return " ".join(value.split())
    return platform.processor() or platform.machine()


def drawn_pages() -> list[bytes]:
    """Three pages of plain text, small, middle and large, drawn here: for a machine without images of its own."""
    return [_page(*size) for size in _SIZES]


def drawn_texts() -> list[list[tuple[str, Box]]]:
    """What stands on each of them: the lines, and the corners (x, y) around each, clockwise from its top left."""
    pages = []
    for height, width, lines in _SIZES:
        page: list[tuple[str, Box]] = []
        for text, (left, base), scale in _written(height, width, lines):
            (across, above), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
            top, bottom, right = float(base - above), float(base + below), float(left + across)
            page.append((text, ((float(left), top), (right, top), (right, bottom), (float(left), bottom))))
        pages.append(page)
    return pages


_SIZES = ((480, 360, 10), (1000, 800, 24), (1700, 1300, 40))  # height, width, lines


def _written(height: int, width: int, lines: int) -> Iterator[tuple[str, tuple[int, int], float]]:
    step = height / (lines + 1)
    for i in range(lines):
        amount = i * 104729 % 100000 / 100
        text = f"No. {i + 1:03} item {i * 7919 % 1000:03} amount {amount:.2f} date 2026-{i % 12 + 1:02}-01"
        yield text, (round(step), round(step * (i + 1))), width / 1400 + 0.15


def _page(height: int, width: int, lines: int) -> bytes:
    page = np.full((height, width, 3), 255, np.uint8)
    for text, place, scale in _written(height, width, lines):
        cv2.putText(page, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (20, 20, 20), 1, cv2.LINE_AA)
    return bytes(cv2.imencode(".png", page)[1])


def versions() -> dict[str, str]:
    """Of Python and the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in (*RUNTIME_PACKAGES, "rapidocr", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
