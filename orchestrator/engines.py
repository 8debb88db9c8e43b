"""What a replica can be told to run: checked before one is started, because it would only fail there."""

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator.errors import Refused
from orchestrator.spec import Spec

#: what each backend computes in; the engine's own table, which is out of reach here, is compared with this by a test
PRECISIONS: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("fp32", "fp16"),
    "openvino": ("fp32", "bf16"),
    "torch": ("fp32", "bf16", "fp16"),
}
EXTRAS: Mapping[str, str] = {"onnxruntime": "cpu", "openvino": "openvino", "torch": "torch"}
DBNET = "cv_resnet18_ocr-detection"
MODELS = ("ppocr", "ppocr-reread", DBNET)
CARD_SUFFIXES = (".yaml", ".yml")


def check(wanted: Spec, home: Path) -> None:
    """Raise Refused for an engine that its own words rule out, or, on this machine, that is not installed."""
    model, precision = wanted.model, wanted.engine.precision
    backends = _able(wanted.engine.backend, precision)
    card = model.lower().endswith(CARD_SUFFIXES)
    if not card and model not in MODELS:
        raise Refused(f"model: {model} is not known; use {' or '.join(MODELS)}, or a model card's path (.yaml)")
    if card and not Path(model).expanduser().is_absolute():
        raise Refused(f"model: {model}: name the model card by its absolute path; replicas run in another folder")
    if "local" in wanted.provider:
        _reachable(wanted.engine.sources)
        _installed(backends, precision)
        _at_hand(model, home, card=card)


def _able(backend: str, precision: str) -> tuple[str, ...]:
    """The backends that may be meant. Raises Refused when none runs models in that precision."""
    named = tuple(PRECISIONS) if backend == "auto" else (backend,)
    able = tuple(name for name in named if precision in ("auto", *PRECISIONS[name]))
    if not able and backend == "auto":
        raise Refused(f"engine.precision: no backend runs models in {precision}; use {', '.join(PRECISIONS['torch'])}")
    if not able:
        raise Refused(
            f"engine.precision: {backend} does not run models in {precision}; use {' or '.join(PRECISIONS[backend])}"
        )
    return able


def _installed(backends: tuple[str, ...], precision: str) -> None:
    if not all(find_spec(name) for name in ("onnxruntime", "rapidocr", "uvicorn")):
        raise Refused("provider: local needs the engine on this machine; install it with: pip install 'halve[cpu]'")
    if not any(find_spec(name) for name in backends):
        wishes = f"engine.backend: {backends[0]} is" if len(backends) == 1 else f"engine.precision: {precision}:"
        missing = "" if len(backends) == 1 else f" {' and '.join(backends)} are"
        remedy = " or ".join(f"pip install 'halve[{EXTRAS[name]}]'" for name in backends)
        raise Refused(f"{wishes}{missing} not installed on this machine; install it with: {remedy}")


def _reachable(sources: Iterable[str]) -> None:
    for source in sources:
        folder = Path(unquote(urlsplit(source).path))
        if source.startswith("file:") and not folder.is_dir():
            raise Refused(f"engine.sources: {source}: there is no folder {folder} on this machine")


def _at_hand(model: str, home: Path, *, card: bool) -> None:
    if card and not Path(model).expanduser().is_file():
        raise Refused(f"model: {model}: there is no such file")
    if model != DBNET:
        return
    checkpoint = home / "models" / DBNET / "pytorch_model.pt"
    if find_spec("torch") is None:
        raise Refused(f"model: {model} is read by torch, which is not installed: pip install 'halve[torch]'")
    if not checkpoint.is_file():
        raise Refused(f"model: {model}: no checkpoint here; put ModelScope's pytorch_model.pt into {checkpoint.parent}")
