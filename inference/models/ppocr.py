"""PP-OCR as carried by the package rapidocr: detector, recogniser (v6, small) and orientation classifier (v2.0)."""

import numpy as np

from inference.backends import Runtime, Session
from inference.detection import Detector
from inference.engine import Engine
from inference.models import graph, weights
from inference.models.heads import without_softmax
from inference.models.pruning import pruned
from inference.recognition import HEIGHT, LEAST_WIDTH, UPRIGHT_WIDTH, Form, Orienter, Recogniser

NAME = "ppocr"
REREAD = "ppocr-reread"
PACKAGE = "rapidocr"
DETECTOR = ("PP-OCRv6_det_small.onnx", "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f")
RECOGNISER = ("PP-OCRv6_rec_small.onnx", "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884")
ORIENTER = (
    "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
    "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
)

#: as `prepared` leaves the recogniser
FORM = Form(logits=True)


def load(runtime: Runtime, read: Recogniser | None = None, *, reread: bool = False) -> Engine:
    """`read` takes the place of its own recogniser. `reread`: that decides which way up a line stands, where it doubts
    (Recogniser.reread), and there is no orienter. Raises weights.WeightsError when a model file is missing or not the
    one expected."""
    found, turned = detector(runtime), None if reread else orienter(runtime)
    return Engine(
        model=REREAD if reread else NAME,
        precision=runtime.precision,
        provider=runtime.provider,
        fallback=runtime.fallback,
        on_accelerator=runtime.on_accelerator,
        detector=found,
        orienter=turned,
        recogniser=read or recogniser(runtime),
        reread=reread,
    )


def detector(runtime: Runtime) -> Detector:
    """Raises weights.WeightsError."""
    return Detector(_opened(runtime, DETECTOR, 64, 64))


def orienter(runtime: Runtime) -> Orienter:
    """Raises weights.WeightsError."""
    return Orienter(_opened(runtime, ORIENTER, HEIGHT, UPRIGHT_WIDTH))


def recogniser(runtime: Runtime, *, own_widths: bool = False) -> Recogniser:
    """With a reduced precision lines have their own widths anyway. Raises weights.WeightsError."""
    session = _opened(runtime, RECOGNISER, HEIGHT, LEAST_WIDTH)
    own_widths = own_widths or runtime.precision != "fp32"
    return Recogniser(session, together=runtime.on_accelerator, own_widths=own_widths, form=FORM)


def prepared(file: tuple[str, str]) -> bytes:
    """One of the files above as it is run: subnormal weights written as zero, then channels that nobody reads cut, and
    the recogniser's softmax over its 18,710 classes, which `recognition.decoded` computes where a character is.

    Probabilities differ from the file's by 5e-6 at most on pages (measured): sums are added up in another order.
    Raises weights.WeightsError.
    """
    flushed = weights.flushed(weights.read(PACKAGE, *file))
    network, dead = pruned(graph.parsed(flushed))
    network, last = without_softmax(network)
    return graph.serialised(network) if dead or last else flushed


def _opened(runtime: Runtime, file: tuple[str, str], height: int, width: int) -> Session:
    return runtime.open(prepared(file), np.zeros((1, 3, height, width), np.float32))
