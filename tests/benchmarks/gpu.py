"""images/s on a CUDA GPU: the torch backend in bfloat16, by size, replayed, against the same models image by image.

    python -m tests.benchmarks.gpu [--images DIR]

Prints the ratio, the agreement, and the share of what the GPU's matrix product reaches in the same run; the result is
kept under tests/benchmarks/results/ with date, device and versions.
"""

import argparse
import json
import sys
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inference import bench, choice, images, runner
from inference.agreement import Page, agreement
from inference.backends import Floats, Runtime, Session
from inference.batching import GPU_BUCKETS, bucket_of
from inference.engine import Engine
from inference.images import Pixels
from inference.models import ppocr
from tests.inference.conftest import REAL_IMAGES

RESULTS = Path(__file__).parent / "results"
WORKERS = 4  # that decode, cut and decode text while the GPU works
ROUNDS = 3
DETECTOR_FLOP = 23e3  # of a pixel
RECOGNISER_FLOP = 6.34e6  # of a column of 48 pixels
PEAK_SIDE = 8192


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=REAL_IMAGES)
    options = parser.parse_args(arguments)
    import torch

    if not torch.cuda.is_available():
        print("no CUDA GPU here: nothing was measured")
        return
    if not options.images.is_dir():
        print(f"{options.images}: no such folder; name one with --images")
        return
    result = measured([path.read_bytes() for path in runner.images_in(options.images)])
    print(json.dumps(result, indent=2))
    print(f"kept in {kept(result)}")


def measured(files: Sequence[bytes]) -> dict[str, Any]:
    """Images per second of both ways after a round that is not counted, their agreement, and the share of the peak."""
    from inference.backends.pytorch import TorchRuntime

    pages = [images.decode(file) for file in files]
    plain = _Counting(TorchRuntime(accelerator="cuda", graphs=False))
    one, theirs = _rate(ppocr.load(plain), pages, [[i] for i in range(len(pages))], workers=1)
    counting = _Counting(TorchRuntime(accelerator="cuda", precision="bf16"))
    many, ours = _rate(ppocr.load(counting), pages, _batches(pages), workers=WORKERS, counted=counting)
    flops = counting.flop / ROUNDS / len(pages) * many
    peak = _peak()
    lines, characters = agreement(theirs, ours)
    return {
        "device": choice.device(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": bench.versions(),
        "images": len(pages),
        "one_by_one_images_per_second": round(one, 3),
        "images_per_second": round(many, 3),
        "speed": round(many / one, 3),
        "lines_equal": lines,
        "characters_equal": characters,
        "flop_per_second": flops,
        "matrix_product_flop_per_second": peak,
        "share_of_peak": round(flops / peak, 4),
    }


def kept(result: dict[str, Any]) -> Path:
    """Write the result to a file of its own."""
    RESULTS.mkdir(exist_ok=True)
    device = "-".join(result["device"].lower().split())
    file = RESULTS / f"gpu-{device}-{result['at'][:10]}.json"
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return file


def _batches(pages: Sequence[Pixels]) -> list[list[int]]:
    """Images of one size together, as the service's policy starts with."""
    by_bucket: dict[int, list[int]] = defaultdict(list)
    for i, page in enumerate(pages):
        by_bucket[bucket_of(max(page.shape[:2]), GPU_BUCKETS)].append(i)
    return [
        members[start : start + GPU_BUCKETS[bucket].at_once]
        for bucket, members in sorted(by_bucket.items())
        for start in range(0, len(members), GPU_BUCKETS[bucket].at_once)
    ]


def _rate(
    engine: Engine,
    pages: Sequence[Pixels],
    batches: Sequence[Sequence[int]],
    *,
    workers: int,
    counted: "_Counting | None" = None,
) -> tuple[float, list[Page]]:
    found: dict[int, Page] = {}

    def read(queue: deque[Sequence[int]]) -> None:
        while queue:
            try:
                batch = queue.pop()
            except IndexError:
                return
            for i, reading in zip(batch, engine.read([pages[i] for i in batch]), strict=True):
                found[i] = [(line.text, line.box) for line in reading.lines]

    def rounds(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            queue = deque(batches)
            with ThreadPoolExecutor(workers) as threads:
                for worker in [threads.submit(read, queue) for _ in range(workers)]:
                    worker.result()
        return time.perf_counter() - started

    rounds(2)  # a shape is recorded when it comes the second time
    if counted:
        counted.flop = 0.0
    return len(pages) * ROUNDS / rounds(ROUNDS), [found[i] for i in range(len(pages))]


def _peak() -> float:
    """Operations per second of a large matrix product in bfloat16."""
    import torch

    a = torch.randn(PEAK_SIDE, PEAK_SIDE, device="cuda", dtype=torch.bfloat16)
    best = 0.0
    for _ in range(10):
        torch.cuda.synchronize()
        started = time.perf_counter()
        a @ a
        torch.cuda.synchronize()
        best = max(best, 2 * PEAK_SIDE**3 / (time.perf_counter() - started))
    return best


class _Counting:
    """A runtime that adds up the floating-point operations of what its networks are given."""

    def __init__(self, runtime: Runtime) -> None:
        self.provider = runtime.provider
        self.fallback = runtime.fallback
        self.precision = runtime.precision
        self.on_accelerator = runtime.on_accelerator
        self.flop = 0.0
        self._runtime = runtime
        self._per_pixel = {
            ppocr.prepared(ppocr.DETECTOR): DETECTOR_FLOP,
            ppocr.prepared(ppocr.RECOGNISER): RECOGNISER_FLOP / 48,
        }

    def open(self, model: bytes, sample: Floats) -> Session:
        return _CountingSession(self, self._runtime.open(model, sample), self._per_pixel.get(model, 0.0))


class _CountingSession:
    def __init__(self, counting: _Counting, session: Session, per_pixel: float) -> None:
        self.metadata = session.metadata
        self._counting = counting
        self._session = session
        self._per_pixel = per_pixel

    def run(self, batch: Floats) -> Floats:
        self._counting.flop += batch.shape[0] * batch.shape[2] * batch.shape[3] * self._per_pixel
        return self._session.run(batch)


if __name__ == "__main__":
    main(sys.argv[1:])
