"""Model files: found in the package that carries them, verified by hash, subnormal weights written as zero."""

import hashlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from inference.models import wire


class WeightsError(Exception):
    """A model file is missing, or is not the one that was measured. One line that names the file and the remedy."""


def read(package: str, name: str, sha256: str) -> bytes:
    """The bytes of `models/name` inside an installed package, which is not imported (that alone takes a second).

    Raises WeightsError when the package or file is missing or the hash differs.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise WeightsError(f"{name}: the package {package} that carries it is not installed: pip install 'halve[cpu]'")
    path = Path(spec.origin).parent / "models" / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror or error}; reinstall {package}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise WeightsError(
            f"{path}: not the expected weights (sha256 {found[:8]}…, not {sha256[:8]}…); reinstall {package}"
        )
    return content


def flushed(model: bytes) -> bytes:
    """The same ONNX model with every subnormal float32 weight replaced by zero.

    A product with a subnormal runs in microcode on many CPUs, tens of times slower, while it is far below what a
    float32 sum can hold beside any ordinary term. The bytes are edited in place: lengths, and so the file's
    structure, do not change, and no ONNX library is needed. Raises WeightsError for what is no ONNX model.
    """
    buffer = bytearray(model)
    try:
        tensors = list(_float_tensors(model))
    except wire.NotProtobuf as error:
        raise WeightsError(f"not an ONNX model: {error}") from None
    for start, end in tensors:
        words = np.frombuffer(buffer, dtype="<u4", count=(end - start) // 4, offset=start)
        exponent_is_zero = (words & 0x7F800000) == 0
        words[exponent_is_zero] = 0
    return bytes(buffer)


def _float_tensors(model: bytes) -> Iterator[tuple[int, int]]:
    """Where the float32 values lie, as [start, end) in bytes. Field numbers are those of onnx.proto:
    ModelProto.graph 7; GraphProto.node 1, .initializer 5; NodeProto.attribute 5; AttributeProto.t 5."""
    for graph in _inside(model, (0, len(model)), 7):
        for tensor in _inside(model, graph, 5):
            yield from _values(model, tensor)
        for node in _inside(model, graph, 1):
            for attribute in _inside(model, node, 5):
                for tensor in _inside(model, attribute, 5):
                    yield from _values(model, tensor)


def _values(model: bytes, tensor: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """TensorProto: data_type 2 (1 = FLOAT), float_data 4 (packed), raw_data 9."""
    members = list(wire.members(model, tensor))
    if any(field == 2 and start == end - 1 and model[start] == 1 for field, start, end in members):
        yield from ((start, end) for field, start, end in members if field in (4, 9) and end - start >= 4)


def _inside(model: bytes, span: wire.Span, wanted: int) -> Iterator[wire.Span]:
    return ((start, end) for field, start, end in wire.members(model, span) if field == wanted)
