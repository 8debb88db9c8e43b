"""Checkpoints of DBNet as ModelScope's trainer writes them, and pages of lines to train one on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.pages import render

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'halve[torch]'")

SIDE = 128  # pixels of a training page
SHRINK = 0.4  # Liao et al. 2020: text is learnt shrunk, so that neighbouring lines do not touch
TEXTS = ("采购合同", "净含量", "2026年3月", "400-810", "保质期：6个月", "GB 25190", "支付成功")


@dataclass(frozen=True, slots=True)
class Sample:
    """A page as height x width x 3 (BGR), and its lines' (left, top, right, bottom)."""

    page: np.ndarray
    lines: tuple[tuple[int, int, int, int], ...]


def sample(rng: np.random.Generator) -> Sample:
    """One to four lines of different sizes on plain paper."""
    image = Image.new("RGB", (SIDE, SIDE), tuple(int(v) for v in rng.integers(190, 256, 3)))
    pen = ImageDraw.Draw(image)
    ink = tuple(int(v) for v in rng.integers(0, 90, 3))
    lines, top = [], int(rng.integers(3, 16))
    while top < SIDE - 28 and len(lines) < 4:
        font = ImageFont.truetype(str(render.FONT), int(rng.integers(13, 20)))
        place = (int(rng.integers(3, 20)), top)
        text = str(rng.choice(TEXTS))
        left, upper, right, lower = (int(value) for value in pen.textbbox(place, text, font=font))
        if right < SIDE - 4:
            pen.text(place, text, fill=ink, font=font)
            lines.append((left, upper, right, lower))
        top = lower + int(rng.integers(10, 26))
    return Sample(np.asarray(image)[:, :, ::-1].copy(), tuple(lines))


def target(lines: tuple[tuple[int, int, int, int], ...]) -> np.ndarray:
    """1 inside the shrunk lines: each side moved in by area x (1 - SHRINK^2) / perimeter."""
    found = np.zeros((SIDE, SIDE), np.float32)
    for left, top, right, bottom in lines:
        width, height = right - left, bottom - top
        inset = width * height * (1 - SHRINK**2) / (2 * (width + height))
        corners = [round(value) for value in (left + inset, top + inset, right - inset, bottom - inset)]
        cv2.rectangle(found, corners[:2], corners[2:], 1.0, -1)
    return found


def trained(rounds: int, *, batch: int = 4, seed: int = 5) -> Any:
    """A network with both heads, after so many steps."""
    from inference.backends.dbnet import DbNet
    from inference.models.dbnet import TABLE

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = DbNet(training=True).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=rounds)
    for _ in range(rounds):
        samples = [sample(rng) for _ in range(batch)]
        pixels = np.stack([cv2.LUT(each.page, TABLE).transpose(2, 0, 1) for each in samples])
        wanted = torch.from_numpy(np.stack([target(each.lines)[None] for each in samples]))
        probability, threshold = network(torch.from_numpy(pixels).to(memory_format=torch.channels_last))
        loss = torch.nn.functional.binary_cross_entropy(probability, wanted)
        loss = loss + 1 - 2 * (probability * wanted).sum() / (probability.sum() + wanted.sum() + 1)  # Dice
        loss = loss + 0.01 * (threshold - 0.3).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def random_state(seed: int = 3) -> dict[str, Any]:
    """A state dict with both heads and statistics that are not those of a new network."""
    from inference.backends.dbnet import DbNet

    torch.manual_seed(seed)
    network = DbNet(training=True)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.5, 2.0)
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
    return dict(network.state_dict())


def written(
    state: dict[str, Any], folder: Path, *, prefix: str = "model.module.", name: str = "pytorch_model.pt"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({prefix + key: value for key, value in state.items()}, folder / name)
    return folder / name
