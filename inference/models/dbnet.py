"""`cv_resnet18_ocr-detection`: ModelScope's DBNet on ResNet-18 finds the lines, PP-OCR reads them.

The published pipeline's ways are kept, because checkpoints were trained with them (modelscope, ocr_detection pipeline
and its DBNet post-processing).
"""

import json
import logging
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from inference.backends import Floats, Runtime
from inference.detection import BoxRule, Detector, Sizing
from inference.engine import Engine
from inference.home import home
from inference.models import graph, ppocr, weights
from inference.models.weights import WeightsError

NAME = "cv_resnet18_ocr-detection"
CHECKPOINT = "pytorch_model.pt"
CONFIGURATION = "configuration.json"
PUBLISHED_AS = "damo/cv_resnet18_ocr-detection-db-line-level_damo"

#: the means of R, G and B, taken from B, G and R: published so, and trained so
MEANS = (123.68, 116.78, 103.94)
#: 1 x 256 x 3, for B, G, R
TABLE: Floats = ((np.arange(256, dtype=np.float32)[:, None] - np.array(MEANS, np.float32)) / np.float32(255))[None]

#: shorter side to 736, up or down, the longer one rounded up; 736 and 0.2 hold where no configuration.json is at hand
SIZING = Sizing(shorter=736, grow_only=False, round_up=True)
BOXES = BoxRule(threshold=0.2, box_threshold=0.3, unclip=1.5, most=1000, dilated=False)
POLYGONS = BoxRule(threshold=0.2, box_threshold=0.7, unclip=2.0, most=100, dilated=False, polygons=True)


log = logging.getLogger(__name__)


def folder() -> Path:
    """Where the checkpoint is looked for: models/cv_resnet18_ocr-detection in HALVE_HOME. Raises WeightsError."""
    try:
        return home() / "models" / NAME
    except OSError as error:
        raise WeightsError(f"{NAME}: {error.filename}: {error.strerror}") from None


def load(runtime: Runtime) -> Engine:
    """Raises WeightsError when there is no checkpoint, or one of another network, or torch is not installed."""
    return Engine(
        model=NAME,
        precision=runtime.precision,
        detector=detector(runtime, folder()),
        orienter=ppocr.orienter(runtime),
        recogniser=ppocr.recogniser(runtime),
        provider=runtime.provider,
        fallback=runtime.fallback,
        on_accelerator=runtime.on_accelerator,
        bounded=False,
    )


def detector(
    runtime: Runtime, place: Path, *, sizing: Sizing | None = None, threshold: float | None = None
) -> Detector:
    """The detector of a ModelScope folder (checkpoint and configuration.json), or of a checkpoint alone.

    `sizing` and `threshold` win over configuration.json. Raises WeightsError.
    """
    checkpoint = place if place.is_file() else place / CHECKPOINT
    configured = _configured(checkpoint.parent / CONFIGURATION)
    rule = POLYGONS if configured.get("return_polygon") else BOXES
    rule = replace(rule, threshold=threshold or configured.get("thresh") or rule.threshold)
    sizing = sizing or replace(SIZING, shorter=configured.get("image_short_side") or SIZING.shorter)
    session = runtime.open(onnx_of(checkpoint), np.zeros((1, 3, 64, 64), np.float32))
    return Detector(session, sizing=sizing, rule=rule, table=TABLE)


def onnx_of(checkpoint: Path) -> bytes:
    """The checkpoint's network as an ONNX file with free N, H, W, without the threshold head. Raises WeightsError."""
    if not checkpoint.is_file():
        raise WeightsError(
            f"{NAME}: no checkpoint here: put {CHECKPOINT} and {CONFIGURATION} of ModelScope's {PUBLISHED_AS}"
            f" into {checkpoint.parent}"
        )
    if find_spec("torch") is None:
        raise WeightsError(f"{NAME}: reading a checkpoint needs torch: pip install 'halve[torch]'")
    from inference.backends import conversion, dbnet  # here, because torch takes long to import

    loaded = dbnet.load(checkpoint)
    if loaded.unexpected:
        names = ", ".join(loaded.unexpected[:3])
        log.warning("%s: %d parameters belong to nothing: %s", checkpoint, len(loaded.unexpected), names)
    log.info("%s: %d parameters of the threshold head left out", checkpoint, len(loaded.dropped))
    return weights.flushed(graph.serialised(conversion.converted(loaded.network)))


def _configured(file: Path) -> dict[str, Any]:
    """model.inference_kwargs of configuration.json, whose other networks are refused. Nothing when it is absent."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file}: cannot be read: {error}") from None
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise WeightsError(f"{file}: it has no section `model`")
    for key, wanted in (("backbone", "resnet18"), ("model_type", "DBNet")):
        if str(model.get(key, wanted)).lower() != wanted.lower():
            raise WeightsError(f"{file}: model.{key} is {model[key]}; only {wanted} is known here")
    found = model.get("inference_kwargs") or {}
    for key, kind in (("thresh", (int, float)), ("image_short_side", (int,)), ("return_polygon", (bool,))):
        if key in found and not isinstance(found[key], kind):
            raise WeightsError(f"{file}: model.inference_kwargs.{key} is {found[key]!r}")
    return dict(found)
