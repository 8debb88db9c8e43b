"""The models that can be read with: by name, or by the path of a model card."""

from importlib.util import find_spec
from pathlib import Path

import cv2

from inference.backends import Accelerator, Backend, NoAccelerator, Precision, Runtime
from inference.engine import Engine
from inference.models.weights import WeightsError

__all__ = ["NAMES", "NoAccelerator", "UnknownModel", "WeightsError", "is_card", "load"]

NAMES = ("ppocr", "cv_resnet18_ocr-detection")
CARD_SUFFIXES = (".yaml", ".yml")


class UnknownModel(Exception):
    """No model has this name, or it cannot be run in the way asked for. One line with what there is."""


def load(
    name: str = "ppocr",
    *,
    accelerator: Accelerator = "auto",
    threads: int = 1,
    backend: Backend = "auto",
    precision: Precision = "fp32",
) -> Engine:
    """Load a model onto the accelerator, or the CPU where none really runs. Takes about half a second.

    `name` is one of NAMES or a model card's path. Raises UnknownModel, WeightsError, and NoAccelerator when
    `accelerator` is "cuda" and CUDA does not run.
    """
    if name not in NAMES and not is_card(name):
        raise UnknownModel(f"no model named {name!r}; there is {', '.join(NAMES)}, or the path of a model card (.yaml)")
    runtime = _runtime(accelerator, threads, backend, precision)
    cv2.setNumThreads(threads)  # the image library's own pool would otherwise take every core in every worker
    from inference.models import card, dbnet, ppocr

    if is_card(name):
        return card.load(Path(name), runtime)
    return dbnet.load(runtime) if name == dbnet.NAME else ppocr.load(runtime)


def is_card(name: str) -> bool:
    """Whether a model's name is a model card's path."""
    return name.lower().endswith(CARD_SUFFIXES)


def _runtime(accelerator: Accelerator, threads: int, backend: Backend, precision: Precision) -> Runtime:
    """A runtime is imported only when it is the one: each takes long."""
    if backend == "torch" or (backend == "auto" and (precision != "fp32" or find_spec("onnxruntime") is None)):
        if find_spec("torch") is None:
            raise UnknownModel(f"precision {precision} by torch: torch is not installed: pip install 'halve[torch]'")
        from inference.backends.pytorch import TorchRuntime

        return TorchRuntime(accelerator=accelerator, threads=threads, precision=precision)
    if precision != "fp32":
        raise UnknownModel(f"onnxruntime runs a model as its file says, not in {precision}; use the torch backend")
    from inference.backends.ort import OrtRuntime

    return OrtRuntime(accelerator=accelerator, threads=threads)
