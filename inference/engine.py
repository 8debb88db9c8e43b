"""An image in, its lines out: find, cut, turn, read."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from inference import detection
from inference.detection import Boxes, Detector
from inference.images import Pixels
from inference.recognition import Orienter, Recogniser, Words, crop

# How an image is brought within bounds before detection: rapidocr 3.10.
LONGEST_SIDE = 2000
SHORTEST_SIDE = 30
FLATTEST = 8  # width over height; flatter pages get black bars above and below
MAX_GROWN_SIDE = 4096  # ours: a one-pixel line is not grown to a page of gigapixels
LEAST_SCORE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of text. `box` holds its corners (x, y) in pixels of the image, clockwise from its top left."""

    text: str
    score: float
    box: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one image says: its lines in reading order, its size in pixels, and how long its batch took to read."""

    width: int
    height: int
    lines: tuple[Line, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A detector, an orienter and a recogniser, loaded. `read` may be called by several threads at once.

    `bounded` brings images within PP-OCR's bounds before detection; without it the detector sees them as they are.
    `reread` reads lines on their head too where it doubts what they say; without that and without an orienter, lines
    are taken to stand upright.
    """

    model: str
    precision: str
    provider: str
    fallback: str | None
    on_accelerator: bool
    detector: Detector
    orienter: Orienter | None
    recogniser: Recogniser
    bounded: bool = True
    reread: bool = False

    def read(self, images: Sequence[Pixels]) -> list[Reading]:
        """One reading per image, in order. A page without text has no lines; it is not an error."""
        started = time.perf_counter()
        framed = [_Frame.around(image) if self.bounded else _Frame.bare(image) for image in images]
        found = self.detector.find([frame.image for frame in framed])
        crops = [self._crops(frame, boxes) for frame, boxes in zip(framed, found, strict=True)]
        read = self.recogniser.reread(crops) if self.reread else self.recogniser.read(crops)
        lines = [_lines(frame, boxes, words) for frame, boxes, words in zip(framed, found, read, strict=True)]
        seconds = time.perf_counter() - started
        return [
            Reading(width=image.shape[1], height=image.shape[0], lines=those, seconds=seconds)
            for image, those in zip(images, lines, strict=True)
        ]

    def _crops(self, frame: "_Frame", boxes: Boxes) -> list[Pixels]:
        crops = [crop(frame.image, box) for box in boxes]
        return self.orienter.upright(crops) if self.orienter else crops


@dataclass(frozen=True, slots=True)
class _Frame:
    """An image brought within bounds, and the way back."""

    image: Pixels
    bar: int  # rows of black above
    width: int  # of the original
    height: int
    across: float  # original pixels per pixel
    down: float

    @classmethod
    def around(cls, image: Pixels) -> "_Frame":
        height, width = image.shape[:2]
        bounded = _grown(_shrunk(image))
        across, down = width / bounded.shape[1], height / bounded.shape[0]
        bar = _bar(bounded.shape[0], bounded.shape[1])
        if bar:
            bounded = cv2.copyMakeBorder(bounded, bar, bar, 0, 0, cv2.BORDER_CONSTANT, value=(0, 0, 0))
        return cls(bounded, bar, width, height, across, down)

    @classmethod
    def bare(cls, image: Pixels) -> "_Frame":
        height, width = image.shape[:2]
        return cls(image, 0, width, height, 1.0, 1.0)

    def original(self, box: Boxes) -> tuple[tuple[float, float], ...]:
        points = (box - (0, self.bar)) * (self.across, self.down)
        points = np.clip(points, 0, (self.width, self.height)).round(1)
        return tuple((float(x), float(y)) for x, y in points)


def _lines(frame: _Frame, boxes: Boxes, words: Sequence[Words]) -> tuple[Line, ...]:
    return tuple(
        Line(text=word.text, score=word.score, box=frame.original(box))
        for word, box in zip(words, boxes, strict=True)
        if word.text.strip() and word.score >= LEAST_SCORE
    )


def _shrunk(image: Pixels) -> Pixels:
    longest = max(image.shape[:2])
    return _scaled(image, LONGEST_SIDE / longest) if longest > LONGEST_SIDE else image


def _grown(image: Pixels) -> Pixels:
    shortest, longest = sorted(image.shape[:2])
    return (
        _scaled(image, min(SHORTEST_SIDE / shortest, MAX_GROWN_SIDE / longest)) if shortest < SHORTEST_SIDE else image
    )


def _scaled(image: Pixels, ratio: float) -> Pixels:
    height, width = image.shape[:2]
    size = (detection.to_stride(int(width * ratio)), detection.to_stride(int(height * ratio)))
    resized: Pixels = cv2.resize(image, size)
    return resized


def _bar(height: int, width: int) -> int:
    if height > SHORTEST_SIDE and width / height <= FLATTEST:
        return 0
    return int(abs(max(int(width / FLATTEST), SHORTEST_SIDE) * 2 - height) / 2)
