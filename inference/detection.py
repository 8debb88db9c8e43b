"""Where text is: an image in, the corners of its lines out (differentiable binarisation, as PP-OCR was trained)."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pyclipper
from numpy.typing import NDArray

from inference.backends import Floats, Session
from inference.images import Pixels

Boxes = NDArray[np.float32]
"""N x 4 x 2: corners in pixels, clockwise from the top left of the line."""

# Pre- and post-processing constants are those of rapidocr 3.10 for PP-OCRv6 detection.
SHORTEST_SIDE = 736
STRIDE = 32  # the network halves its input five times
MAX_NETWORK_PIXELS = 4_400_000  # ours: just above the largest square page; a tall strip would be grown far beyond
THRESHOLD = 0.3
BOX_THRESHOLD = 0.5
UNCLIP_RATIO = 1.6
MAX_CONTOURS = 1000
MIN_SIDE = 3
LINE_STEP = 10  # pixels between the tops of two lines
DILATION = np.ones((2, 2), np.uint8)

#: 0-255 -> (x / 255 - 0.5) / 0.5, rounded as the reference rounds it
SCALED = (np.arange(256, dtype=np.float32) * np.float32(1 / 255) - np.float32(0.5)) / np.float32(0.5)


class Detector:
    """The detection network and what surrounds it. May be called by several threads at once."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, images: Sequence[Pixels]) -> list[Boxes]:
        """The boxes of each image, in reading order. Images that come to the same input size run as one batch."""
        same_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, image in enumerate(images):
            same_size[network_size(image.shape[0], image.shape[1])].append(i)
        found: dict[int, Boxes] = {}
        for size, members in same_size.items():
            batch = np.stack([_network_input(images[i], size) for i in members])
            maps = self._session.run(batch)
            for i, probability in zip(members, maps[:, 0], strict=True):
                found[i] = boxes_of(probability, images[i].shape[0], images[i].shape[1])
        return [found[i] for i in range(len(images))]


def network_size(height: int, width: int) -> tuple[int, int]:
    """Input height and width: the shorter side grown to 736 (never shrunk), both rounded to multiples of 32."""
    grow = max(1.0, SHORTEST_SIDE / min(height, width))
    grow = min(grow, max(1.0, math.sqrt(MAX_NETWORK_PIXELS / (height * width))))
    return to_stride(int(height * grow)), to_stride(int(width * grow))


def to_stride(length: int) -> int:
    return max(STRIDE, round(length / STRIDE) * STRIDE)


def _network_input(image: Pixels, size: tuple[int, int]) -> Floats:
    height, width = size
    scaled = cv2.LUT(cv2.resize(image, (width, height)), SCALED)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def boxes_of(probability: Floats, height: int, width: int) -> Boxes:
    """Boxes, in an image of that size, from the network's probability map (any size)."""
    bitmap = cv2.dilate((probability > THRESHOLD).astype(np.uint8), DILATION)
    contours, _ = cv2.findContours(bitmap, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    boxes = [_box_of(contour, probability, height, width) for contour in contours[:MAX_CONTOURS]]
    kept = [box for box in boxes if box is not None]
    if not kept:
        return np.zeros((0, 4, 2), np.float32)
    return _in_reading_order(np.stack(kept))


def _box_of(contour: NDArray[Any], probability: Floats, height: int, width: int) -> NDArray[np.float32] | None:
    corners, side = _least_rectangle(contour)
    if side < MIN_SIDE or _mean_inside(probability, corners) < BOX_THRESHOLD:
        return None
    grown = _unclipped(corners)
    if grown is None:
        return None
    corners, side = _least_rectangle(grown)
    if side < MIN_SIDE + 2:
        return None
    mapped = corners / np.array(probability.shape[::-1], np.float32) * np.array([width, height], np.float32)
    box = np.clip(np.round(mapped), 0, (width, height)).astype(np.int32)
    line: NDArray[np.float32] = np.clip(_clockwise(box), 0, (width - 1, height - 1)).astype(np.float32)
    if int(np.linalg.norm(line[0] - line[1])) <= MIN_SIDE or int(np.linalg.norm(line[0] - line[3])) <= MIN_SIDE:
        return None
    return line


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


def _unclipped(corners: NDArray[np.float32]) -> NDArray[np.int64] | None:
    """The polygon moved outwards by area x ratio / perimeter (Liao et al. 2020, "Real-time Scene Text Detection")."""
    points = corners.astype(np.float64)
    following = np.roll(points, -1, axis=0)
    area = abs(float(np.sum(points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0]))) / 2
    perimeter = float(np.linalg.norm(points - following, axis=1).sum())
    offset = pyclipper.PyclipperOffset()
    offset.AddPath(corners, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    paths = offset.Execute(area * UNCLIP_RATIO / perimeter)
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
