"""ONNX files as values: nothing is lost on the way, and what is no model is said to be none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.backends.ort import OrtRuntime
from inference.models import graph, ppocr, weights
from inference.models.graph import Graph, Node, Port
from inference.models.weights import WeightsError

FILES = [ppocr.DETECTOR, ppocr.RECOGNISER, ppocr.ORIENTER]
ATTRIBUTES = {
    "whole": -3,
    "broken": 0.5,
    "text": "SAME_UPPER",
    "many": (1, -2, 3),
    "parts": (0.5, 2.0),
    "words": ("a", "字"),
    "none": (),
    "table": np.arange(6, dtype=np.int64).reshape(2, 3),
}


def same(a: Graph, b: Graph) -> bool:
    return (
        repr(a.nodes) == repr(b.nodes)
        and (a.inputs, a.outputs, a.opset, a.metadata) == (b.inputs, b.outputs, b.opset, b.metadata)
        and a.constants.keys() == b.constants.keys()
        and all(np.array_equal(a.constants[name], b.constants[name]) for name in a.constants)
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file[0])
def test_a_file_written_again_is_the_same_network(file: tuple[str, str]) -> None:
    read = graph.parsed(weights.read(ppocr.PACKAGE, *file))
    written = graph.serialised(read)
    assert same(graph.parsed(written), read)
    sample = np.random.default_rng(1).uniform(-1, 1, (2, 3, 48, 192)).astype(np.float32)
    runtime = OrtRuntime(accelerator="cpu")
    if file == ppocr.DETECTOR:
        sample = sample[:, :, :32]
    first, second = (runtime.open(each, sample).run(sample) for each in (weights.read(ppocr.PACKAGE, *file), written))
    assert np.abs(first - second).max() < 1e-5


def test_every_kind_of_attribute_and_number_survives() -> None:
    kinds = ("float32", "float16", "float64", "int64", "int32", "uint8", "bool")
    whole = Graph(
        nodes=(Node(op="Odd", inputs=("x", "", "w"), outputs=("y",), attributes=ATTRIBUTES),),
        constants={kind: np.array([[0, 1], [1, 0]], kind) for kind in kinds} | {"scalar": np.array(2.5, np.float32)},
        inputs=(Port(name="x", kind="float32", shape=("N", 3, "H")),),
        outputs=(Port(name="y", kind="int64", shape=()),),
        opset=17,
        metadata={"character": "甲\n乙"},
    )
    assert same(graph.parsed(graph.serialised(whole)), whole)


@given(st.integers(0, 5000), st.integers(0, 255))
def test_a_damaged_file_is_refused_or_read_and_nothing_else(cut: int, byte: int) -> None:
    content = bytearray(graph.serialised(Graph(nodes=(), constants={}, inputs=(), outputs=(), opset=13)) * 40)
    content[cut % len(content)] = byte
    try:
        graph.parsed(bytes(content[: cut or None]))
    except WeightsError as error:
        assert "not an ONNX model" in str(error)


def test_what_cannot_be_run_here_is_refused_when_it_is_read() -> None:
    with pytest.raises(WeightsError, match="not an ONNX model"):
        graph.parsed(b"no model at all")
