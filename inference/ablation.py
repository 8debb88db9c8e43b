"""What each measure is worth: the same pages read with it and without it, one process per row.

A measure is a switch: how the engine is put together differently. Every row is compared with the first, which has none
of them, and where the pages' text is known, with that.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec

import cv2
import numpy as np

from inference import images, meters, models
from inference.agreement import Page, agreement
from inference.backends import Backend, Floats, Precision, Runtime, Session
from inference.backends.ort import OrtRuntime
from inference.engine import Engine
from inference.images import Pixels
from inference.models import graph, ppocr, weights
from inference.models.pruning import pruned
from inference.recognition import HEIGHT, LEAST_WIDTH, Orienter, Recogniser

__all__ = ["SWITCHES", "Page", "Row", "ablate"]

ROUNDS = 2
OPTIONAL = ("openvino", "torch")  # packages; their switches begin with the name
FAST_SIDE = 1024  # pixels; the longest side of the quick mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One switch. `speed` is the first row's processor time for an image over this one's.

    Shares are 0-1: of the first row's lines, those found with the same text, and of their characters; of the true lines
    and characters, None where none are known. `latency_ms` is the median time of an image among its workers, `cpu_ms`
    the processor's time for one, which other work on the machine hardly changes; memory is the peak of the process.
    """

    switch: str
    latency_ms: float
    cpu_ms: float
    images_per_second: float
    speed: float
    memory_bytes: int
    lines_equal: float
    characters_equal: float
    true_lines: float | None
    true_characters: float | None


def ablate(
    files: Sequence[bytes], truth: Sequence[Page] | None = None, *, workers: int, only: Sequence[str] | None = None
) -> list[Row]:
    """A row for each of SWITCHES (or `only` those, the first included anyway), in their order; none for
    OPTIONAL packages that are not installed. Raises BadImage, and whatever loading the model raises."""
    rows: list[Row] = []
    first: _Run | None = None
    for switch in SWITCHES:
        if first and only is not None and switch not in only:
            continue
        if (package := switch.partition(",")[0]) in OPTIONAL and find_spec(package) is None:
            continue
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            run = process.submit(_measured, switch, files, workers).result()
        first = first or run
        equal = agreement(first.pages, run.pages)
        true = agreement(truth, run.pages) if truth and any(truth) else (None, None)
        rows.append(
            Row(
                switch=switch,
                latency_ms=round(run.latency_ms, 1),
                cpu_ms=round(run.cpu_ms, 1),
                images_per_second=round(run.images_per_second, 3),
                speed=round(first.cpu_ms / run.cpu_ms, 3),
                memory_bytes=run.memory_bytes,
                lines_equal=equal[0],
                characters_equal=equal[1],
                true_lines=true[0],
                true_characters=true[1],
            )
        )
    return rows


Read = Callable[[Pixels], Page]


def _plain() -> Read:
    return _otherwise(lambda original: original)


def _flushed() -> Read:
    return _otherwise(weights.flushed)


def _pruned() -> Read:
    return _otherwise(lambda original: graph.serialised(pruned(graph.parsed(weights.flushed(original)))[0]))


def _otherwise(prepare: Callable[[bytes], bytes]) -> Read:
    """With PP-OCR's files prepared in this way, which leaves the recogniser its softmax."""
    runtime = _Together(OrtRuntime(accelerator="cpu"), prepare)
    sample = np.zeros((1, 3, HEIGHT, LEAST_WIDTH), np.float32)
    read = Recogniser(runtime.open(ppocr.prepared(ppocr.RECOGNISER), sample), together=True)
    return _reading(ppocr.load(runtime, read))


def _together() -> Read:
    return _reading(ppocr.load(_Together(OrtRuntime(accelerator="cpu"))))


def _alone() -> Read:
    return _reading(ppocr.load(OrtRuntime(accelerator="cpu")))


def _unturned() -> Read:
    return _reading(replace(ppocr.load(OrtRuntime(accelerator="cpu")), orienter=Orienter(_Upright())))


def _reread() -> Read:
    return _reading(ppocr.load(OrtRuntime(accelerator="cpu"), reread=True))


def _own_widths() -> Read:
    runtime = OrtRuntime(accelerator="cpu")
    return _reading(ppocr.load(runtime, ppocr.recogniser(runtime, own_widths=True)))


def _shrunk() -> Read:
    read = _alone()

    def smaller(page: Pixels) -> Page:
        ratio = min(1.0, FAST_SIDE / max(page.shape[:2]))
        if ratio == 1.0:
            return read(page)
        small = cv2.resize(page, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
        return [(text, tuple((x / ratio, y / ratio) for x, y in box)) for text, box in read(np.asarray(small))]

    return smaller


def _by(backend: Backend, precision: Precision) -> Callable[[], Read]:
    return lambda: _reading(models.load("ppocr", accelerator="cpu", backend=backend, precision=precision))


#: name -> how its engine is put together, and whether every core has a worker; the first is what is compared with
SWITCHES: Mapping[str, tuple[Callable[[], Read], bool]] = {
    "plain": (_plain, False),
    "subnormal weights flushed": (_flushed, False),
    "and channels that nobody reads cut": (_pruned, False),
    "and softmax only where it is read": (_together, False),
    "and each line alone (as shipped)": (_alone, False),
    "and a worker per core": (_alone, True),
    "shipped, classifier skipped": (_unturned, False),
    "shipped, doubted lines read both ways up": (_reread, False),
    f"shipped, longest side {FAST_SIDE}": (_shrunk, False),
    "shipped, lines at their own width": (_own_widths, False),
    "openvino, fp32": (_by("openvino", "fp32"), False),
    "openvino, bf16": (_by("openvino", "bf16"), False),
    "torch, fp32": (_by("torch", "fp32"), False),
    "torch, bf16": (_by("torch", "bf16"), False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    pages: list[Page]
    latency_ms: float
    cpu_ms: float
    images_per_second: float
    memory_bytes: int


def _measured(switch: str, files: Sequence[bytes], workers: int) -> _Run:
    """In a process of its own: its peak is this switch's."""
    make, all_cores = SWITCHES[switch]
    cv2.setNumThreads(1)
    read = make()
    pages = [read(images.decode(file)) for file in files]  # which also warms up

    def timed(file: bytes) -> float:
        started = time.perf_counter()
        read(images.decode(file))
        return time.perf_counter() - started

    again = list(files) * ROUNDS
    started, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(workers if all_cores else 1) as threads:
        taken = list(threads.map(timed, again))
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    return _Run(
        pages=pages,
        latency_ms=statistics.median(taken) * 1000,
        cpu_ms=cpu_seconds / len(again) * 1000,
        images_per_second=len(again) / seconds,
        memory_bytes=meters.peak_memory_bytes(),
    )


def _reading(engine: Engine) -> Read:
    return lambda page: [(line.text, line.box) for line in engine.read([page])[0].lines]


class _Together:
    """A runtime that runs lines together, and PP-OCR's files prepared in another way, if one is given."""

    on_accelerator = True

    def __init__(self, runtime: Runtime, prepare: Callable[[bytes], bytes] | None = None) -> None:
        self.provider = runtime.provider
        self.fallback = runtime.fallback
        self.precision: Precision = runtime.precision
        self._runtime = runtime
        files = (ppocr.DETECTOR, ppocr.ORIENTER, ppocr.RECOGNISER) if prepare else ()
        self._others = {ppocr.prepared(file): prepare(weights.read(ppocr.PACKAGE, *file)) for file in files if prepare}

    def open(self, model: bytes, sample: Floats) -> Session:
        return self._runtime.open(self._others.get(model, model), sample)


class _Upright:
    """Stands in for the orientation classifier: no line is on its head."""

    metadata: Mapping[str, str] = {}

    def run(self, batch: Floats) -> Floats:
        return np.zeros((len(batch), 2), np.float32)
