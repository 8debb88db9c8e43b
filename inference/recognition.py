"""What a line says: crops in, text and how sure it is out."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from inference.backends import Floats, Session
from inference.images import Pixels

# Constants are those of rapidocr 3.10 for PP-OCRv6 recognition and the v2.0 orientation classifier.
HEIGHT = 48
LEAST_WIDTH = 320
ROWS = 6  # lines of one image that share a padded width
UPRIGHT_WIDTH = 192
FLIP_ABOVE = 0.9
TURN_ABOVE = 1.5  # height over width

# Ours, for lines at their own width.
WIDTH_STEP = 32  # pixels: a few dozen input shapes in all, for runtimes that make kernels for each
MOST_COLUMNS = 32 * 640  # pixels of width in one batch: what its memory grows with; a longer line is pressed into them
SURE = 0.9  # a score from which a line is taken to stand upright: of lines on their head one in fourteen reaches it

Place = tuple[int, int]
"""A page, and a line on it."""

#: 0-255 -> (x / 255 - 0.5) / 0.5, rounded as the reference rounds it (a true division here, unlike in detection)
SCALED = (np.arange(256, dtype=np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)


@dataclass(frozen=True, slots=True)
class Words:
    """The text of one line and the mean probability of its characters (0 when it is empty)."""

    text: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What a recognition network wants its lines to look like: `height` pixels, padded on the right to `least_width` or
    more, through `table` (256 values, or 1 x 256 x 3 for B, G, R), in the channel order RGB when `rgb`."""

    height: int = HEIGHT
    least_width: int = LEAST_WIDTH
    table: Floats = field(default_factory=lambda: SCALED)
    rgb: bool = False
    logits: bool = False  # the network's answers are not probabilities yet


PPOCR_FORM = Form()


class Orienter:
    """Turns lines that stand on their head."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def upright(self, crops: Sequence[Pixels]) -> list[Pixels]:
        """The same crops in order, those turned by 180 degrees that the network is surer than FLIP_ABOVE about."""
        turned: list[Pixels] = []
        for start in range(0, len(crops), ROWS):
            some = crops[start : start + ROWS]
            upside_down = self._session.run(np.stack([_row(crop, UPRIGHT_WIDTH, PPOCR_FORM) for crop in some]))[:, 1]
            for crop, probability in zip(some, upside_down, strict=True):
                turned.append(_turned(crop) if probability > FLIP_ABOVE else crop)
        return turned


class Recogniser:
    """The recognition network and its alphabet.

    The network's answer depends on how wide its input is padded. By default each line gets the width that it gets in
    the reference: the widest of six neighbours of its page by shape, at least `least_width`. With `own_widths` it gets
    its own, rounded up to WIDTH_STEP: a third less to compute and as true, but one line in fifteen reads another way
    (a mark more or less, mostly), so it goes with a reduced precision, which has that effect anyway.

    `together` runs the lines of all pages that share a width as one batch, which an accelerator wants; on a CPU each
    line alone is up to an eighth faster, because its activations then stay in cache. The text is the same. `alphabet`
    has one entry per class, the blank first; by default it is read from the model file.
    """

    def __init__(
        self,
        session: Session,
        *,
        together: bool,
        own_widths: bool = False,
        alphabet: Sequence[str] | None = None,
        form: Form = PPOCR_FORM,
    ) -> None:
        self._session = session
        self._together = together
        self._own_widths = own_widths
        self._form = form
        self._alphabet = alphabet or ["", *session.metadata["character"].splitlines(), " "]

    def read(self, pages: Sequence[Sequence[Pixels]]) -> list[list[Words]]:
        """The words of each crop of each page, in order."""
        return self._read(pages, [self._widths(crops) for crops in pages])

    def reread(self, pages: Sequence[Sequence[Pixels]]) -> list[list[Words]]:
        """As `read`; a line whose score is below SURE is read on its head too, and the better score counts. Where that
        turns most of a page, its other lines are as well. So no orienter is needed, which turns more upright lines
        than there are others (docs/engine.md)."""
        widths = [self._widths(crops) for crops in pages]
        words = self._read(pages, widths)
        doubted = [[i for i, line in enumerate(page) if line.score < SURE] for page in words]
        turned = self._turn(pages, widths, words, doubted)
        sure = [
            sorted({*range(len(page))}.difference(those)) if 2 * count > len(page) else []
            for page, those, count in zip(words, doubted, turned, strict=True)
        ]
        self._turn(pages, widths, words, sure)
        return words

    def _turn(
        self,
        pages: Sequence[Sequence[Pixels]],
        widths: Sequence[Sequence[int]],
        words: list[list[Words]],
        chosen: Sequence[Sequence[int]],
    ) -> list[int]:
        """Read the chosen lines of each page on their head, put the better words in place, and count those."""
        turned = [[_turned(crops[i]) for i in those] for crops, those in zip(pages, chosen, strict=True)]
        wide = [[page[i] for i in those] for page, those in zip(widths, chosen, strict=True)]
        counts = []
        for page, those, others in zip(words, chosen, self._read(turned, wide), strict=True):
            better = [(i, other) for i, other in zip(those, others, strict=True) if other.score > page[i].score]
            for i, other in better:
                page[i] = other
            counts.append(len(better))
        return counts

    def _read(self, pages: Sequence[Sequence[Pixels]], widths: Sequence[Sequence[int]]) -> list[list[Words]]:
        words = [[Words("", 0.0)] * len(crops) for crops in pages]
        for width, places in _batches(widths):
            rows = [_row(pages[page][i], width, self._form) for page, i in places]
            for (page, i), answer in zip(places, self._run(rows), strict=True):
                words[page][i] = decoded(answer, self._alphabet, logits=self._form.logits)
        return words

    def _widths(self, crops: Sequence[Pixels]) -> list[int]:
        """What each line of a page is padded to, in pixels."""
        ratios = [crop.shape[1] / crop.shape[0] for crop in crops]
        widths = self._own(ratios) if self._own_widths else self._of_neighbours(ratios)
        return [min(width, MOST_COLUMNS) for width in widths]

    def _own(self, ratios: Sequence[float]) -> list[int]:
        return [max(1, math.ceil(self._form.height * ratio / WIDTH_STEP)) * WIDTH_STEP for ratio in ratios]

    def _of_neighbours(self, ratios: Sequence[float]) -> list[int]:
        widths = [0] * len(ratios)
        order = np.argsort(np.array(ratios))
        for start in range(0, len(ratios), ROWS):
            members = [int(i) for i in order[start : start + ROWS]]
            ratio = max(self._form.least_width / self._form.height, *(ratios[i] for i in members))
            for i in members:
                widths[i] = int(self._form.height * ratio)
        return widths

    def _run(self, rows: list[Floats]) -> Iterator[Floats]:
        """An answer per row, one after the other where they are not made together: each takes megabytes."""
        if self._together:
            yield from self._session.run(np.stack(rows))
        else:
            for row in rows:
                yield self._session.run(row[None])[0]


def _batches(widths: Sequence[Sequence[int]]) -> Iterator[tuple[int, list[Place]]]:
    """The lines of all pages by the width they are padded to, bounded by what a batch of them takes."""
    same: dict[int, list[Place]] = defaultdict(list)
    for page, those in enumerate(widths):
        for i, width in enumerate(those):
            same[width].append((page, i))
    for width, places in same.items():
        at_once = max(1, MOST_COLUMNS // width)
        for start in range(0, len(places), at_once):
            yield width, places[start : start + at_once]


def crop(image: Pixels, box: NDArray[np.float32]) -> Pixels:
    """The line inside the box (4 x 2, clockwise), straightened; a column of text is laid on its side."""
    width = int(max(np.linalg.norm(box[0] - box[1]), np.linalg.norm(box[2] - box[3])))
    height = int(max(np.linalg.norm(box[0] - box[3]), np.linalg.norm(box[1] - box[2])))
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    line: Pixels = cv2.warpPerspective(
        image,
        cv2.getPerspectiveTransform(box, corners),
        (width, height),
        borderMode=cv2.BORDER_REPLICATE,
        flags=cv2.INTER_CUBIC,
    )
    return np.ascontiguousarray(np.rot90(line)) if height / width >= TURN_ABOVE else line


def _turned(crop: Pixels) -> Pixels:
    turned: Pixels = cv2.rotate(crop, cv2.ROTATE_180)
    return turned


def decoded(answer: Floats, alphabet: Sequence[str], *, logits: bool = False) -> Words:
    """Greedy CTC over steps x classes: class 0 is the blank, repeats are one character.

    `logits`: the answer is not probabilities yet. Few steps begin a character; the softmax is computed for them alone.
    """
    best = answer.argmax(axis=1)
    kept = best != 0
    kept[1:] &= best[1:] != best[:-1]
    if not kept.any():
        return Words("", 0.0)
    text = "".join(alphabet[i] for i in best[kept])
    sure = answer[kept, best[kept]]
    if logits:  # step by step: each is of thousands of classes, and all of them together would leave the cache
        sure = np.array([1 / np.exp(answer[i] - answer[i, best[i]]).sum() for i in np.flatnonzero(kept)])
    return Words(text, round(float(sure.mean(dtype=np.float64)), 5))


def _row(crop: Pixels, width: int, form: Form) -> Floats:
    """3 x height x width: scaled to the height, padded on the right with zeros, the value of mid-grey."""
    height, across = crop.shape[:2]
    wide = min(width, math.ceil(form.height * (across / height)))
    row = np.zeros((3, form.height, width), np.float32)
    pixels = cv2.LUT(cv2.resize(crop, (wide, form.height)), form.table)
    row[:, :, :wide] = (pixels[:, :, ::-1] if form.rgb else pixels).transpose(2, 0, 1)
    return row
