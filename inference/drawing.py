"""What was found, drawn over the page."""

from collections.abc import Sequence
from io import BytesIO

import cv2
import numpy as np
from PIL import Image

from inference.engine import Line
from inference.images import Pixels

FRAME = (40, 40, 220)  # blue, green, red
PER_PIXEL_OF_PEN = 700  # pixels of the longest side for each pixel of a frame's width
WIDEST_PEN = 64


def drawn(page: Pixels, lines: Sequence[Line]) -> bytes:
    """A PNG of the page with a frame around each line and the line's number, from 1, at its first corner."""
    canvas = page.copy()
    pen = min(WIDEST_PEN, max(1, round(max(page.shape[:2]) / PER_PIXEL_OF_PEN)))
    for number, line in enumerate(lines, start=1):
        corners = np.rint(np.array(line.box)).astype(np.int32)
        cv2.polylines(canvas, [corners], isClosed=True, color=FRAME, thickness=pen, lineType=cv2.LINE_AA)
        place = (int(corners[0, 0]), max(10 * pen, int(corners[0, 1]) - 2 * pen))
        cv2.putText(canvas, str(number), place, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * pen, FRAME, pen, cv2.LINE_AA)
    content = BytesIO()  # not by OpenCV, which writes no PNG of more than a million pixels a side
    Image.fromarray(cv2.cvtColor(canvas, cv2.COLOR_BGR2RGB)).save(content, "PNG", compress_level=1)
    return content.getvalue()
