"""images/s of the engine against rapidocr's own loop, in one run on the same images, with the agreement beside.

    python -m tests.benchmarks.engine [--images DIR] [--every N]

Each contestant runs in a process of its own, one after the other. A warm-up image and loading are not counted.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from inference import bench, images, models, runner
from tests.inference.agreement import Agreement, compare
from tests.inference.conftest import REAL_IMAGES

Lines = list[tuple[str, list[list[float]]]]

CONTESTANTS = {
    "rapidocr, 1 thread": ("rapidocr", 1),
    "halve, 1 thread": ("halve", 1),
    "rapidocr, its default": ("rapidocr", -1),
    "halve, 2 workers of 1 thread": ("halve", 2),
}
PAIRS = (("halve, 1 thread", "rapidocr, 1 thread"), ("halve, 2 workers of 1 thread", "rapidocr, its default"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=REAL_IMAGES)
    parser.add_argument("--every", type=int, default=4, help="take every Nth image (default 4)")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.images.is_dir():
        print(f"{options.images}: no such folder; name one with --images")
        return
    paths = runner.images_in(options.images)[:: options.every]
    if options.contestant:
        print(json.dumps(compete(*CONTESTANTS[options.contestant], paths)))
        return
    print(f"{len(paths)} images of {options.images.resolve().name}/ on {bench.cpu_name()}")
    results = {name: _alone(name, options.images, options.every) for name in CONTESTANTS}
    for name, result in results.items():
        print(f"{name:30} {len(paths) / result['seconds']:7.3f} images/s  ({result['cpu_seconds']:.1f} CPU s)")
    for ours, theirs in PAIRS:
        speedup, saving = (results[theirs][key] / results[ours][key] for key in ("seconds", "cpu_seconds"))
        agreement = _agreement(results[theirs]["lines"], results[ours]["lines"])
        print(f"{ours} against {theirs}: {speedup:.2f}x, by CPU time {saving:.2f}x;")
        print(
            f"    {agreement.equal_lines:.2%} of {agreement.lines} lines equal, box F1 at IoU .9 {agreement.box_f1:.3f}"
        )


def _alone(name: str, folder: Path, every: int) -> dict:
    command = [sys.executable, "-m", "tests.benchmarks.engine", "--contestant", name]
    command += ["--images", str(folder), "--every", str(every)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compete(who: str, how: int, paths: Sequence[Path]) -> dict:
    """Read all images from disk; {"seconds", "cpu_seconds", "lines" in input order}."""
    read, workers = (_halve(), how) if who == "halve" else (_rapidocr(how), 1)
    read(paths[0])
    started, cpu = time.perf_counter(), time.process_time()
    found: dict[Path, Lines] = {}
    queue = deque(sorted(paths, key=lambda path: path.stat().st_size))

    def work() -> None:
        while queue:
            path = queue.pop()
            found[path] = read(path)

    with ThreadPoolExecutor(workers) as threads:
        for worker in [threads.submit(work) for _ in range(workers)]:
            worker.result()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "lines": [found[path] for path in paths]}


def _halve() -> Callable[[Path], Lines]:
    engine = models.load(accelerator="cpu", threads=1)

    def read(path: Path) -> Lines:
        reading = engine.read([images.decode(path.read_bytes())])[0]
        return [(line.text, [list(corner) for corner in line.box]) for line in reading.lines]

    return read


def _rapidocr(threads: int) -> Callable[[Path], Lines]:
    from rapidocr import RapidOCR

    params = {
        "Global.log_level": "error",
        "EngineConfig.onnxruntime.intra_op_num_threads": threads,
        "EngineConfig.onnxruntime.inter_op_num_threads": threads,
    }
    reader = RapidOCR(params=params)

    def read(path: Path) -> Lines:
        result = reader(path)
        return [] if result.boxes is None else list(zip(result.txts, result.boxes.tolist(), strict=True))

    return read


def _agreement(theirs: Sequence[Lines], ours: Sequence[Lines]) -> Agreement:
    total = Agreement()
    for a, b in zip(theirs, ours, strict=True):
        total += compare([(t, np.float32(box)) for t, box in a], [(t, np.float32(box)) for t, box in b])
    return total


if __name__ == "__main__":
    main()
