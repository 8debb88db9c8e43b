"""How far two readings of the same image agree: equal lines, and boxes matched by overlap."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Quad = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Sums over images. `lines` are the reference's; `equal` of them have the same text in the best-matching box."""

    lines: int = 0
    equal: int = 0
    ours: int = 0
    matched: int = 0  # boxes with IoU >= 0.9

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(
            self.lines + other.lines, self.equal + other.equal, self.ours + other.ours, self.matched + other.matched
        )

    @property
    def equal_lines(self) -> float:
        return self.equal / self.lines if self.lines else 1.0

    @property
    def box_f1(self) -> float:
        return 2 * self.matched / (self.lines + self.ours) if self.lines + self.ours else 1.0


def compare(reference: Sequence[tuple[str, Quad]], ours: Sequence[tuple[str, Quad]]) -> Agreement:
    """Each line of the reference is matched with the line of ours that overlaps it most."""
    equal = matched = 0
    for text, box in reference:
        overlaps = [iou(box, other) for _, other in ours]
        if overlaps and (best := max(overlaps)) >= 0.5:
            equal += ours[overlaps.index(best)][0] == text
            matched += best >= 0.9
    return Agreement(len(reference), equal, len(ours), matched)


def iou(a: Quad, b: Quad) -> float:
    shared, _ = cv2.intersectConvexConvex(a.astype(np.float32), b.astype(np.float32))
    union = cv2.contourArea(a.astype(np.float32)) + cv2.contourArea(b.astype(np.float32)) - shared
    return float(shared / union) if union else 0.0
