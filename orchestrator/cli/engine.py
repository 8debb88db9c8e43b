"""What the commands that run the engine in this process share."""

from typing import TYPE_CHECKING, cast

from orchestrator.errors import Refused

if TYPE_CHECKING:
    from inference.backends import Backend
    from inference.engine import Engine

BACKENDS = ("auto", "onnxruntime", "torch")
MODEL_HELP = "ppocr, cv_resnet18_ocr-detection, or a model card's path."


def require_engine() -> None:
    """Raises Refused when the engine's packages are not installed."""
    import inference

    if absent := inference.absent_packages():
        raise Refused(f"the engine is not installed ({', '.join(absent)} missing): pip install 'halve[cpu]'")


def load_engine(model: str = "ppocr", threads: int = 1, backend: str = "auto") -> "Engine":
    """The model, loaded. Raises Refused with the reason when it cannot be."""
    require_engine()
    from inference import models

    try:
        return models.load(model, threads=threads, backend=_backend(backend))
    except (models.UnknownModel, models.WeightsError) as error:
        raise Refused(str(error)) from None


def _backend(name: str) -> "Backend":
    if name not in BACKENDS:
        raise Refused(f"--backend {name}: it is one of {', '.join(BACKENDS)}")
    return cast("Backend", name)
