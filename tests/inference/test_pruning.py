"""A channel is cut when nobody reads it, and only then; what is left answers as before."""

from dataclasses import replace

import numpy as np
import pytest

from inference.backends.ort import OrtRuntime
from inference.models import graph, ppocr, weights
from inference.models.graph import Graph, Node, Port
from inference.models.pruning import BLOCK, pruned

CHANNELS, READ = 4 * BLOCK, 20  # two blocks are read from


def conv(inputs: str, output: str, **attributes: int) -> Node:
    return Node(op="Conv", inputs=tuple(inputs.split()), outputs=(output,), attributes=attributes)


def node(op: str, inputs: str, output: str) -> Node:
    return Node(op=op, inputs=tuple(inputs.split()), outputs=(output,))


def network() -> Graph:
    """A convolution to CHANNELS, shifted, bent and multiplied by itself, of which the next convolution reads READ."""
    rng = np.random.default_rng(3)
    reads = rng.normal(size=(8, CHANNELS, 1, 1)).astype(np.float32)
    reads[:, rng.permutation(CHANNELS)[READ:]] = 0
    nodes = (
        conv("x w1 b1", "hidden"),
        node("Add", "hidden shift", "shifted"),
        node("Relu", "shifted", "bent"),
        node("Mul", "bent shifted", "product"),
        node("Mul", "product two", "doubled"),
        conv("doubled w2", "y"),
    )
    constants = {
        "w1": rng.normal(size=(CHANNELS, 3, 1, 1)).astype(np.float32),
        "b1": rng.normal(size=CHANNELS).astype(np.float32),
        "shift": rng.normal(size=(1, CHANNELS, 1, 1)).astype(np.float32),
        "two": np.array(2, np.float32),
        "w2": reads,
    }
    port = Port(name="x", kind="float32", shape=("N", 3, "H", "W"))
    return Graph(nodes=nodes, constants=constants, inputs=(port,), outputs=(replace(port, name="y"),), opset=13)


def difference(before: Graph, after: Graph) -> float:
    sample = np.random.default_rng(4).normal(size=(2, 3, 5, 7)).astype(np.float32)
    runtime = OrtRuntime(accelerator="cpu")
    a, b = (runtime.open(graph.serialised(each), sample).run(sample) for each in (before, after))
    return float(np.abs(a - b).max())


def test_channels_that_nobody_reads_are_cut_up_to_a_block() -> None:
    whole = network()
    rest, cut = pruned(whole)
    assert cut == CHANNELS - 2 * BLOCK
    shapes = {name: value.shape for name, value in rest.constants.items()}
    left = 2 * BLOCK
    assert shapes == {"w1": (left, 3, 1, 1), "b1": (left,), "shift": (1, left, 1, 1), "two": (), "w2": (8, left, 1, 1)}
    assert difference(whole, rest) < 1e-4
    assert pruned(rest)[1] == 0


def read_twice(whole: Graph) -> Graph:
    """Somebody else looks at a value on the way."""
    return replace(whole, nodes=(*whole.nodes, node("Exp", "bent", "z")))


def an_output_on_the_way(whole: Graph) -> Graph:
    return replace(whole, outputs=(*whole.outputs, replace(whole.outputs[0], name="bent")))


def mixed_on_the_way(whole: Graph) -> Graph:
    """A sum over channels reads all of them."""
    mixed = Node(op="Softmax", inputs=("shifted",), outputs=("bent",), attributes={"axis": 1})
    return replace(whole, nodes=tuple(mixed if each.outputs == ("bent",) else each for each in whole.nodes))


def shared_weights(whole: Graph) -> Graph:
    return replace(whole, nodes=(*whole.nodes, conv("x w1 b1", "other")))


def grouped(whole: Graph) -> Graph:
    """Each filter has its own channels: a column of zeros is one filter's."""
    narrow = {"w2": np.ascontiguousarray(whole.constants["w2"][:, : CHANNELS // 2])}
    last = conv("doubled w2", "y", group=2)
    return replace(whole, nodes=(*whole.nodes[:-1], last), constants={**whole.constants, **narrow})


def by_place(whole: Graph) -> Graph:
    """The shift has a value for each column of the image instead."""
    return replace(whole, constants={**whole.constants, "shift": np.ones((1, 1, 1, CHANNELS), np.float32)})


def all_read(whole: Graph) -> Graph:
    return replace(whole, constants={**whole.constants, "w2": np.ones((8, CHANNELS, 1, 1), np.float32)})


@pytest.mark.parametrize(
    "bent",
    [read_twice, an_output_on_the_way, mixed_on_the_way, shared_weights, grouped, by_place, all_read],
    ids=lambda each: each.__name__,
)
def test_what_somebody_may_read_stays(bent: object) -> None:
    assert callable(bent)
    whole = bent(network())
    rest, cut = pruned(whole)
    assert cut == 0
    assert rest is whole


@pytest.mark.parametrize("file", [ppocr.DETECTOR, ppocr.ORIENTER, ppocr.RECOGNISER], ids=lambda file: file[0])
def test_the_shipped_files_answer_as_they_are(file: tuple[str, str]) -> None:
    original, prepared = weights.read(ppocr.PACKAGE, *file), ppocr.prepared(file)
    assert (len(prepared) < 0.8 * len(original)) == (file == ppocr.DETECTOR)
    sample = (
        np.random.default_rng(3).uniform(-1, 1, (1, 3, 48 if file != ppocr.DETECTOR else 320, 192)).astype(np.float32)
    )
    runtime = OrtRuntime(accelerator="cpu")
    a, b = (runtime.open(each, sample) for each in (original, prepared))
    expected, got = a.run(sample), b.run(sample)
    if file == ppocr.RECOGNISER:  # its softmax is cut; the runtime's own, over 18,710 classes, adds up to 1 +- 3e-5
        assert not np.allclose(got.sum(axis=-1), 1)
        exponents = np.exp(got - got.max(axis=-1, keepdims=True), dtype=np.float64)
        got = exponents / exponents.sum(axis=-1, keepdims=True)
        expected = expected / expected.sum(axis=-1, keepdims=True, dtype=np.float64)
    assert np.abs(expected - got).max() < 5e-6
    assert dict(a.metadata) == dict(b.metadata)
