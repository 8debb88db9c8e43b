"""Channels that nobody reads, cut: a convolution writes them, and every weight of their only reader is zero."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inference.models.graph import Array, Graph, Node

#: operations that keep channels apart, and may lie between the convolution that writes and the one that reads
CHANNELWISE = frozenset(
    {"Identity", "Relu", "Erf", "Mul", "Add", "Sub", "Div", "Sigmoid", "HardSigmoid", "Clip", "Tanh", "Gelu"}
)
#: channels stay a multiple of it: runtimes lay them out in blocks, and fall back to slower ways for what does not fit
BLOCK = 16


def pruned(graph: Graph) -> tuple[Graph, int]:
    """The graph without its dead channels, and how many were cut. The same graph when there are none."""
    users = _users(graph)
    constants, cut = dict(graph.constants), 0
    for reader in graph.nodes:
        stretch = _stretch(graph, users, reader, constants)
        if stretch is None:
            continue
        kept = _kept(constants[reader.inputs[1]])
        dropped = constants[reader.inputs[1]].shape[1] - len(kept)
        if not dropped:
            continue
        cut += dropped
        constants[reader.inputs[1]] = constants[reader.inputs[1]][:, kept]
        for name in stretch.writer.inputs[1:]:
            constants[name] = constants[name][kept]
        for name, axis in stretch.per_channel.items():
            constants[name] = constants[name].take(kept, axis)
    return (replace(graph, constants=constants), cut) if cut else (graph, 0)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """From the convolution that writes some channels to the only one that reads them."""

    writer: Node
    per_channel: Mapping[str, int]  # constants with a value for each channel -> the axis of channels


def _stretch(
    graph: Graph, users: Mapping[str, Sequence[Node]], reader: Node, constants: Mapping[str, Array]
) -> _Stretch | None:
    """None when the reader is no plain convolution, or somebody else looks at its channels."""
    if not _plain(reader, constants, users):
        return None
    producer = {output: node for node in graph.nodes for output in node.outputs}
    outputs = {port.name for port in graph.outputs}
    channels = constants[reader.inputs[1]].shape[1]
    writer: Node | None = None
    between: set[str] = set()
    per_channel: dict[str, int] = {}
    waiting = [reader.inputs[0]]
    while waiting:
        name = waiting.pop()
        node = producer.get(name)
        if name in between:
            continue
        if node is None or name in outputs:
            return None
        between.add(name)
        if node.op in CHANNELWISE:
            for other in (each for each in node.inputs if each):
                if other not in constants:
                    waiting.append(other)
                elif constants[other].size > 1:
                    axis = _channel_axis(constants[other], channels)
                    if axis is None or len(users[other]) > 1:
                        return None
                    per_channel[other] = axis
        elif not _plain(node, constants, users) or writer not in (None, node):
            return None
        else:
            writer = node
    inside = [user for name in between for user in users[name]]
    closed = all(user is reader or not between.isdisjoint(user.outputs) for user in inside)
    if writer is None or not closed or constants[writer.inputs[1]].shape[0] != channels:
        return None
    return _Stretch(writer, per_channel)


def _plain(node: Node, constants: Mapping[str, Array], users: Mapping[str, Sequence[Node]]) -> bool:
    """A convolution of all channels by weights of its own."""
    return (
        node.op == "Conv"
        and node.attributes.get("group", 1) == 1
        and all(name in constants and len(users[name]) == 1 for name in node.inputs[1:] if name)
        and all(node.inputs[1:])
    )


def _kept(weights: Array) -> NDArray[np.int64]:
    """The channels that stay, in order: those that are read, and dead ones up to a whole block."""
    read = (weights != 0).any(axis=(0, *range(2, weights.ndim)))
    wanted = min(len(read), max(BLOCK, -(-int(read.sum()) // BLOCK) * BLOCK))
    by_use = np.argsort(~read, kind="stable")
    return np.sort(by_use[:wanted])


def _channel_axis(value: Array, channels: int) -> int | None:
    """Of 1 x C x 1 x 1 or C x 1 x 1; None for another shape."""
    axis = value.ndim - 3
    return axis if axis >= 0 and value.shape[axis] == channels == value.size else None


def _users(graph: Graph) -> Mapping[str, list[Node]]:
    users: dict[str, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        for name in node.inputs:
            users[name].append(node)
    return users
