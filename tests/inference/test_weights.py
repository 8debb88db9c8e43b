"""Model files: the right ones or a clear word, and subnormals written as zero without touching anything else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference import models
from inference.backends.ort import OrtRuntime
from inference.models import ppocr, weights

SMALLEST_NORMAL = np.finfo(np.float32).tiny


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def member(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def model_holding(values: np.ndarray, *, raw: bool = True, constant: bool = False, kind: int = 1) -> bytes:
    """A minimal ONNX file (field numbers of onnx.proto) with one tensor, as initializer or in a Constant node."""
    tensor = varint(2 << 3) + varint(kind) + member(9 if raw else 4, values.tobytes()) + member(8, b"w")
    graph = member(1, member(5, member(5, tensor))) if constant else member(5, tensor)
    return varint(1 << 3) + varint(8) + member(7, graph)


@given(
    bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50),
    raw=st.booleans(),
    constant=st.booleans(),
)
def test_only_subnormal_weights_change_and_only_to_zero(bits: list[int], raw: bool, constant: bool) -> None:
    values = np.array(bits, "<u4").view("<f4")
    subnormal = (values != 0) & (np.abs(values) < SMALLEST_NORMAL)
    expected = np.where(subnormal, np.float32(0), values).astype("<f4")
    expected[values == 0] = 0  # a negative zero may lose its sign
    flushed = weights.flushed(model_holding(values, raw=raw, constant=constant))
    assert flushed == model_holding(expected, raw=raw, constant=constant)


def test_other_types_are_left_alone() -> None:
    content = model_holding(np.array([1, 2, 3], "<i8"), kind=7)
    assert weights.flushed(content) == content


@pytest.mark.parametrize("content", [b"\x3a\xff", b"\x3a\x05ab", b"\x3b", b"\xff" * 20])
def test_what_is_no_model_is_said_to_be_none(content: bytes) -> None:
    with pytest.raises(weights.WeightsError, match="not an ONNX model"):
        weights.flushed(content)


def test_a_file_that_is_missing_or_changed_is_named() -> None:
    with pytest.raises(weights.WeightsError, match=r"det_small\.onnx: not the expected weights"):
        weights.read(ppocr.PACKAGE, ppocr.DETECTOR[0], "0" * 64)
    with pytest.raises(weights.WeightsError, match=r"absent\.onnx: .*reinstall rapidocr"):
        weights.read(ppocr.PACKAGE, "absent.onnx", "0" * 64)
    with pytest.raises(weights.WeightsError, match="pip install"):
        weights.read("no_such_package", "absent.onnx", "0" * 64)


def test_the_flushed_detector_answers_as_the_original() -> None:
    original = weights.read(ppocr.PACKAGE, *ppocr.DETECTOR)
    flushed = weights.flushed(original)
    assert len(flushed) == len(original)
    assert flushed != original
    page = np.random.default_rng(7).uniform(-1, 1, (1, 3, 320, 224)).astype(np.float32)
    runtime = OrtRuntime(accelerator="cpu")
    before, after = (runtime.open(content, page).run(page) for content in (original, flushed))
    assert np.array_equal(before, after)


def test_an_unknown_model_names_those_that_exist() -> None:
    with pytest.raises(models.UnknownModel, match="ppocr"):
        models.load("no-such-model")
