"""A model card: any detector and recogniser in ONNX files, described by a small YAML file.

    name: my-pair
    detector:
      file: det.onnx                    # beside the card; N x 3 x H x W -> N x 1 x H x W, probabilities
      sha256: 090f04ab...               # optional, but then a changed file is noticed
      mean: [0.485, 0.456, 0.406]       # of values 0-1, in the order of `channels`
      std: [0.229, 0.224, 0.225]
      channels: RGB                     # default BGR
      shorter_side: 736                 # or fixed: [800, 800]; longest_side: 1024 bounds the longer one
      threshold: 0.3
    recogniser:
      file: rec.onnx                    # N x 3 x height x W -> N x steps x classes, the blank first
      dictionary: keys.txt              # one character a line; default: the model file's `character`
    orienter: ppocr                     # or none; or recogniser: what it doubts it reads on its head too

`detector: ppocr`, `recogniser: ppocr` take PP-OCR's; `detector: {checkpoint: FOLDER}` a ModelScope DBNet on ResNet-18.
"""

import hashlib
import logging
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from inference.backends import Floats, NoAccelerator, Runtime, Session
from inference.detection import BoxRule, Detector, Sizing
from inference.engine import Engine
from inference.home import expanded
from inference.models import NAMES, dbnet, ppocr, weights
from inference.models.weights import WeightsError
from inference.recognition import Form, Recogniser

log = logging.getLogger(__name__)

Three = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Part(BaseModel):
    """Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Normalised(Part):
    """A network file, and what it wants pixels to be: (value / 255 - mean) / std."""

    file: str
    sha256: Sha256 | None = None
    mean: Three = (0.5, 0.5, 0.5)
    std: tuple[Positive, Positive, Positive] = (0.5, 0.5, 0.5)
    channels: Literal["BGR", "RGB"] = "BGR"

    def table(self) -> Floats:
        """1 x 256 x 3, for B, G, R: images are kept so."""
        turn = slice(None, None, -1 if self.channels == "RGB" else 1)
        mean, std = np.array(self.mean, np.float32)[turn], np.array(self.std, np.float32)[turn]
        values = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
        table: Floats = ((values - mean) / std)[None]
        return table


class Sized(Part):
    """How large the detector's input is."""

    shorter_side: Annotated[int, Field(ge=32, le=4096)] = 736
    grow_only: bool = True
    longest_side: Annotated[int, Field(ge=32, le=4096)] | None = None
    fixed: tuple[Annotated[int, Field(ge=32, le=4096)], Annotated[int, Field(ge=32, le=4096)]] | None = None

    def sizing(self) -> Sizing:
        """How large its input is, in pixels."""
        return Sizing(shorter=self.shorter_side, grow_only=self.grow_only, longest=self.longest_side, fixed=self.fixed)


class DetectorFile(Normalised, Sized):
    """An ONNX detector: N x 3 x H x W float32 -> N x 1 x H x W, probabilities. Defaults are PP-OCR's (BoxRule)."""

    threshold: Fraction = 0.3
    box_threshold: Fraction = 0.5
    unclip_ratio: Annotated[float, Field(ge=1, le=5)] = 1.6
    dilate: bool = True

    def rule(self) -> BoxRule:
        """How its map becomes boxes."""
        return BoxRule(
            threshold=self.threshold, box_threshold=self.box_threshold, unclip=self.unclip_ratio, dilated=self.dilate
        )


class DetectorCheckpoint(Part):
    """ModelScope's DBNet on ResNet-18: a folder or file; what is not said here is as in its configuration.json."""

    checkpoint: str
    threshold: Fraction | None = None
    shorter_side: Annotated[int, Field(ge=32, le=4096)] | None = None
    longest_side: Annotated[int, Field(ge=32, le=4096)] | None = None
    fixed: tuple[Annotated[int, Field(ge=32, le=4096)], Annotated[int, Field(ge=32, le=4096)]] | None = None

    def sizing(self) -> Sizing | None:
        """None where the card says nothing of it."""
        if not (self.shorter_side or self.longest_side or self.fixed):
            return None
        return Sizing(
            shorter=self.shorter_side or dbnet.SIZING.shorter,
            grow_only=False,
            round_up=True,
            longest=self.longest_side,
            fixed=self.fixed,
        )


class RecogniserFile(Normalised):
    """An ONNX recogniser: N x 3 x height x W float32 -> N x steps x classes, the blank first: probabilities or
    `logits`, whose softmax is then computed where it is read. Without a `dictionary` the file's own is taken."""

    dictionary: str | None = None
    space: bool = True  # one more class, behind the dictionary's
    height: Annotated[int, Field(ge=16, le=128)] = 48
    least_width: Annotated[int, Field(ge=16, le=4096)] = 320
    logits: bool = False


class Card(Part):
    """The whole of a model card, checked."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
    detector: Literal["ppocr"] | DetectorFile | DetectorCheckpoint = "ppocr"
    recogniser: Literal["ppocr"] | RecogniserFile = "ppocr"
    orienter: Literal["ppocr", "none", "recogniser"] = "ppocr"


def read(path: Path) -> Card:
    """Raises WeightsError with one line that names every mistake."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WeightsError(f"model card {path}: not YAML: {' '.join(str(error).split())}") from None
    except (OSError, ValueError) as error:  # a path may be none at all
        raise WeightsError(f"model card {path}: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(content, dict):
        raise WeightsError(f"model card {path}: it must be a mapping with name, detector and recogniser")
    try:
        card = Card.model_validate(content)
    except ValidationError as error:
        raise WeightsError(f"model card {path}: {_mistakes(error)}") from None
    if card.name in NAMES:  # what is measured of one would count for the other
        raise WeightsError(f"model card {path}: name: {card.name} is another model's; choose one of its own")
    return card


def load(path: Path, runtime: Runtime) -> Engine:
    """Files are looked for beside the card. Raises WeightsError when one is missing, or not the one described."""
    card = read(path)
    detector = card.detector
    if isinstance(detector, DetectorFile):
        found = _detector(path, detector, runtime)
    elif isinstance(detector, DetectorCheckpoint):
        place = path.parent / expanded(detector.checkpoint)
        found = dbnet.detector(runtime, place, sizing=detector.sizing(), threshold=detector.threshold)
    else:
        found = ppocr.detector(runtime)
    recogniser = card.recogniser
    return Engine(
        model=card.name,
        precision=runtime.precision,
        detector=found,
        orienter=ppocr.orienter(runtime) if card.orienter == "ppocr" else None,
        recogniser=_recogniser(path, recogniser, runtime)
        if isinstance(recogniser, RecogniserFile)
        else ppocr.recogniser(runtime),
        provider=runtime.provider,
        fallback=runtime.fallback,
        on_accelerator=runtime.on_accelerator,
        bounded=not isinstance(detector, DetectorCheckpoint),
        reread=card.orienter == "recogniser",
    )


def _detector(path: Path, described: DetectorFile, runtime: Runtime) -> Detector:
    height, width = described.fixed or (64, 64)
    sample = np.zeros((1, 3, height, width), np.float32)
    session = _opened(path, described, runtime, sample)
    if (shape := session.run(sample).shape) != (1, 1, height, width):
        raise WeightsError(f"model card {path}: {described.file}: a map like {sample.shape} was expected, not {shape}")
    return Detector(
        session,
        sizing=described.sizing(),
        rule=described.rule(),
        table=described.table(),
        rgb=described.channels == "RGB",
    )


def _recogniser(path: Path, described: RecogniserFile, runtime: Runtime) -> Recogniser:
    sample = np.zeros((1, 3, described.height, described.least_width), np.float32)
    session = _opened(path, described, runtime, sample)
    alphabet = ["", *_dictionary(path, described, dict(session.metadata)), *([" "] if described.space else [])]
    shape = session.run(sample).shape
    if len(shape) != 3 or shape[2] != len(alphabet):
        raise WeightsError(
            f"model card {path}: {described.file} answers {shape}, but the dictionary (with the blank"
            f"{' and the space' if described.space else ''}) has {len(alphabet)} classes"
        )
    form = Form(
        height=described.height,
        least_width=described.least_width,
        table=described.table(),
        rgb=described.channels == "RGB",
        logits=described.logits,
    )
    return Recogniser(
        session,
        together=runtime.on_accelerator,
        own_widths=runtime.precision != "fp32",
        alphabet=alphabet,
        form=form,
    )


def _file(path: Path, described: Normalised) -> bytes:
    place = path.parent / expanded(described.file)
    try:
        content = place.read_bytes()
    except (OSError, ValueError) as error:
        raise WeightsError(f"model card {path}: {place}: {getattr(error, 'strerror', None) or error}") from None
    found = hashlib.sha256(content).hexdigest()
    if described.sha256 and found != described.sha256:
        raise WeightsError(f"model card {path}: {place}: its sha256 is {found}, not {described.sha256}")
    return content


def _opened(path: Path, described: Normalised, runtime: Runtime, sample: Floats) -> Session:
    """Subnormal weights are written as zero if the network then answers noise as before, to the last bit."""
    original = _file(path, described)
    try:
        flushed = weights.flushed(original)
        session = runtime.open(flushed, sample)
        if flushed != original:
            noise = np.random.default_rng(0).uniform(-1, 1, sample.shape).astype(np.float32)
            as_it_is = runtime.open(original, sample)
            if not np.array_equal(session.run(noise), as_it_is.run(noise)):
                log.warning("%s: its subnormal weights matter, so they stay: slow on many CPUs", described.file)
                return as_it_is
        return session
    except WeightsError as error:
        raise WeightsError(f"model card {path}: {described.file}: {error}") from None
    except NoAccelerator:
        raise
    except Exception as error:  # noqa: BLE001  each runtime has its own for a file or an input that it cannot take
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise WeightsError(f"model card {path}: {described.file}: {reason}") from None


def _dictionary(path: Path, described: RecogniserFile, metadata: dict[str, str]) -> list[str]:
    if described.dictionary is None:
        if "character" not in metadata:
            raise WeightsError(f"model card {path}: {described.file} holds no dictionary: name one in the card")
        return metadata["character"].splitlines()
    place = path.parent / expanded(described.dictionary)
    try:
        return place.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise WeightsError(f"model card {path}: {place}: {getattr(error, 'strerror', None) or error}") from None


def _mistakes(error: ValidationError) -> str:
    found = {}
    for each in error.errors(include_url=False):
        place = ".".join(str(part) for part in each["loc"] if part not in ("DetectorCheckpoint", "RecogniserFile"))
        found[place.replace("DetectorFile.", "")] = each["msg"]
    return "; ".join(f"{place}: {message}" for place, message in found.items())
