"""Where text is: an image in, the corners of its lines out (differentiable binarisation, as PP-OCR was trained)."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyclipper
from numpy.typing import NDArray

from inference.backends import Floats, Session
from inference.images import Pixels

Boxes = NDArray[np.float32]
"""N x 4 x 2: corners in pixels, clockwise from the top left of the line."""

STRIDE = 32  # the network halves its input five times
MAX_NETWORK_PIXELS = 4_400_000  # ours: just above the largest square page; a tall strip would be grown far beyond
LINE_STEP = 10  # pixels between the tops of two lines
DILATION = np.ones((2, 2), np.uint8)
SLACK = 2  # a grown box must be this much larger than MIN_SIDE, in both references

#: 0-255 -> (x / 255 - 0.5) / 0.5, rounded as the reference rounds it
SCALED = (np.arange(256, dtype=np.float32) * np.float32(1 / 255) - np.float32(0.5)) / np.float32(0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """How large the network's input is, in multiples of 32.

    `shorter` is what the shorter side is brought to; with `grow_only` larger images keep their size. `longest` bounds
    the longer side afterwards. `fixed` (height, width) stretches every image to one size instead.
    """

    shorter: int = 736
    grow_only: bool = True
    round_up: bool = False  # the longer side; else to the nearest
    longest: int | None = None
    fixed: tuple[int, int] | None = None

    def of(self, height: int, width: int) -> tuple[int, int]:
        """Input height and width for an image of that size."""
        if self.fixed:
            return to_stride(self.fixed[0]), to_stride(self.fixed[1])
        scale = self.shorter / min(height, width)
        if self.grow_only:
            scale = max(1.0, scale)
        if self.longest:
            scale = min(scale, self.longest / max(height, width))
        most = math.sqrt(MAX_NETWORK_PIXELS / (height * width))
        if min(height, width) * most < STRIDE:  # what the shorter side has at least
            most = MAX_NETWORK_PIXELS / STRIDE / max(height, width)
        scale = min(scale, max(1.0 if self.grow_only else 0.0, most))
        if not self.round_up:
            return to_stride(int(height * scale)), to_stride(int(width * scale))
        sizes = [max(STRIDE, math.ceil(length * scale / STRIDE - 1e-9) * STRIDE) for length in (height, width)]
        return sizes[0], sizes[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxRule:
    """How a probability map becomes boxes. `box_threshold` bounds the mean probability inside; `unclip` is the ratio by
    which a box is grown back, for training shrank it; `polygons` grows the contour's outline, not its rectangle."""

    threshold: float = 0.3
    box_threshold: float = 0.5
    unclip: float = 1.6
    most: int = 1000  # contours
    least_side: int = 3
    dilated: bool = True
    polygons: bool = False
    epsilon: float = 0.01  # of a contour's length: how closely a polygon follows it


#: those of rapidocr 3.10 for PP-OCRv6 detection
PPOCR_SIZING = Sizing()
PPOCR_BOXES = BoxRule()


class Detector:
    """The detection network and what surrounds it. May be called by several threads at once.

    `table` maps a pixel's 0-255 to the network's input: 256 values, or 1 x 256 x 3 for values per channel (B, G, R).
    """

    def __init__(
        self,
        session: Session,
        *,
        sizing: Sizing = PPOCR_SIZING,
        rule: BoxRule = PPOCR_BOXES,
        table: Floats = SCALED,
        rgb: bool = False,
    ) -> None:
        self._session = session
        self._sizing = sizing
        self._rule = rule
        self._table = table
        self._rgb = rgb

    def find(self, images: Sequence[Pixels]) -> list[Boxes]:
        """The boxes of each image, in reading order. Images that come to the same input size run as one batch."""
        same_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, image in enumerate(images):
            same_size[self._sizing.of(image.shape[0], image.shape[1])].append(i)
        found: dict[int, Boxes] = {}
        for size, members in same_size.items():
            batch = np.stack([self._input(images[i], size) for i in members])
            maps = self._session.run(batch)
            for i, probability in zip(members, maps[:, 0], strict=True):
                found[i] = boxes_of(probability, images[i].shape[0], images[i].shape[1], self._rule)
        return [found[i] for i in range(len(images))]

    def _input(self, image: Pixels, size: tuple[int, int]) -> Floats:
        height, width = size
        scaled = cv2.LUT(cv2.resize(image, (width, height)), self._table)
        return np.ascontiguousarray((scaled[:, :, ::-1] if self._rgb else scaled).transpose(2, 0, 1))


def to_stride(length: int) -> int:
    """Pixels rounded to the nearest multiple of STRIDE (half to even, as the reference does), at least one STRIDE."""
    return max(STRIDE, round(length / STRIDE) * STRIDE)


def boxes_of(probability: Floats, height: int, width: int, rule: BoxRule = PPOCR_BOXES) -> Boxes:
    """Boxes, in an image of that size, from the network's probability map (any size)."""
    bitmap = (probability > rule.threshold).astype(np.uint8)
    if rule.dilated:
        bitmap = cv2.dilate(bitmap, DILATION)
    contours, _ = cv2.findContours(bitmap, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    boxes = [_box_of(contour, probability, height, width, rule) for contour in contours[: rule.most]]
    kept = [box for box in boxes if box is not None]
    if not kept:
        return np.zeros((0, 4, 2), np.float32)
    return _in_reading_order(np.stack(kept))


def _box_of(
    contour: NDArray[Any], probability: Floats, height: int, width: int, rule: BoxRule
) -> NDArray[np.float32] | None:
    outline = _polygon(contour, rule) if rule.polygons else _rectangle(contour, rule)
    if outline is None or _mean_inside(probability, outline) < rule.box_threshold:
        return None
    grown = _unclipped(outline, rule.unclip)
    if grown is None:
        return None
    corners, side = _least_rectangle(grown)
    if side < rule.least_side + SLACK:
        return None
    mapped = corners / np.array(probability.shape[::-1], np.float32) * np.array([width, height], np.float32)
    box = np.clip(np.round(mapped), 0, (width, height)).astype(np.int32)
    line: NDArray[np.float32] = np.clip(_clockwise(box), 0, (width - 1, height - 1)).astype(np.float32)
    if min(int(np.linalg.norm(line[0] - line[1])), int(np.linalg.norm(line[0] - line[3]))) <= rule.least_side:
        return None
    return line


def _rectangle(contour: NDArray[Any], rule: BoxRule) -> NDArray[np.float32] | None:
    corners, side = _least_rectangle(contour)
    return corners if side >= rule.least_side else None


def _polygon(contour: NDArray[Any], rule: BoxRule) -> NDArray[np.float32] | None:
    outline = cv2.approxPolyDP(contour, rule.epsilon * cv2.arcLength(contour, True), True).reshape(-1, 2)
    return outline.astype(np.float32) if len(outline) >= 4 else None


def _least_rectangle(points: NDArray[Any]) -> tuple[NDArray[np.float32], float]:
    """Corners of the smallest rectangle around the points, clockwise from the top left, and its shorter side."""
    rectangle = cv2.minAreaRect(points)
    corners = sorted(cv2.boxPoints(rectangle), key=lambda corner: float(corner[0]))
    left = sorted(corners[:2], key=lambda corner: float(corner[1]))
    right = sorted(corners[2:], key=lambda corner: float(corner[1]))
    return np.array([left[0], right[0], right[1], left[1]]), float(min(rectangle[1]))


def _mean_inside(probability: Floats, corners: NDArray[np.float32]) -> float:
    height, width = probability.shape
    low = np.clip(np.floor(corners.min(axis=0)).astype(np.int32), 0, (width - 1, height - 1))
    high = np.clip(np.ceil(corners.max(axis=0)).astype(np.int32), 0, (width - 1, height - 1))
    mask = np.zeros((high[1] - low[1] + 1, high[0] - low[0] + 1), np.uint8)
    cv2.fillPoly(mask, [(corners - low).astype(np.int32)], 1)
    return float(cv2.mean(probability[low[1] : high[1] + 1, low[0] : high[0] + 1], mask)[0])


def _unclipped(corners: NDArray[np.float32], ratio: float) -> NDArray[np.int64] | None:
    """The polygon moved outwards by area x ratio / perimeter (Liao et al. 2020, "Real-time Scene Text Detection")."""
    points = corners.astype(np.float64)
    following = np.roll(points, -1, axis=0)
    area = abs(float(np.sum(points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0]))) / 2
    perimeter = float(np.linalg.norm(points - following, axis=1).sum())
    offset = pyclipper.PyclipperOffset()
    offset.AddPath(corners, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    paths = offset.Execute(area * ratio / perimeter)
    return np.array(paths[0]).reshape(-1, 1, 2) if len(paths) == 1 else None


def _clockwise(box: NDArray[np.int32]) -> NDArray[np.float32]:
    """Top left, top right, bottom right, bottom left; the two leftmost corners decide."""
    by_x = box[np.argsort(box[:, 0])]
    left, right = by_x[:2], by_x[2:]
    top_left, bottom_left = left[np.argsort(left[:, 1])]
    top_right, bottom_right = right[np.argsort(right[:, 1])]
    return np.array([top_left, top_right, bottom_right, bottom_left], np.float32)


def _in_reading_order(boxes: Boxes) -> Boxes:
    """By line from the top, by x within a line; a line ends where the next top is LINE_STEP lower."""
    boxes = boxes[np.argsort(boxes[:, 0, 1], kind="stable")]
    line = np.concatenate([[0], np.cumsum(np.diff(boxes[:, 0, 1]) >= LINE_STEP)])
    return boxes[np.lexsort((boxes[:, 0, 0], line))]
