"""The engine against rapidocr's own loop on the same images: speed, agreement with it, and accuracy.

    python -m tests.benchmarks.engine [--images DIR] [--every N]

Contestants are processes of their own, all loaded and warm before anything is counted. With one thread they read the
images in turns, image by image, so that whatever else the machine does meets all of them alike; with two cores they
read the whole set, one after the other. Runtimes that make kernels for each input shape read all images once before.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from inference import choice, images, models, runner
from inference.agreement import Page, agreement, known_texts
from inference.backends import Backend, Precision
from tests.inference.agreement import Agreement, compare
from tests.inference.conftest import REAL_IMAGES

Read = Callable[[Path], Page]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """How a reader is made, and whether it makes kernels for each input shape."""

    make: Callable[[], Read]
    per_shape: bool = False


def halve(backend: Backend, precision: Precision = "fp32") -> Callable[[], Read]:
    def make() -> Read:
        engine = models.load(accelerator="cpu", threads=1, backend=backend, precision=precision)

        def read(path: Path) -> Page:
            reading = engine.read([images.decode(path.read_bytes())])[0]
            return [(line.text, line.box) for line in reading.lines]

        return read

    return make


def rapidocr(engine: str, threads: int) -> Callable[[], Read]:
    def make() -> Read:
        from rapidocr import EngineType, RapidOCR

        params: dict[str, Any] = {"Global.log_level": "error"}
        if engine == "openvino":
            params["EngineConfig.openvino.inference_num_threads"] = threads
        else:
            params["EngineConfig.onnxruntime.intra_op_num_threads"] = threads
            params["EngineConfig.onnxruntime.inter_op_num_threads"] = threads
        params |= {f"{part}.engine_type": EngineType(engine) for part in ("Det", "Cls", "Rec")}
        reader = RapidOCR(params=params)

        def read(path: Path) -> Page:
            result = reader(path)
            if result.boxes is None:
                return []
            boxes = (tuple((float(x), float(y)) for x, y in box) for box in result.boxes)
            return list(zip(result.txts, boxes, strict=True))

        return read

    return make


RAPIDOCR, RAPIDOCR_OPENVINO = "rapidocr, onnxruntime", "rapidocr, openvino"
HALVE, HALVE_OPENVINO, HALVE_BF16 = "halve, onnxruntime", "halve, openvino fp32", "halve, openvino bf16"
DEFAULT = "rapidocr, its default threads"
CONTESTANTS = {
    RAPIDOCR: Contestant(make=rapidocr("onnxruntime", 1)),
    HALVE: Contestant(make=halve("onnxruntime")),
    RAPIDOCR_OPENVINO: Contestant(make=rapidocr("openvino", 1), per_shape=True),
    HALVE_OPENVINO: Contestant(make=halve("openvino"), per_shape=True),
    HALVE_BF16: Contestant(make=halve("openvino", "bf16"), per_shape=True),
    DEFAULT: Contestant(make=rapidocr("onnxruntime", -1)),
}
ONE_THREAD = (RAPIDOCR, HALVE, RAPIDOCR_OPENVINO, HALVE_OPENVINO, HALVE_BF16)
ONE_THREAD_PAIRS = (
    (HALVE, RAPIDOCR),
    (HALVE_OPENVINO, RAPIDOCR),
    (HALVE_BF16, RAPIDOCR),
    (HALVE_BF16, RAPIDOCR_OPENVINO),
)
WORKERS = 2


@dataclass(slots=True)
class Spent:
    """What a contestant has read so far, and the seconds and processor seconds it took."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    pages: dict[str, Page] = field(default_factory=dict)


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=REAL_IMAGES)
    parser.add_argument("--every", type=int, default=4, help="take every Nth image (default 4)")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.contestant:
        compete(CONTESTANTS[options.contestant])
        return
    if not options.images.is_dir():
        print(f"{options.images}: no such folder; name one with --images")
        return
    paths = runner.images_in(options.images)[:: options.every]
    print(f"{len(paths)} images of {options.images.resolve().name}/ on {choice.device('cpu')}")
    truth = known_texts(options.images, paths)
    spent = _one_thread(paths)
    print("\none thread each, images in turns:")
    for name, each in spent.items():
        lines, characters = agreement(truth, [each.pages[str(path)] for path in paths if str(path) in each.pages])
        print(
            f"{name:30} {len(paths) / each.seconds:7.3f} images/s {each.cpu_seconds:7.2f} CPU s"
            f"   true lines {lines:.1%}, characters {characters:.1%}"
        )
    for ours, theirs in ONE_THREAD_PAIRS:
        _compare(ours, spent[ours], theirs, spent[theirs], paths)
    print("\ntwo cores, the whole set at once:")
    workers = f"{HALVE}, {WORKERS} workers of 1 thread"
    two = {DEFAULT: _whole(DEFAULT, paths, 1), workers: _whole(HALVE, paths, WORKERS)}
    for name, each in two.items():
        print(f"{name:45} {len(paths) / each.seconds:7.3f} images/s {each.cpu_seconds:7.2f} CPU s")
    _compare(workers, two[workers], DEFAULT, two[DEFAULT], paths)


def _one_thread(paths: Sequence[Path]) -> dict[str, Spent]:
    running = {name: _Process(name) for name in ONE_THREAD}
    try:
        for name, process in running.items():
            process.read(paths if CONTESTANTS[name].per_shape else paths[:1], 1, Spent())
        spent = {name: Spent() for name in running}
        for number, path in enumerate(paths):
            turn = deque(running)
            turn.rotate(number)  # nobody is always the one after the slowest
            for name in turn:
                running[name].read([path], 1, spent[name])
        return spent
    finally:
        for process in running.values():
            process.end()


def _whole(name: str, paths: Sequence[Path], workers: int) -> Spent:
    process, spent = _Process(name), Spent()
    try:
        process.read(paths[:1], workers, Spent())
        process.read(paths, workers, spent)
    finally:
        process.end()
    return spent


class _Process:
    """A contestant, asked by a line of JSON, answering by another."""

    def __init__(self, name: str) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.engine", "--contestant", name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self, paths: Sequence[Path], workers: int, spent: Spent) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([[str(path) for path in paths], workers]), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        spent.seconds += answer["seconds"]
        spent.cpu_seconds += answer["cpu_seconds"]
        spent.pages |= answer["pages"]

    def end(self) -> None:
        self._process.communicate()


def compete(contestant: Contestant) -> None:
    """Read what is asked for on standard input, with so many workers, the largest file first."""
    answers, sys.stdout = sys.stdout, sys.stderr  # readers may print
    read = contestant.make()
    for line in sys.stdin:
        paths, workers = json.loads(line)
        queue = deque(sorted(map(Path, paths), key=lambda path: path.stat().st_size))
        pages: dict[str, Page] = {}
        started, cpu = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(workers) as threads:
            for worker in [threads.submit(_work, read, queue, pages) for _ in range(workers)]:
                worker.result()
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
        print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "pages": pages}), file=answers, flush=True)


def _work(read: Read, queue: deque[Path], pages: dict[str, Page]) -> None:
    while queue:
        path = queue.pop()
        pages[str(path)] = read(path)


def _compare(ours: str, our: Spent, theirs: str, their: Spent, paths: Sequence[Path]) -> None:
    total = Agreement()
    for path in paths:
        a, b = their.pages[str(path)], our.pages[str(path)]
        total += compare([(t, np.float32(box)) for t, box in a], [(t, np.float32(box)) for t, box in b])
    _, characters = agreement(
        [their.pages[str(path)] for path in paths],
        [our.pages[str(path)] for path in paths],
    )
    print(
        f"{ours} against {theirs}:\n"
        f"    {their.seconds / our.seconds:.2f}x, by CPU time {their.cpu_seconds / our.cpu_seconds:.2f}x;"
        f" {total.equal_lines:.2%} of {total.lines} lines and {characters:.2%} of characters equal,"
        f" box F1 at IoU .9 {total.box_f1:.3f}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
