"""How fast this machine reads: images per second with all workers busy, and how long one image takes then."""

import importlib.metadata
import platform
import resource
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import cv2
import numpy as np

from inference import images
from inference.backends import RUNTIME_PACKAGES
from inference.engine import Engine

LEAST_SECONDS = 5.0
LEAST_SAMPLES = 20  # for a 95th percentile

Box = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One row: what ran where, and how fast. `memory_bytes` is the peak of this process."""

    model: str
    gpu: str
    provider: str
    fallback: str | None
    precision: str
    batch: int
    workers: int
    threads: int
    images: int
    seconds: float
    images_per_second: float
    p95_ms: float
    memory_bytes: int
    versions: dict[str, str]


def measure(
    engine: Engine,
    files: Sequence[bytes],
    *,
    workers: int,
    threads: int,
    least_seconds: float = LEAST_SECONDS,
    least_samples: int = LEAST_SAMPLES,
) -> Measured:
    """Read the files over and over, decoding included, until both minima are reached. One round before is not counted:
    it warms what is made per input shape. Raises BadImage."""
    for file in files:
        engine.read([images.decode(file)])
    started = time.perf_counter()
    taken: list[float] = []
    numbers = count()
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                number = next(numbers)
                enough = number >= max(least_samples, len(files)) and time.perf_counter() - started >= least_seconds
            if enough:
                return
            begun = time.perf_counter()
            engine.read([images.decode(files[number % len(files)])])
            taken.append((time.perf_counter() - begun) * 1000)

    with ThreadPoolExecutor(workers) as pool:
        for worker in [pool.submit(work) for _ in range(workers)]:
            worker.result()
    seconds = time.perf_counter() - started
    return Measured(
        model=engine.model,
        gpu=device_name(engine),
        provider=engine.provider,
        fallback=engine.fallback,
        precision=engine.precision,
        batch=1,
        workers=workers,
        threads=threads,
        images=len(taken),
        seconds=round(seconds, 3),
        images_per_second=round(len(taken) / seconds, 4),
        p95_ms=round(statistics.quantiles(taken, n=20, method="inclusive")[-1], 1),
        memory_bytes=peak_memory_bytes(),
        versions=_versions(),
    )


def device_name(engine: Engine) -> str:
    """What the row is filed under: the GPU's name by NVML, or the CPU's model name."""
    if not engine.on_accelerator:
        return cpu_name()
    import pynvml  # only where there is a GPU

    pynvml.nvmlInit()
    name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
    return str(name).removeprefix("NVIDIA ").removeprefix("GeForce ")


def cpu_name() -> str:
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


def peak_memory_bytes() -> int:
    """Of this process, since it started."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in (*RUNTIME_PACKAGES, "rapidocr", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
