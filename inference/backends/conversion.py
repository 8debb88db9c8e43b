"""A torch network as an ONNX graph with free N, H and W.

torch.onnx.export would need the packages onnx and onnxscript beside torch; the few layers that detection networks have
are written down here instead. What this gives is compared with torch by whoever exports.
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

from inference.models.graph import Array, Attribute, Graph, Node, Port
from inference.models.weights import WeightsError

OPSET = 13  # the oldest in which every attribute used here means what it means today


def converted(network: Any, *, channels: int = 3) -> Graph:
    """The network in eval mode, batch normalisation folded into the convolutions before it.

    Input `images` is N x channels x H x W, output `pred` N x 1 x H x W, float32.
    Raises WeightsError when it has a layer that is not known here.
    """
    return _Writer(fuse(network.eval()), channels).graph()


class _Writer:
    """Follows a traced network node by node."""

    def __init__(self, traced: Any, channels: int) -> None:
        self._traced = traced
        self._layers = dict(traced.named_modules())
        self._channels = channels
        self._nodes: list[Node] = []
        self._constants: dict[str, Array] = {}
        self._names: dict[Any, str] = {}

    def graph(self) -> Graph:
        output = ""
        for each in self._traced.graph.nodes:
            if each.op == "placeholder":
                self._names[each] = "images"
            elif each.op == "output":
                output = self._names[each.args[0]]
            else:
                self._names[each] = self._written(each)
        self._nodes.append(Node(op="Identity", inputs=(output,), outputs=("pred",)))
        return Graph(
            nodes=tuple(self._nodes),
            constants=self._constants,
            inputs=(Port(name="images", kind="float32", shape=("N", self._channels, "H", "W")),),
            outputs=(Port(name="pred", kind="float32", shape=("N", 1, "H", "W")),),
            opset=OPSET,
        )

    def _written(self, each: Any) -> str:
        if each.op == "call_module":
            layer = self._layers[each.target]
            write = LAYERS.get(type(layer))
            if write is None:
                raise WeightsError(
                    f"cannot export {each.target}: a {type(layer).__name__} is not known to the exporter"
                )
            op, weights, attributes = write(layer)
            inputs = [self._names[each.args[0]]]
            inputs += [self._constant(f"{each.target}.{name}", value) for name, value in weights.items()]
            return self._node(op, inputs, each.name, attributes)
        if each.target in (operator.add, torch.add):
            return self._node("Add", [self._names[part] for part in each.args], each.name, {})
        if each.target is torch.cat:
            parts, axis = each.args
            return self._node("Concat", [self._names[part] for part in parts], each.name, {"axis": axis})
        if each.target is nn.functional.interpolate:
            return self._larger(each)
        raise WeightsError(f"cannot export {each.name}: {each.target} is not known to the exporter")

    def _larger(self, each: Any) -> str:
        if each.kwargs.get("mode") != "nearest" or not each.kwargs.get("scale_factor"):
            raise WeightsError(f"cannot export {each.name}: only nearest resizing by a factor is known to the exporter")
        factor = float(each.kwargs["scale_factor"])
        scales = self._constant(f"{each.name}.scales", np.array([1, 1, factor, factor], np.float32))
        attributes: dict[str, Attribute] = {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
        return self._node("Resize", [self._names[each.args[0]], "", scales], each.name, attributes)

    def _node(self, op: str, inputs: list[str], output: str, attributes: dict[str, Attribute]) -> str:
        self._nodes.append(Node(op=op, inputs=tuple(inputs), outputs=(output,), attributes=attributes))
        return output

    def _constant(self, name: str, value: Any) -> str:
        self._constants[name] = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
        return name


Written = tuple[str, dict[str, Any], dict[str, Attribute]]
"""Operation, weights by name, attributes."""


def _convolution(layer: Any) -> Written:
    weights = {"weight": layer.weight} | ({} if layer.bias is None else {"bias": layer.bias})
    attributes: dict[str, Attribute] = {
        "kernel_shape": tuple(layer.kernel_size),
        "strides": tuple(layer.stride),
        "pads": tuple(layer.padding) * 2,
        "dilations": tuple(layer.dilation),
        "group": layer.groups,
    }
    return ("ConvTranspose" if isinstance(layer, nn.ConvTranspose2d) else "Conv"), weights, attributes


def _normalisation(layer: Any) -> Written:
    weights = {
        "weight": layer.weight,
        "bias": layer.bias,
        "running_mean": layer.running_mean,
        "running_var": layer.running_var,
    }
    return "BatchNormalization", weights, {"epsilon": float(layer.eps)}


def _largest(layer: Any) -> Written:
    size, stride, padding = (_pair(value) for value in (layer.kernel_size, layer.stride, layer.padding))
    return "MaxPool", {}, {"kernel_shape": size, "strides": stride, "pads": padding * 2}


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


LAYERS: dict[Any, Callable[[Any], Written]] = {
    nn.Conv2d: _convolution,
    nn.ConvTranspose2d: _convolution,
    nn.BatchNorm2d: _normalisation,
    nn.MaxPool2d: _largest,
    nn.ReLU: lambda layer: ("Relu", {}, {}),
    nn.Sigmoid: lambda layer: ("Sigmoid", {}, {}),
}
