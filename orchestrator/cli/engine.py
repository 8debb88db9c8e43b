"""What the commands that run the engine in this process share."""

from typing import TYPE_CHECKING, cast

from orchestrator.errors import Refused

if TYPE_CHECKING:
    from inference.backends import Backend, Precision
    from inference.engine import Engine

BACKENDS = ("auto", "onnxruntime", "openvino", "torch")
PRECISIONS = ("fp32", "bf16", "fp16")
BACKEND_HELP = "auto, onnxruntime, openvino or torch."
PRECISION_HELP = "fp32, bf16, fp16, or auto: what halve profile --precisions found best here, else fp32."
MODEL_HELP = "ppocr, ppocr-reread, cv_resnet18_ocr-detection, or a card's path."


def require_engine() -> None:
    """Raises Refused when the engine's packages are not installed."""
    import inference

    if absent := inference.absent_packages():
        raise Refused(f"the engine is not installed ({', '.join(absent)} missing): pip install 'halve[cpu]'")


def load_engine(model: str, threads: int = 1, backend: str = "auto", precision: str = "auto") -> "Engine":
    """The model, loaded; see `chosen`. Raises Refused with the reason when it cannot be."""
    require_engine()
    from inference import models

    try:
        named, computed = chosen(model, backend, precision)
        return models.load(model, threads=threads, backend=named, precision=computed)
    except (models.UnknownModel, models.WeightsError) as error:
        raise Refused(str(error)) from None


def backend_named(name: str) -> "Backend":
    """Raises Refused for a word that is none."""
    if name not in BACKENDS:
        raise Refused(f"--backend {name}: it is one of {', '.join(BACKENDS)}")
    return cast("Backend", name)


def chosen(model: str, backend: str, precision: str) -> "tuple[Backend, Precision]":
    """What is meant: `auto` precision is what was measured best on this device. Raises Refused for unknown words."""
    if precision == "auto":
        from inference import choice

        return choice.remembered(model, backend_named(backend))
    return backend_named(backend), precision_named(precision)


def precision_named(name: str) -> "Precision":
    """Raises Refused for a word that is none."""
    if name not in PRECISIONS:
        raise Refused(f"--precision {name}: it is one of auto, {', '.join(PRECISIONS)}")
    return cast("Precision", name)
