"""An ONNX file as plain values: what the torch backend runs, and what export and precision rewrite."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.models import wire
from inference.models.weights import WeightsError

Array = NDArray[Any]
Attribute = float | int | str | Array | tuple[float, ...] | tuple[int, ...] | tuple[str, ...]
Dimension = int | str
"""A length, or the name of one that is free."""

#: onnx.proto TensorProto.DataType
KINDS = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}
NUMBERS = {name: number for number, name in KINDS.items()}
IR_VERSION = 8  # the oldest that opset 17 allows; runtimes read newer and older ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operation. An absent optional input is the empty name."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An input or output of the whole network; `kind` is a numpy type's name."""

    name: str
    kind: str
    shape: tuple[Dimension, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A network: nodes in an order in which they can run, and constants by name."""

    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opset: int
    metadata: Mapping[str, str] = field(default_factory=dict)


def parsed(model: bytes) -> Graph:
    """Field numbers are those of onnx.proto. Constant nodes become constants.

    Raises WeightsError for what is no ONNX model, or one with subgraphs, foreign operations or weights in other files.
    """
    try:
        return _model(model)
    except (wire.NotProtobuf, struct.error, UnicodeDecodeError, KeyError, IndexError, ValueError) as error:
        raise WeightsError(f"not an ONNX model that can be read: {error}") from None


def _model(model: bytes) -> Graph:
    whole = _Message(model, (0, len(model)))
    graph = whole.one(7)
    opsets = {each.text(1): each.integer(2) for each in whole.all(8)}
    constants = dict(_tensor(each) for each in graph.all(5))
    nodes = []
    for each in graph.all(1):
        if each.text(7) not in ("", "ai.onnx"):
            raise ValueError(f"operation {each.text(7)}.{each.text(4)}")
        node = _node(each)
        if node.op == "Constant" and isinstance(value := node.attributes.get("value"), np.ndarray):
            constants[node.outputs[0]] = value
        else:
            nodes.append(node)
    return Graph(
        nodes=tuple(nodes),
        constants=constants,
        inputs=tuple(port for each in graph.all(11) if (port := _port(each)).name not in constants),
        outputs=tuple(_port(each) for each in graph.all(12)),
        opset=opsets[""] if "" in opsets else opsets["ai.onnx"],
        metadata={each.text(1): each.text(2) for each in whole.all(14)},
    )


def _node(message: "_Message") -> Node:
    attributes = {each.text(1): _attribute(each) for each in message.all(5)}
    return Node(op=message.text(4), inputs=message.texts(1), outputs=message.texts(2), attributes=attributes)


def _attribute(message: "_Message") -> Attribute:
    match message.integer(20):
        case 1:
            return float(struct.unpack("<f", message.content(2))[0])
        case 2:
            return message.integer(3)
        case 3:
            return message.text(4)
        case 4:
            return _tensor(message.one(5))[1]
        case 6:
            return message.floats(7)
        case 7:
            return message.integers(8)
        case 8:
            return message.texts(9)
        case kind:
            raise ValueError(f"attribute {message.text(1)} of type {kind}")


def _tensor(message: "_Message") -> tuple[str, Array]:
    if message.integer(14):
        raise ValueError("its weights lie in another file")
    kind = KINDS[message.integer(2)]
    raw = message.content(9)
    if raw:
        values = np.frombuffer(raw, np.dtype(kind).newbyteorder("<")).astype(kind)
    elif kind == "float32":
        values = np.array(message.floats(4), kind)
    elif kind == "int64":
        values = np.array(message.integers(7), kind)
    elif kind == "float16":
        values = np.array(message.integers(5), np.uint16).view(kind)
    else:
        values = np.array(message.integers(5), kind)
    return message.text(8), values.reshape(message.integers(1))


def _port(message: "_Message") -> Port:
    tensor = message.one(2).one(1)
    shape = tuple(each.text(2) or each.integer(1) for each in tensor.one(2).all(1))
    return Port(name=message.text(1), kind=KINDS[tensor.integer(1)], shape=shape)


class _Message:
    """The members of one protobuf message, by field number. What is absent is empty or zero."""

    def __init__(self, model: bytes, span: wire.Span) -> None:
        self._model = model
        self._spans: dict[int, list[wire.Span]] = {}
        for number, start, end in wire.members(model, span):
            self._spans.setdefault(number, []).append((start, end))

    def all(self, field: int) -> Iterator["_Message"]:
        return (_Message(self._model, span) for span in self._spans.get(field, ()))

    def one(self, field: int) -> "_Message":
        return _Message(self._model, self._spans.get(field, [(0, 0)])[-1])

    def content(self, field: int) -> bytes:
        start, end = self._spans.get(field, [(0, 0)])[-1]
        return self._model[start:end]

    def text(self, field: int) -> str:
        return self.content(field).decode()

    def texts(self, field: int) -> tuple[str, ...]:
        return tuple(self._model[start:end].decode() for start, end in self._spans.get(field, ()))

    def integer(self, field: int) -> int:
        found = self.integers(field)
        return found[-1] if found else 0

    def integers(self, field: int) -> tuple[int, ...]:
        """Packed or one by one: both are lists of varints."""
        values = []
        for start, end in self._spans.get(field, ()):
            position = start
            while position < end:
                value, position = wire.varint(self._model, position)
                values.append(wire.signed(value))
        return tuple(values)

    def floats(self, field: int) -> tuple[float, ...]:
        raw = b"".join(self._model[start:end] for start, end in self._spans.get(field, ()))
        return struct.unpack(f"<{len(raw) // 4}f", raw)


def serialised(graph: Graph) -> bytes:
    """The graph as an ONNX file."""
    body = b"".join(wire.content(1, _node_bytes(node)) for node in graph.nodes)
    body += wire.content(2, b"halve")
    body += b"".join(wire.content(5, _tensor_bytes(name, value)) for name, value in graph.constants.items())
    body += b"".join(wire.content(11, _port_bytes(port)) for port in graph.inputs)
    body += b"".join(wire.content(12, _port_bytes(port)) for port in graph.outputs)
    model = wire.number(1, IR_VERSION) + wire.content(2, b"halve") + wire.content(7, body)
    model += wire.content(8, wire.content(1, b"") + wire.number(2, graph.opset))
    for key, value in graph.metadata.items():
        model += wire.content(14, wire.content(1, key.encode()) + wire.content(2, value.encode()))
    return model


def _node_bytes(node: Node) -> bytes:
    out = b"".join(wire.content(1, name.encode()) for name in node.inputs)
    out += b"".join(wire.content(2, name.encode()) for name in node.outputs)
    out += wire.content(3, node.outputs[0].encode()) + wire.content(4, node.op.encode())
    return out + b"".join(wire.content(5, _attribute_bytes(name, value)) for name, value in node.attributes.items())


def _attribute_bytes(name: str, value: Attribute) -> bytes:
    match value:
        case int():
            kind, out = 2, wire.number(3, value)
        case float():
            kind, out = 1, b"\x15" + struct.pack("<f", value)  # field 2, four bytes
        case str():
            kind, out = 3, wire.content(4, value.encode())
        case np.ndarray():
            kind, out = 4, wire.content(5, _tensor_bytes("", value))
        case _ if any(isinstance(each, str) for each in value):
            kind, out = 8, b"".join(wire.content(9, str(each).encode()) for each in value)
        case _ if any(isinstance(each, float) for each in value):
            kind, out = 6, wire.content(7, struct.pack(f"<{len(value)}f", *(float(each) for each in value)))
        case _:
            kind, out = 7, wire.content(8, wire.packed(tuple(int(each) for each in value)))
    return wire.content(1, name.encode()) + out + wire.number(20, kind)


def _tensor_bytes(name: str, value: Array) -> bytes:
    raw = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()
    out = wire.content(1, wire.packed(value.shape)) + wire.number(2, NUMBERS[value.dtype.name])
    return out + wire.content(8, name.encode()) + wire.content(9, raw)


def _port_bytes(port: Port) -> bytes:
    lengths = (wire.content(2, d.encode()) if isinstance(d, str) else wire.number(1, d) for d in port.shape)
    shape = b"".join(wire.content(1, length) for length in lengths)
    tensor = wire.number(1, NUMBERS[port.kind]) + wire.content(2, shape)
    return wire.content(1, port.name.encode()) + wire.content(2, wire.content(1, tensor))
