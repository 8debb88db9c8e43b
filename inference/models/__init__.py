"""The models that can be read with, by name."""

import cv2

from inference.backends import Accelerator
from inference.engine import Engine
from inference.models.weights import WeightsError

__all__ = ["NAMES", "UnknownModel", "WeightsError", "load"]

NAMES = ("ppocr",)


class UnknownModel(Exception):
    """No model has this name. One line that lists those that do."""


def load(name: str = "ppocr", *, accelerator: Accelerator = "auto", threads: int = 1) -> Engine:
    """Load a model onto the accelerator, or the CPU where none really runs. Takes about half a second.

    Raises UnknownModel, weights.WeightsError, and ort.NoAccelerator when `accelerator` is "cuda" and CUDA does not run.
    """
    if name not in NAMES:
        raise UnknownModel(f"no model named {name!r}; there is {', '.join(NAMES)}")
    from inference.backends.ort import OrtRuntime  # here, because a runtime takes long to import
    from inference.models import ppocr

    cv2.setNumThreads(threads)  # the image library's own pool would otherwise take every core in every worker
    return ppocr.load(OrtRuntime(accelerator=accelerator, threads=threads))
