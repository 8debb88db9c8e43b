"""DBNet on ResNet-18 in torch, with the parameter names of ModelScope's checkpoints.

Liao et al. 2020, "Real-time Scene Text Detection with Differentiable Binarization"; He et al. 2016 for the residual
blocks. The threshold head exists for training alone and is built only when asked for.
"""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from inference.models.weights import WeightsError

INNER = 256  # channels of the neck
#: what training, data parallelism and ModelScope's trainer put before a parameter's name
PREFIXES = ("model.module.", "module.model.", "module.", "model.")
#: what a checkpoint may be wrapped in
WRAPPERS = ("state_dict", "model_state_dict", "model")
THRESHOLD_HEAD = "decoder.thresh."


class Block(nn.Module):  # type: ignore[misc]  # torch is optional, so mypy does not follow it
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: Any = None
        if stride != 1 or before != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Any) -> Any:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + shortcut)


class Backbone(nn.Module):  # type: ignore[misc]
    """ResNet-18 without its classifier. N x 3 x H x W -> four maps, at 1/4, 1/8, 1/16 and 1/32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Block(64, 64, 1), Block(64, 64, 1))
        self.layer2 = nn.Sequential(Block(64, 128, 2), Block(128, 128, 1))
        self.layer3 = nn.Sequential(Block(128, 256, 2), Block(256, 256, 1))
        self.layer4 = nn.Sequential(Block(256, 512, 2), Block(512, 512, 1))

    def forward(self, x: Any) -> tuple[Any, Any, Any, Any]:
        c2 = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return c2, c3, c4, self.layer4(c4)


class Decoder(nn.Module):  # type: ignore[misc]
    """The feature pyramid and its heads. Gives the probability map, in training also the threshold map."""

    def __init__(self, *, training: bool) -> None:
        super().__init__()
        quarter = INNER // 4
        self.in5 = nn.Conv2d(512, INNER, 1, bias=False)
        self.in4 = nn.Conv2d(256, INNER, 1, bias=False)
        self.in3 = nn.Conv2d(128, INNER, 1, bias=False)
        self.in2 = nn.Conv2d(64, INNER, 1, bias=False)
        self.out5 = nn.Sequential(nn.Conv2d(INNER, quarter, 3, padding=1, bias=False), _Larger(8))
        self.out4 = nn.Sequential(nn.Conv2d(INNER, quarter, 3, padding=1, bias=False), _Larger(4))
        self.out3 = nn.Sequential(nn.Conv2d(INNER, quarter, 3, padding=1, bias=False), _Larger(2))
        self.out2 = nn.Conv2d(INNER, quarter, 3, padding=1, bias=False)  # alone, so its name has no index
        self.up = _Larger(2)
        self.binarize = _head(quarter)
        if training:
            self.thresh = _head(quarter)

    def forward(self, maps: tuple[Any, Any, Any, Any]) -> Any:
        c2, c3, c4, c5 = maps
        p5 = self.in5(c5)
        p4 = self.up(p5) + self.in4(c4)
        p3 = self.up(p4) + self.in3(c3)
        p2 = self.up(p3) + self.in2(c2)
        fused = torch.cat((self.out5(p5), self.out4(p4), self.out3(p3), self.out2(p2)), 1)
        if self.training and hasattr(self, "thresh"):
            return self.binarize(fused), self.thresh(fused)
        return self.binarize(fused)


class DbNet(nn.Module):  # type: ignore[misc]
    """N x 3 x H x W (multiples of 32) -> N x 1 x H x W, the probability of text in each pixel.

    With `training=True` it has the threshold head too, and gives both maps while in training mode.
    """

    def __init__(self, *, training: bool = False) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.decoder = Decoder(training=training)

    def forward(self, x: Any) -> Any:
        return self.decoder(self.backbone(x))


class _Larger(nn.Module):  # type: ignore[misc]
    """Every pixel repeated."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Any) -> Any:
        return functional.interpolate(x, scale_factor=self.factor, mode="nearest")


def _head(quarter: int) -> Any:
    return nn.Sequential(
        nn.Conv2d(INNER, quarter, 3, padding=1, bias=False),
        nn.BatchNorm2d(quarter),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(quarter, quarter, 2, 2),
        nn.BatchNorm2d(quarter),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(quarter, 1, 2, 2),
        nn.Sigmoid(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A network with a checkpoint's weights, and what the two did not have in common.

    `dropped` are the threshold head's parameters; `unexpected` belong to nothing here. Nothing is ever missing: that
    is refused.
    """

    network: DbNet
    dropped: tuple[str, ...]
    unexpected: tuple[str, ...]


def load(checkpoint: Path) -> Loaded:
    """Read a state dict, plain or wrapped, without running code from it.

    Raises WeightsError when the file is missing or damaged, or lacks parameters, or has them in another shape.
    """
    weights = {_bare(name): value for name, value in _state(checkpoint).items()}
    network = DbNet()
    wanted = network.state_dict()
    # counters of training batches: no weights, and older checkpoints have none
    missing = [name for name in wanted if name not in weights and not name.endswith("num_batches_tracked")]
    if missing:
        raise WeightsError(
            f"{checkpoint}: not a DBNet with ResNet-18: {len(missing)} of {len(wanted)} parameters are missing,"
            f" {', '.join(missing[:3])} among them"
        )
    other = [name for name in wanted if name in weights and weights[name].shape != wanted[name].shape]
    if other:
        shapes = f"{tuple(weights[other[0]].shape)}, not {tuple(wanted[other[0]].shape)}"
        raise WeightsError(f"{checkpoint}: {len(other)} parameters have another shape: {other[0]} is {shapes}")
    network.load_state_dict({name: weights[name] for name in wanted if name in weights}, strict=False)
    foreign = sorted(name for name in weights if name not in wanted)
    return Loaded(
        network=network.float().eval(),
        dropped=tuple(name for name in foreign if name.startswith(THRESHOLD_HEAD)),
        unexpected=tuple(name for name in foreign if not name.startswith(THRESHOLD_HEAD)),
    )


def _state(checkpoint: Path) -> dict[str, Any]:
    try:
        found = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"{checkpoint}: {error.strerror or error}") from None
    except Exception as error:  # noqa: BLE001  a damaged file fails in many ways
        raise WeightsError(
            f"{checkpoint}: not a checkpoint that torch reads: {' '.join(str(error).split())[:200]}"
        ) from None
    for wrapper in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    tensors = isinstance(found, (dict, OrderedDict)) and all(
        isinstance(value, torch.Tensor) for value in found.values()
    )
    if not tensors or not found:
        raise WeightsError(f"{checkpoint}: not a checkpoint: it holds no weights by name")
    return dict(found)


def _bare(name: str) -> str:
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name
