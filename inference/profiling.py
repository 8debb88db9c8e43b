"""Where a model's time goes, by node and by branch, and what can be cut without changing what it says.

Look before you cut: on some CPUs two thirds of the shipped detector's time were two convolutions whose weights are too
small to matter and too small to be fast.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from inference.backends import Floats, Precision, Runtime, Session
from inference.backends.ort import OrtRuntime
from inference.backends.ort_trace import NodeTime, traced
from inference.images import Pixels
from inference.models import graph, ppocr, weights
from inference.models.graph import Graph
from inference.models.heads import without_softmax
from inference.models.pruning import pruned

NETWORKS: Mapping[str, tuple[str, str]] = {
    "detector": ppocr.DETECTOR,
    "orienter": ppocr.ORIENTER,
    "recogniser": ppocr.RECOGNISER,
}
MOST_SAMPLES = 4  # inputs of one network
ROUNDS = 3
PROBABILITY_TOLERANCE = 5e-6  # scores are given to five decimals


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Part of a network, and its part of the time of all samples."""

    name: str
    nodes: int
    seconds: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A rewrite tried on samples. `difference` is the largest of any output value; `kept` when nothing changes that is
    read from the outputs. Seconds are the best of some rounds over all samples; None without anything to rewrite.
    """

    rewrite: str
    touched: int
    difference: float | None
    kept: bool
    seconds_before: float | None
    seconds_after: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One network, as it is run. `operations`, `nodes` and `branches` are each sorted by time."""

    network: str
    samples: tuple[tuple[int, ...], ...]
    seconds: float
    operations: tuple[Share, ...]
    nodes: tuple[Share, ...]
    branches: tuple[Share, ...]
    rewrites: tuple[Proof, ...]


def profile(pages: Sequence[Pixels], *, threads: int = 1, top: int = 10) -> list[Profile]:
    """Profile each network of PP-OCR, on the CPU, on the inputs that it gets when these pages are read.

    A network that the pages give nothing to do (no line found) is left out. Raises weights.WeightsError.
    """
    overheard = _Overheard(OrtRuntime(accelerator="cpu", threads=threads))
    engine = ppocr.load(overheard)
    for page in pages:
        engine.read([page])
    found = []
    for network, file in NETWORKS.items():
        original = weights.read(ppocr.PACKAGE, *file)
        shipped = ppocr.prepared(file)
        if not (samples := overheard.inputs[shipped]):
            continue
        times = traced(shipped, samples, threads=threads)
        found.append(
            Profile(
                network=network,
                samples=tuple(sample.shape for sample in samples),
                seconds=sum(each.seconds for each in times),
                operations=_shares([(each.op, each.seconds) for each in times])[:top],
                nodes=_shares([(f"{each.op} {each.name}", each.seconds) for each in times])[:top],
                branches=_shares(_by_branch(times, graph.parsed(shipped)))[:top],
                rewrites=tuple(prove(original, name, samples, threads=threads) for name in REWRITES),
            )
        )
    return found


def prove(model: bytes, rewrite: str, samples: Sequence[Floats], *, threads: int = 1) -> Proof:
    """Apply one of REWRITES and compare what comes out, on every sample. Raises KeyError for another name."""
    apply, same = REWRITES[rewrite]
    rewritten, touched = apply(model)
    if not touched:
        return Proof(rewrite=rewrite, touched=0, difference=None, kept=False, seconds_before=None, seconds_after=None)
    before, after = (
        OrtRuntime(accelerator="cpu", threads=threads).open(each, samples[0]) for each in (model, rewritten)
    )
    differences = [same(before.run(sample), after.run(sample)) for sample in samples]
    return Proof(
        rewrite=rewrite,
        touched=touched,
        difference=max(difference for difference, _ in differences),
        kept=all(equal for _, equal in differences),
        seconds_before=_best(before, samples),
        seconds_after=_best(after, samples),
    )


def _flushed(model: bytes) -> tuple[bytes, int]:
    flushed = weights.flushed(model)
    before, after = (graph.parsed(each).constants for each in (model, flushed))
    changed = sum(int(np.count_nonzero(value != after[name])) for name, value in before.items())
    return flushed, changed


def _needed(model: bytes) -> tuple[bytes, int]:
    """Without the nodes that no output needs: what only training used."""
    whole = graph.parsed(model)
    wanted = {port.name for port in whole.outputs}
    kept = []
    for node in reversed(whole.nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    if len(kept) == len(whole.nodes):
        return model, 0
    constants = {name: value for name, value in whole.constants.items() if name in wanted}
    rest = replace(whole, nodes=tuple(reversed(kept)), constants=constants)
    return graph.serialised(rest), len(whole.nodes) - len(kept)


def _pruned(model: bytes) -> tuple[bytes, int]:
    """Without the channels that nobody reads. Most of them are read by subnormal weights, so those go first."""
    rest, cut = pruned(graph.parsed(weights.flushed(model)))
    return (graph.serialised(rest), cut) if cut else (model, 0)


def _without_softmax(model: bytes) -> tuple[bytes, int]:
    rest, cut = without_softmax(graph.parsed(model))
    return (graph.serialised(rest), cut) if cut else (model, 0)


def _identical(before: Floats, after: Floats) -> tuple[float, bool]:
    difference = float(np.abs(before - after).max(initial=0))
    return difference, np.array_equal(before, after)


def _as_close(before: Floats, after: Floats) -> tuple[float, bool]:
    """Sums of the same terms, added up in another order."""
    difference = float(np.abs(before - after).max(initial=0))
    return difference, difference <= PROBABILITY_TOLERANCE


def _read_alike(probabilities: Floats, logits: Floats) -> tuple[float, bool]:
    """The likeliest class of each step, and its probability, are what the decoder reads."""
    best = probabilities.argmax(axis=-1)[..., None]
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype=np.float64)
    ours = np.take_along_axis(exponents, best, -1) / exponents.sum(axis=-1, keepdims=True)
    difference = float(np.abs(np.take_along_axis(probabilities, best, -1) - ours).max(initial=0))
    alike = np.array_equal(logits.argmax(axis=-1)[..., None], best)
    return difference, alike and difference <= PROBABILITY_TOLERANCE


Apply = Callable[[bytes], tuple[bytes, int]]
"""A model to another one, and how many weights or nodes of it were touched."""
#: name -> how, and what must stay the same: (difference, whether it is none)
REWRITES: Mapping[str, tuple[Apply, Callable[[Floats, Floats], tuple[float, bool]]]] = {
    "subnormal weights to zero": (_flushed, _identical),
    "channels that nobody reads": (_pruned, _as_close),
    "nodes that no output needs": (_needed, _identical),
    "softmax only where it is read": (_without_softmax, _read_alike),
}


def branches(network: Graph) -> dict[str, str]:
    """Output name -> its branch: a run of nodes between forks and joins, named after its first and last output."""
    producer = {output: i for i, node in enumerate(network.nodes) for output in node.outputs}
    sources = [sorted({producer[name] for name in node.inputs if name in producer}) for node in network.nodes]
    users: dict[int, int] = defaultdict(int)
    for those in sources:
        for source in those:
            users[source] += 1
    runs: list[list[int]] = []
    run_of: dict[int, list[int]] = {}
    for i, those in enumerate(sources):
        goes_on = len(those) == 1 and users[those[0]] == 1
        run = run_of[those[0]] if goes_on else []
        if not run:
            runs.append(run)
        run.append(i)
        run_of[i] = run
    names: dict[str, str] = {}
    for run in runs:
        first, last = network.nodes[run[0]].outputs[0], network.nodes[run[-1]].outputs[0]
        for i in run:
            names |= dict.fromkeys(network.nodes[i].outputs, first if first == last else f"{first} … {last}")
    return names


def _by_branch(times: Sequence[NodeTime], network: Graph) -> list[tuple[str, float]]:
    """What the runtime put in itself (other layouts, fused nodes without a name) counts to the branch it runs in."""
    known = branches(network)
    current = next(iter(known.values()), "")
    found = []
    for each in times:
        current = known.get(each.name.removesuffix("_nchwc"), current)
        found.append((current, each.seconds))
    return found


def _shares(parts: Sequence[tuple[str, float]]) -> tuple[Share, ...]:
    sums: dict[str, list[float]] = defaultdict(list)
    for name, seconds in parts:
        sums[name].append(seconds)
    total = sum(seconds for _, seconds in parts) or 1.0
    shares = [
        Share(name=name, nodes=len(each), seconds=sum(each), share=sum(each) / total) for name, each in sums.items()
    ]
    return tuple(sorted(shares, key=lambda share: -share.seconds))


def _best(session: Session, samples: Sequence[Floats]) -> float:
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for sample in samples:
            session.run(sample)
        taken.append(time.perf_counter() - started)
    return min(taken)


class _Overheard:
    """A runtime that remembers what its networks are given."""

    def __init__(self, runtime: Runtime) -> None:
        self.provider = runtime.provider
        self.fallback = runtime.fallback
        self.precision: Precision = runtime.precision
        self.inputs: dict[bytes, list[Floats]] = {}
        self._runtime = runtime

    @property
    def on_accelerator(self) -> bool:
        return self._runtime.on_accelerator

    def open(self, model: bytes, sample: Floats) -> Session:
        session = self._runtime.open(model, sample)
        self.inputs[model] = []
        return _OverheardSession(session, self.inputs[model])


class _OverheardSession:
    def __init__(self, session: Session, inputs: list[Floats]) -> None:
        self.metadata = session.metadata
        self._session = session
        self._inputs = inputs

    def run(self, batch: Floats) -> Floats:
        if len(self._inputs) < MOST_SAMPLES:
            self._inputs.append(batch)
        return self._session.run(batch)
