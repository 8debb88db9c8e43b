"""Boxes from probability maps, and sizes that keep within bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.detection import MAX_NETWORK_PIXELS, BoxRule, Sizing, boxes_of
from inference.engine import Engine
from inference.images import MAX_PIXELS

DBNET = Sizing(shorter=736, grow_only=False, round_up=True)


@pytest.mark.parametrize(
    ("sizing", "height", "width", "expected"),
    [
        pytest.param(Sizing(), 736, 736, (736, 736), id="as-it-is"),
        pytest.param(Sizing(), 368, 736, (736, 1472), id="shorter-side-grown"),
        pytest.param(Sizing(), 1000, 2000, (992, 1984), id="never-shrunk-but-rounded"),
        pytest.param(Sizing(), 48, 16, (2208, 736), id="tiny"),
        pytest.param(Sizing(longest=1024), 1000, 2000, (512, 1024), id="longest-side-bounded"),
        pytest.param(DBNET, 1472, 2000, (736, 1024), id="dbnet-shrinks-and-rounds-the-longer-side-up"),
        pytest.param(DBNET, 400, 300, (992, 736), id="dbnet-grows"),
        pytest.param(
            Sizing(shorter=736, grow_only=False, round_up=True, longest=1024), 500, 2000, (256, 1024), id="both"
        ),
        pytest.param(Sizing(fixed=(800, 800)), 123, 4567, (800, 800), id="fixed"),
    ],
)
def test_network_size(sizing: Sizing, height: int, width: int, expected: tuple[int, int]) -> None:
    assert sizing.of(height, width) == expected


@given(st.integers(30, 4096), st.integers(30, 4096))
def test_no_shape_that_the_engine_frames_makes_the_network_input_huge(height: int, width: int) -> None:
    rows, columns = Sizing().of(height, width)
    assert rows % 32 == 0 == columns % 32
    assert rows * columns <= 1.4 * max(MAX_NETWORK_PIXELS, (height + 32) * (width + 32))


@given(st.integers(1, MAX_PIXELS), st.integers(1, MAX_PIXELS), st.booleans())
def test_no_image_that_is_taken_makes_an_unframed_input_huge(long: int, short: int, tall: bool) -> None:
    """A line of fifty million pixels would become an input of 32 x 14,843,424."""
    short = max(1, min(short, MAX_PIXELS // long))
    rows, columns = DBNET.of(*((long, short) if tall else (short, long)))
    assert rows * columns <= 2.1 * MAX_NETWORK_PIXELS, "both sides are rounded up, 33 to 64"


def test_a_bright_bar_is_one_box_around_it_in_the_images_pixels() -> None:
    probability = np.zeros((100, 200), np.float32)
    probability[40:50, 20:180] = 0.9
    (box,) = boxes_of(probability, height=200, width=400)
    left, top = box.min(axis=0)
    right, bottom = box.max(axis=0)
    assert left < 40 < 360 < right
    assert top < 80 < 100 < bottom
    assert box[0].tolist() == [left, top]


def test_a_lower_threshold_finds_what_a_higher_one_leaves_out() -> None:
    probability = np.zeros((100, 200), np.float32)
    probability[40:50, 20:180] = 0.25
    assert len(boxes_of(probability, 100, 200, BoxRule(threshold=0.2, box_threshold=0.2))) == 1
    assert len(boxes_of(probability, 100, 200, BoxRule(threshold=0.2, box_threshold=0.3))) == 0
    assert len(boxes_of(probability, 100, 200, BoxRule(threshold=0.3, box_threshold=0.2))) == 0


@pytest.mark.parametrize("polygons", [False, True])
def test_a_larger_ratio_grows_boxes_more(polygons: bool) -> None:
    probability = np.zeros((100, 200), np.float32)
    probability[40:60, 20:180] = 0.9
    heights = []
    for ratio in (1.0, 1.5, 2.0):
        (box,) = boxes_of(probability, 100, 200, BoxRule(unclip=ratio, polygons=polygons))
        heights.append(box[3, 1] - box[0, 1])
    assert 20 < heights[0] < heights[1] < heights[2] <= 60


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
