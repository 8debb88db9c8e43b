"""The models that can be read with: by name, or by the path of a model card."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import cv2

from inference.backends import Accelerator, Backend, NoAccelerator, Precision, Runtime
from inference.engine import Engine
from inference.home import expanded
from inference.models.weights import WeightsError

__all__ = ["NAMES", "NoAccelerator", "UnknownModel", "WeightsError", "is_card", "load"]

NAMES = ("ppocr", "ppocr-reread", "cv_resnet18_ocr-detection")
#: those of the same networks as another: what was measured of that one holds for them
SAME_NETWORKS: Mapping[str, str] = {"ppocr-reread": "ppocr"}
#: what each backend computes in; onnxruntime's fp32 is a model as its file says
PRECISIONS: Mapping[Backend, tuple[Precision, ...]] = {
    "onnxruntime": ("fp32", "fp16"),
    "openvino": ("fp32", "bf16"),
    "torch": ("fp32", "bf16", "fp16"),
}
EXTRAS: Mapping[Backend, str] = {
    "onnxruntime": "halve[cpu]",
    "openvino": "halve[openvino]",
    "torch": "halve[torch]",
}
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
        return card.load(expanded(name), runtime)
    return dbnet.load(runtime) if name == dbnet.NAME else ppocr.load(runtime, reread=name == ppocr.REREAD)


def is_card(name: str) -> bool:
    """Whether a model's name is a model card's path."""
    return name.lower().endswith(CARD_SUFFIXES)


def _runtime(accelerator: Accelerator, threads: int, backend: Backend, precision: Precision) -> Runtime:
    """A runtime is imported only when it is the one: each takes long."""
    backend = _chosen(accelerator, precision) if backend == "auto" else backend
    if find_spec(backend) is None:
        raise UnknownModel(f"{precision} by {backend}: {backend} is not installed: pip install '{EXTRAS[backend]}'")
    if precision not in PRECISIONS[backend]:
        able = " or ".join(name for name, those in PRECISIONS.items() if precision in those)
        raise UnknownModel(f"{backend} does not run models in {precision}; use the {able} backend")
    if backend == "torch":
        from inference.backends.pytorch import TorchRuntime

        return TorchRuntime(accelerator=accelerator, threads=threads, precision=precision)
    if backend == "openvino":
        from inference.backends.openvino import OpenVinoRuntime

        return OpenVinoRuntime(accelerator=accelerator, threads=threads, precision=precision)
    from inference.backends.ort import OrtRuntime

    return OrtRuntime(accelerator=accelerator, threads=threads, precision=precision)


def _chosen(accelerator: Accelerator, precision: Precision) -> Backend:
    if precision == "fp32":
        return "onnxruntime" if find_spec("onnxruntime") else "torch"
    if precision == "fp16":
        return "torch" if find_spec("torch") else "onnxruntime"
    nvidia = accelerator == "cuda" or (accelerator == "auto" and Path("/dev/nvidiactl").exists())
    return "openvino" if find_spec("openvino") and not nvidia else "torch"
