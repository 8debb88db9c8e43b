"""A model's network -> an ONNX file for any size and batch, compared with its source before it is kept."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inference import precision
from inference.backends import Floats, Session
from inference.detection import PPOCR_BOXES
from inference.models import dbnet, graph, ppocr, weights
from inference.precision import Loss

#: N, H, W of what is compared: two batches, two shapes, so a length that was frozen shows
SHAPES = ((1, 320, 320), (2, 96, 160))
CLOSE = 1e-4  # largest difference of a probability between torch and the file; measured: 1e-7
SEED = 20


class ExportFailed(Exception):
    """The file would not answer as its source does, so it was not written. One line with the difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written. `loss` is against torch (fp32: the source itself), over SHAPES."""

    path: str
    bytes: int
    sha256: str
    precision: str
    loss: Loss


def export(model: str, output: Path, *, checkpoint: Path | None = None, fp16: bool = False) -> Exported:
    """Write the detector of `model` (ppocr or cv_resnet18_ocr-detection) to `output`, in one piece.

    Input `images` (PP-OCR: `x`) is N x 3 x H x W, H and W multiples of 32; output N x 1 x H x W, both float32.
    Raises WeightsError for the source, ExportFailed when the fp32 file differs by more than CLOSE, OSError.
    """
    from inference.backends.ort import OrtRuntime  # here, because runtimes take long to import
    from inference.backends.pytorch import NetworkSession, TorchRuntime

    samples = _samples()
    if model == dbnet.NAME:
        from inference.backends import dbnet as network

        place = checkpoint or dbnet.folder() / dbnet.CHECKPOINT
        content = dbnet.onnx_of(place)
        reference: Session = NetworkSession(network.load(place).network)
        threshold = dbnet.BOXES.threshold
    else:
        content = weights.flushed(weights.read(ppocr.PACKAGE, *ppocr.DETECTOR))
        reference = TorchRuntime(accelerator="cpu").open(content, samples[1])
        threshold = PPOCR_BOXES.threshold
    if fp16:
        content = graph.serialised(precision.halved(graph.parsed(content)))
    found = precision.loss(reference, OrtRuntime(accelerator="cpu").open(content, samples[1]), samples, threshold)
    if not fp16 and found.largest > CLOSE:
        raise ExportFailed(f"{model}: the file differs from torch by {found.largest:.2g}, more than {CLOSE:g}")
    _written(output, content)
    return Exported(
        path=str(output),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        precision="fp16" if fp16 else "fp32",
        loss=found,
    )


def _samples() -> list[Floats]:
    """Bright paper with dark strokes and noise, as the networks see it."""
    rng = np.random.default_rng(SEED)
    found = []
    for count, height, width in SHAPES:
        page = rng.normal(0.8, 0.05, (count, 3, height, width)).astype(np.float32)
        for top in range(16, height - 16, 32):
            page[:, :, top : top + 12, 16 : width - 16] -= rng.uniform(0, 1.5, (count, 1, 12, width - 32))
        found.append(page)
    return found


def _written(output: Path, content: bytes) -> None:
    partial = output.with_name(output.name + ".partial")
    try:
        partial.write_bytes(content)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
