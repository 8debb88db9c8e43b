"""Where one thread's processor time goes, in the engine and in rapidocr's loop, and what bounds the ratio of the two.

    python -m tests.benchmarks.one_thread [--images DIR] [--every N] [--rounds N]

Both read in this process, in turns, image by image. The bounds are the ratios that would be left if everything but the
network's arithmetic, as ONNX Runtime carries it out, took no time.
"""

import argparse
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
from rapidocr import RapidOCR

from inference import choice, images, runner
from inference.backends import Floats, Precision, Session
from inference.backends.ort import OrtRuntime
from inference.backends.ort_trace import traced
from inference.models import ppocr
from tests.inference.conftest import REAL_IMAGES

NETWORKS = ("detector", "orienter", "recogniser")
AROUND = "around them"
PRODUCTS = ("Conv", "FusedConv", "ConvTranspose", "MatMul", "FusedMatMul", "Gemm", "FusedGemm")
BOUNDS = {"convolutions and matrix products": PRODUCTS, "those and GELUs": (*PRODUCTS, "Gelu", "BiasGelu")}


@dataclass(slots=True)
class Spent:
    """Processor seconds by part, and pages of memory taken from the system, of the rounds so far."""

    parts: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    whole: float = 0.0
    faults: int = 0

    @contextmanager
    def counting(self, part: str | None = None) -> Iterator[None]:
        started, faults = time.process_time(), _faults()
        yield
        seconds = time.process_time() - started
        if part is None:
            self.whole += seconds
            self.faults += _faults() - faults
        else:
            self.parts[part] += seconds


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=REAL_IMAGES)
    parser.add_argument("--every", type=int, default=4, help="take every Nth image (default 4)")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    if not options.images.is_dir():
        print(f"{options.images}: no such folder; name one with --images")
        return
    cv2.setNumThreads(1)
    paths = runner.images_in(options.images)[:: options.every]
    ours, theirs = Spent(), Spent()
    runtime = _Watched(ours)
    readers = {"rapidocr": (theirs, _rapidocr(theirs)), "halve": (ours, _halve(runtime))}
    for _, read in readers.values():
        read(paths[0])
    ours.parts.clear()
    theirs.parts.clear()
    runtime.recording = True  # of the first round: what the networks are given
    ratios = []
    for number in range(options.rounds):
        before = theirs.whole, ours.whole
        _round(paths, list(readers.values()), number)
        runtime.recording = False
        ratios.append((theirs.whole - before[0]) / (ours.whole - before[1]))
    print(f"{len(paths)} images of {options.images.resolve().name}/, {options.rounds} rounds, {choice.device('cpu')}\n")
    _print_parts({name: spent for name, (spent, _) in readers.items()}, options.rounds)
    print(f"\nrapidocr / halve, processor time: {statistics.median(ratios):.2f}x ({_listed(ratios)})\n")
    shares = {name: _shares(name, runtime) for name in NETWORKS}
    print()
    for words, kinds in BOUNDS.items():
        left = sum(ours.parts[name] * sum(shares[name].get(op, 0.0) for op in kinds) for name in NETWORKS)
        print(f"were all but {words} free: {theirs.whole / left:.2f}x")


def _round(paths: Sequence[Path], readers: Sequence[tuple[Spent, Callable[[Path], Any]]], number: int) -> None:
    for i, path in enumerate(paths):
        for spent, read in readers if (number + i) % 2 else reversed(readers):
            with spent.counting():
                read(path)


def _print_parts(contestants: dict[str, Spent], rounds: int) -> None:
    print(f"{'processor seconds':20}" + "".join(f"{name:>18}" for name in contestants))
    for part in (*NETWORKS, AROUND):
        row = f"{part:20}"
        for spent in contestants.values():
            seconds = spent.whole - sum(spent.parts.values()) if part == AROUND else spent.parts[part]
            row += f"{seconds / rounds:10.2f} {seconds / spent.whole:6.1%} "
        print(row)
    print(f"{'all':20}" + "".join(f"{spent.whole / rounds:10.2f}        " for spent in contestants.values()))
    print(f"{'page faults':20}" + "".join(f"{spent.faults / rounds:10,.0f}        " for spent in contestants.values()))


def _shares(network: str, runtime: "_Watched") -> dict[str, float]:
    """Of the kernels' time by operation, which is also printed."""
    model, samples = runtime.given[network]
    seconds: dict[str, float] = defaultdict(float)
    for node in traced(model, samples):
        seconds[node.op] += node.seconds
    total = sum(seconds.values())
    shares = {op: took / total for op, took in sorted(seconds.items(), key=lambda each: -each[1])}
    print(f"{network:12}" + ", ".join(f"{op} {share:.1%}" for op, share in shares.items() if share > 0.01))
    return shares


def _halve(runtime: "_Watched") -> Callable[[Path], Any]:
    engine = ppocr.load(runtime)
    return lambda path: engine.read([images.decode(path.read_bytes())])


def _rapidocr(spent: Spent) -> Callable[[Path], Any]:
    one = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
    reader: Callable[[Path], Any] = RapidOCR(params={"Global.log_level": "error", **one})
    for part, load, step in zip(NETWORKS, ("det", "cls", "rec"), ("text_det", "text_cls", "text_rec"), strict=True):
        getattr(reader, f"_load_{load}_model")()
        loaded = getattr(reader, step)
        loaded.session = _Counted(loaded.session, spent, part)
    return reader


class _Counted:
    """One of rapidocr's sessions."""

    def __init__(self, session: Any, spent: Spent, part: str) -> None:
        self._session, self._spent, self._part = session, spent, part

    def __call__(self, batch: Floats) -> Any:
        with self._spent.counting(self._part):
            return self._session(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class _Watched:
    """A runtime that counts what its networks take, and remembers what they are given while `recording`."""

    fallback: str | None = None
    precision: Precision = "fp32"
    on_accelerator = False

    def __init__(self, spent: Spent) -> None:
        self.given: dict[str, tuple[bytes, list[Floats]]] = {}
        self.recording = False
        self._spent = spent
        self._runtime = OrtRuntime(accelerator="cpu", threads=1)
        self.provider = self._runtime.provider

    def open(self, model: bytes, sample: Floats) -> Session:
        network = NETWORKS[len(self.given)]  # ppocr.load opens them in this order
        self.given[network] = model, []
        return _WatchedSession(self._runtime.open(model, sample), self, network)

    def run(self, session: Session, network: str, batch: Floats) -> Floats:
        if self.recording:
            self.given[network][1].append(batch)
        with self._spent.counting(network):
            return session.run(batch)


class _WatchedSession:
    def __init__(self, session: Session, runtime: _Watched, network: str) -> None:
        self.metadata = session.metadata
        self._session, self._runtime, self._network = session, runtime, network

    def run(self, batch: Floats) -> Floats:
        return self._runtime.run(self._session, self._network, batch)


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _listed(ratios: Sequence[float]) -> str:
    return ", ".join(f"{ratio:.2f}" for ratio in ratios)


if __name__ == "__main__":
    main(sys.argv[1:])
