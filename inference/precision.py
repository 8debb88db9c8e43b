"""ONNX models in half precision, and how far their answers then are from the full ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from inference.backends import Floats, Session
from inference.models.graph import Array, Graph, Node

LARGEST = float(np.finfo(np.float16).max)
#: kept in float32 by default: sums over many terms, powers, and what runtimes only have in float32
BLOCKED = frozenset({"Softmax", "ReduceMean", "Pow", "Sqrt", "Resize", "BatchNormalization"})
#: inputs that stay as they are wherever they occur: scales and regions of a resizing
NO_WEIGHTS = {"Resize": (1, 2, 3)}
#: of whole numbers (shapes), or what they were given
WHOLE = frozenset({"Shape", "ArgMax", "Size"})
FOLLOWING = frozenset({"Slice", "Squeeze", "Unsqueeze", "Concat", "Identity", "Gather", "Reshape", "Transpose"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """By how much answers differ from the reference: largest and mean absolute difference, and the share of values
    that fall on the other side of `threshold` (None without one)."""

    largest: float
    mean: float
    crossed: float | None


def loss(reference: Session, candidate: Session, samples: Sequence[Floats], threshold: float | None = None) -> Loss:
    """Run both on the same samples."""
    largest, total, crossed, count = 0.0, 0.0, 0, 0
    for sample in samples:
        expected, got = reference.run(sample), candidate.run(sample)
        difference = np.abs(expected.astype(np.float64) - got)
        largest = max(largest, float(difference.max(initial=0.0)))
        total += float(difference.sum())
        count += expected.size
        if threshold is not None:
            crossed += int(((expected > threshold) != (got > threshold)).sum())
    count = max(count, 1)
    return Loss(largest=largest, mean=total / count, crossed=None if threshold is None else crossed / count)


def halved(graph: Graph, *, blocked: frozenset[str] = BLOCKED) -> Graph:
    """The network in float16, with float32 in and out. `blocked` operations compute in float32.

    Weights beyond float16's range become its largest.
    """
    return _Halving(graph, blocked).graph()


class _Halving:
    """Goes through the nodes once. A value is float16, float32 or no float at all; casts are put where they differ."""

    def __init__(self, graph: Graph, blocked: frozenset[str]) -> None:
        self._graph = graph
        self._blocked = blocked
        self._kinds = {name: _kind(value) for name, value in graph.constants.items()}
        self._kinds |= {port.name: "full" if port.kind == "float32" else "none" for port in graph.inputs}
        self._constants: dict[str, Array] = {}
        self._nodes: list[Node] = []
        self._casts: dict[tuple[str, str], str] = {}

    def graph(self) -> Graph:
        outputs = {port.name for port in self._graph.outputs}
        renamed = {name: f"{name}.half" for name in outputs}
        for node in self._graph.nodes:
            self._follow(
                replace(
                    node,
                    inputs=tuple(renamed.get(name, name) for name in node.inputs),
                    outputs=tuple(renamed.get(name, name) for name in node.outputs),
                )
            )
        for name, inner in renamed.items():
            source = self._as(inner, "full") if self._kinds[inner] == "half" else inner
            self._nodes.append(Node(op="Identity", inputs=(source,), outputs=(name,)))
        return replace(self._graph, nodes=tuple(self._nodes), constants=self._constants)

    def _follow(self, node: Node) -> None:
        floats = [name for name in node.inputs if name and self._kinds[name] != "none"]
        if node.op == "Cast" or not floats or (node.op in FOLLOWING and self._kinds[node.inputs[0]] == "none"):
            inputs = tuple(self._as(name, "full") if self._kinds.get(name) == "half" else name for name in node.inputs)
            self._put(replace(node, inputs=tuple(self._kept(name) for name in inputs)))
            whole = node.op in WHOLE or node.op != "Cast" or node.attributes["to"] != 1
            self._kinds |= dict.fromkeys(node.outputs, "none" if whole else "full")
            return
        kind = "full" if node.op in self._blocked else "half"
        fixed = NO_WEIGHTS.get(node.op, ())
        inputs = tuple(
            self._kept(name) if i in fixed or not name or self._kinds[name] == "none" else self._as(name, kind)
            for i, name in enumerate(node.inputs)
        )
        self._put(replace(node, inputs=inputs))
        self._kinds |= dict.fromkeys(node.outputs, "none" if node.op in WHOLE else kind)

    def _put(self, node: Node) -> None:
        self._nodes.append(node)

    def _kept(self, name: str) -> str:
        if name in self._graph.constants:
            self._constants[name] = self._graph.constants[name]
        return name

    def _as(self, name: str, kind: str) -> str:
        """The name of this value in that precision."""
        if name in self._graph.constants:
            if kind == "full":
                return self._kept(name)
            value = self._graph.constants[name]
            self._constants[f"{name}.half"] = np.clip(value, -LARGEST, LARGEST).astype(np.float16)
            return f"{name}.half"
        if self._kinds[name] == kind:
            return name
        if (name, kind) not in self._casts:
            cast = f"{name}.{kind}"
            self._put(Node(op="Cast", inputs=(name,), outputs=(cast,), attributes={"to": 10 if kind == "half" else 1}))
            self._casts[name, kind] = cast
        return self._casts[name, kind]


def _kind(value: Array) -> str:
    return "full" if value.dtype == np.float32 else "none"
