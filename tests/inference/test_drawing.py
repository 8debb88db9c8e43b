"""What was found, drawn: whatever shape a page has."""

import numpy as np
import pytest

from inference import drawing, images
from inference.engine import Line


@pytest.mark.parametrize("shape", [(1, 1_100_000), (1_100_000, 1), (1, 24_000_000)])
def test_a_page_of_any_shape_can_be_drawn(shape: tuple[int, int]) -> None:
    """OpenCV writes no PNG of more than a million pixels a side, and no lines thicker than 32,767."""
    line = Line(text="x", score=1.0, box=((0, 0), (1, 0), (1, 1), (0, 1)))
    header = images.header(drawing.drawn(np.zeros((*shape, 3), np.uint8), [line]), max_bytes=1 << 30)
    assert (header.format, header.height, header.width) == ("PNG", *shape)


def test_a_drawing_has_the_colours_of_its_page() -> None:
    page = np.zeros((40, 30, 3), np.uint8)
    page[:, :] = (200, 100, 0)
    assert np.array_equal(images.decode(drawing.drawn(page, [])), page)
