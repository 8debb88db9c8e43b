"""Boxes from probability maps, and sizes that keep within bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.detection import MAX_NETWORK_PIXELS, boxes_of, network_size
from inference.engine import Engine


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        pytest.param(736, 736, (736, 736), id="as-it-is"),
        pytest.param(368, 736, (736, 1472), id="shorter-side-grown"),
        pytest.param(1000, 2000, (992, 1984), id="never-shrunk-but-rounded"),
        pytest.param(48, 16, (2208, 736), id="tiny"),
    ],
)
def test_network_size(height: int, width: int, expected: tuple[int, int]) -> None:
    assert network_size(height, width) == expected


@given(st.integers(30, 4096), st.integers(30, 4096))
def test_no_shape_that_the_engine_frames_makes_the_network_input_huge(height: int, width: int) -> None:
    rows, columns = network_size(height, width)
    assert rows % 32 == 0 == columns % 32
    assert rows * columns <= 1.4 * max(MAX_NETWORK_PIXELS, (height + 32) * (width + 32))


def test_a_bright_bar_is_one_box_around_it_in_the_images_pixels() -> None:
    probability = np.zeros((100, 200), np.float32)
    probability[40:50, 20:180] = 0.9
    (box,) = boxes_of(probability, height=200, width=400)
    left, top = box.min(axis=0)
    right, bottom = box.max(axis=0)
    assert left < 40 < 360 < right
    assert top < 80 < 100 < bottom
    assert box[0].tolist() == [left, top]


def test_faint_and_tiny_spots_are_no_text() -> None:
    probability = np.zeros((100, 200), np.float32)
    probability[40:50, 20:180] = 0.4
    probability[10:11, 10:11] = 1.0
    assert boxes_of(probability, 100, 200).shape == (0, 4, 2)


def test_reading_order_is_by_line_then_from_the_left() -> None:
    probability = np.zeros((200, 400), np.float32)
    for top, left in ((120, 20), (43, 220), (40, 20), (120, 220)):
        probability[top : top + 12, left : left + 120] = 0.95
    starts = [(round(float(box[0, 0])) < 200, float(box[0, 1]) < 80) for box in boxes_of(probability, 200, 400)]
    assert starts == [(True, True), (False, True), (True, False), (False, False)]


def test_a_batch_finds_what_each_image_alone_has(engine: Engine) -> None:
    rng = np.random.default_rng(3)
    pages = [np.full((300, 400, 3), 255, np.uint8) for _ in range(2)] + [np.full((400, 300, 3), 255, np.uint8)]
    for page in pages:
        page[100:140:4, 50:250] = rng.integers(0, 60)
    together = engine.detector.find(pages)
    alone = [engine.detector.find([page])[0] for page in pages]
    for a, b in zip(together, alone, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max(initial=0) <= 1
