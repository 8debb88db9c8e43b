"""The ONNX operations that OCR networks are made of, in torch. Semantics: onnx.ai/onnx/operators, opsets 11 to 18."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from inference.models.graph import Node
from inference.models.weights import WeightsError

Tensor = Any
Operation = Callable[..., Tensor]

TYPES = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16, 11: torch.float64}


def operation(node: Node, opset: int) -> Operation:
    """What computes the node's first output from its inputs (None where one is absent).

    Raises WeightsError when torch has no such operation here.
    """
    if node.op in SIMPLE:
        return SIMPLE[node.op]
    if node.op not in BUILT:
        known = ", ".join(sorted({*SIMPLE, *BUILT}))
        raise WeightsError(f"the torch backend has no {node.op}; it has {known}; use onnxruntime for this model")
    return BUILT[node.op](node, opset)


def _convolution(node: Node, opset: int) -> Operation:
    strides, dilations = _pair(node, "strides"), _pair(node, "dilations")
    groups = int(_number(node, "group", 1))

    def convolve(x: Tensor, weight: Tensor, bias: Tensor = None) -> Tensor:
        before, after = _pads(node, x, weight.shape[2:], strides, dilations)
        if before == after:
            return functional.conv2d(x, weight, bias, strides, before, dilations, groups)
        return functional.conv2d(_padded(x, before, after, 0.0), weight, bias, strides, 0, dilations, groups)

    return convolve


def _transposed(node: Node, opset: int) -> Operation:
    strides, dilations = _pair(node, "strides"), _pair(node, "dilations")
    groups = int(_number(node, "group", 1))
    extra = node.attributes.get("output_padding", (0, 0))
    pads = _numbers(node, "pads", (0, 0, 0, 0))
    if pads[:2] != pads[2:] or _text(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise WeightsError("the torch backend has no ConvTranspose with uneven pads; use onnxruntime for this model")

    def convolve(x: Tensor, weight: Tensor, bias: Tensor = None) -> Tensor:
        return functional.conv_transpose2d(x, weight, bias, strides, pads[:2], extra, groups, dilations)

    return convolve


def _largest(node: Node, opset: int) -> Operation:
    kernel, strides, dilations = _pair(node, "kernel_shape"), _pair(node, "strides"), _pair(node, "dilations")
    ceil = bool(node.attributes.get("ceil_mode", 0))

    def pool(x: Tensor) -> Tensor:
        before, after = _pads(node, x, kernel, strides, dilations)
        if before == after:
            return functional.max_pool2d(x, kernel, strides, before, dilations, ceil)
        return functional.max_pool2d(_padded(x, before, after, -math.inf), kernel, strides, 0, dilations, ceil)

    return pool


def _mean_of_windows(node: Node, opset: int) -> Operation:
    kernel, strides = _pair(node, "kernel_shape"), _pair(node, "strides")
    ceil, counted = bool(node.attributes.get("ceil_mode", 0)), bool(node.attributes.get("count_include_pad", 0))

    def pool(x: Tensor) -> Tensor:
        before, after = _pads(node, x, kernel, strides, (1, 1))
        if before != after:
            raise WeightsError("the torch backend has no AveragePool with uneven pads; use onnxruntime for this model")
        return functional.avg_pool2d(x, kernel, strides, before, ceil, counted)

    return pool


def _normalised(node: Node, opset: int) -> Operation:
    epsilon = _number(node, "epsilon", 1e-5)
    return lambda x, scale, bias, mean, variance: functional.batch_norm(
        x, mean, variance, scale, bias, training=False, eps=epsilon
    )


def _resized(node: Node, opset: int) -> Operation:
    mode, places = _text(node, "mode", "nearest"), _text(node, "coordinate_transformation_mode", "half_pixel")
    floor = _text(node, "nearest_mode", "round_prefer_floor") == "floor"
    if mode == "nearest" and places == "asymmetric" and floor:
        options: dict[str, Any] = {"mode": "nearest"}
    elif mode == "linear" and places in ("half_pixel", "pytorch_half_pixel"):
        options = {"mode": "bilinear", "align_corners": False}
    elif mode == "linear" and places == "align_corners":
        options = {"mode": "bilinear", "align_corners": True}
    else:
        raise WeightsError(f"the torch backend has no Resize by {mode}, {places}; use onnxruntime for this model")

    def resize(x: Tensor, region: Tensor = None, scales: Tensor = None, sizes: Tensor = None) -> Tensor:
        if sizes is not None:
            return functional.interpolate(x, size=sizes.tolist()[2:], **options)
        return functional.interpolate(x, scale_factor=scales.tolist()[2:], **options)

    return resize


def _mean(node: Node, opset: int) -> Operation:
    keep = bool(node.attributes.get("keepdims", 1))
    return lambda x, axes=None: x.mean(dim=_axes(node, axes) or list(range(x.dim())), keepdim=keep)


def _softmax(node: Node, opset: int) -> Operation:
    axis = int(_number(node, "axis", -1 if opset >= 13 else 1))

    def softmax(x: Tensor) -> Tensor:
        if opset >= 13:
            return x.softmax(axis)
        return x.flatten(axis % x.dim()).softmax(-1).reshape(x.shape)  # one distribution over all that follows

    return softmax


def _linear(node: Node, opset: int) -> Operation:
    alpha, beta = _number(node, "alpha", 1.0), _number(node, "beta", 1.0)
    turn_a, turn_b = bool(node.attributes.get("transA", 0)), bool(node.attributes.get("transB", 0))

    def multiply(a: Tensor, b: Tensor, c: Tensor = None) -> Tensor:
        product = alpha * ((a.T if turn_a else a) @ (b.T if turn_b else b))
        return product if c is None else product + beta * c

    return multiply


def _hard_sigmoid(node: Node, opset: int) -> Operation:
    alpha, beta = _number(node, "alpha", 0.2), _number(node, "beta", 0.5)
    return lambda x: (x * alpha + beta).clamp(0, 1)


def _leaky(node: Node, opset: int) -> Operation:
    slope = _number(node, "alpha", 0.01)
    return lambda x: functional.leaky_relu(x, slope)


def _turned(node: Node, opset: int) -> Operation:
    order = _numbers(node, "perm", ())
    return lambda x: x.permute(order or tuple(reversed(range(x.dim()))))


def _joined(node: Node, opset: int) -> Operation:
    axis = int(_number(node, "axis"))
    return lambda *parts: torch.cat(parts, axis)


def _sliced(node: Node, opset: int) -> Operation:
    if opset < 10:
        raise WeightsError(f"the torch backend has no Slice of opset {opset}; use onnxruntime for this model")

    def cut(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor = None, steps: Tensor = None) -> Tensor:
        first, last = starts.tolist(), ends.tolist()
        which = range(len(first)) if axes is None else axes.tolist()
        by = [1] * len(first) if steps is None else steps.tolist()
        place = [slice(None)] * x.dim()
        for axis, start, end, step in zip(which, first, last, by, strict=True):
            if step < 1:
                raise WeightsError("the torch backend has no Slice backwards; use onnxruntime for this model")
            place[axis] = slice(start, end, step)
        return x[tuple(place)]

    return cut


def _squeezed(node: Node, opset: int) -> Operation:
    def squeeze(x: Tensor, axes: Tensor = None) -> Tensor:
        wanted = _axes(node, axes)
        return x.squeeze(tuple(wanted)) if wanted else x.squeeze()

    return squeeze


def _unsqueezed(node: Node, opset: int) -> Operation:
    def unsqueeze(x: Tensor, axes: Tensor = None) -> Tensor:
        wanted = _axes(node, axes)
        for axis in sorted(axis % (x.dim() + len(wanted)) for axis in wanted):
            x = x.unsqueeze(axis)
        return x

    return unsqueeze


def _cast(node: Node, opset: int) -> Operation:
    kind = int(_number(node, "to"))
    if kind not in TYPES:
        raise WeightsError(f"the torch backend has no Cast to type {kind}; use onnxruntime for this model")
    return lambda x: x.to(TYPES[kind])


def _gathered(node: Node, opset: int) -> Operation:
    axis = int(_number(node, "axis", 0))

    def gather(x: Tensor, places: Tensor) -> Tensor:
        wrapped = torch.where(places < 0, places + x.shape[axis], places)
        picked = x.index_select(axis, wrapped.flatten().to(x.device))
        return picked.reshape(*x.shape[:axis], *places.shape, *x.shape[axis:][1:])

    return gather


def _flattened(node: Node, opset: int) -> Operation:
    axis = int(_number(node, "axis", 1))
    return lambda x: x.reshape(math.prod(x.shape[:axis]), -1)


def _reshaped(x: Tensor, shape: Tensor) -> Tensor:
    """0 keeps a length."""
    return x.reshape([x.shape[i] if length == 0 else length for i, length in enumerate(shape.tolist())])


def _clipped(x: Tensor, least: Tensor = None, most: Tensor = None) -> Tensor:
    return x.clamp(least, most)


def _shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape)  # stays on the CPU: a shape that went to the accelerator would have to be waited for


SIMPLE: dict[str, Operation] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": lambda a, b: a // b if not (a.is_floating_point() or b.is_floating_point()) else a / b,
    "Pow": torch.pow,
    "Sqrt": torch.sqrt,
    "Exp": torch.exp,
    "Erf": torch.erf,
    "Tanh": torch.tanh,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "HardSwish": functional.hardswish,
    "Clip": _clipped,
    "MatMul": torch.matmul,
    "GlobalAveragePool": lambda x: x.mean(dim=(2, 3), keepdim=True),
    "Identity": lambda x: x,
    "Dropout": lambda x, *_: x,
    "Shape": _shape,
    "Reshape": _reshaped,
}

BUILT: dict[str, Callable[[Node, int], Operation]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "MaxPool": _largest,
    "AveragePool": _mean_of_windows,
    "BatchNormalization": _normalised,
    "Resize": _resized,
    "ReduceMean": _mean,
    "Softmax": _softmax,
    "Gemm": _linear,
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": _leaky,
    "Transpose": _turned,
    "Concat": _joined,
    "Slice": _sliced,
    "Squeeze": _squeezed,
    "Unsqueeze": _unsqueezed,
    "Cast": _cast,
    "Gather": _gathered,
    "Flatten": _flattened,
}


def _pads(
    node: Node, x: Tensor, kernel: Any, strides: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What to put before and after height and width."""
    automatic = _text(node, "auto_pad", "NOTSET")
    if automatic not in ("SAME_UPPER", "SAME_LOWER"):
        pads = _numbers(node, "pads", (0, 0, 0, 0))
        return pads[:2], pads[2:]
    before, after = [], []
    for length, size, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        reach = (math.ceil(length / stride) - 1) * stride + (size - 1) * dilation + 1
        total = max(0, reach - length)
        less = total // 2
        before.append(less if automatic == "SAME_UPPER" else total - less)
        after.append(total - before[-1])
    return tuple(before), tuple(after)


def _padded(x: Tensor, before: tuple[int, ...], after: tuple[int, ...], value: float) -> Tensor:
    return functional.pad(x, (before[1], after[1], before[0], after[0]), value=value)


def _axes(node: Node, given: Tensor) -> list[int]:
    """An attribute up to opset 12 (17 for means), an input since."""
    return list(_numbers(node, "axes", ())) if given is None else list(given.tolist())


def _pair(node: Node, name: str) -> tuple[int, ...]:
    return _numbers(node, name, (1, 1))


def _numbers(node: Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    found = node.attributes.get(name, default)
    if isinstance(found, tuple):
        return tuple(int(each) for each in found)
    if isinstance(found, np.ndarray):
        return tuple(int(each) for each in found.tolist())
    raise WeightsError(f"{node.op}: {name} is {found!r}")


def _number(node: Node, name: str, default: float | None = None) -> float:
    found = node.attributes.get(name, default)
    if isinstance(found, int | float):
        return found
    raise WeightsError(f"{node.op}: {name} is {found!r}")


def _text(node: Node, name: str, default: str) -> str:
    return str(node.attributes.get(name, default))
