"""From probabilities to text, and from boxes to upright lines."""

import numpy as np
import pytest

from inference.recognition import Words, crop, decoded

ALPHABET = ["", "甲", "乙", " "]


def steps(*classes: int, certainty: float = 0.8) -> np.ndarray:
    probabilities = np.full((len(classes), len(ALPHABET)), (1 - certainty) / (len(ALPHABET) - 1), np.float32)
    probabilities[np.arange(len(classes)), classes] = certainty
    return probabilities


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        pytest.param((1, 2), "甲乙", id="plain"),
        pytest.param((1, 1, 1, 2), "甲乙", id="repeats-are-one"),
        pytest.param((1, 0, 1), "甲甲", id="a-blank-between-makes-two"),
        pytest.param((0, 0, 2, 0), "乙", id="blanks-vanish"),
        pytest.param((1, 3, 2), "甲 乙", id="space"),
    ],
)
def test_decoding(classes: tuple[int, ...], text: str) -> None:
    assert decoded(steps(*classes), ALPHABET) == Words(text, 0.8)


def test_nothing_but_blanks_is_an_empty_line_without_score() -> None:
    assert decoded(steps(0, 0), ALPHABET) == Words("", 0.0)


def test_a_crop_is_the_inside_of_its_box() -> None:
    image = np.zeros((60, 100, 3), np.uint8)
    image[20:40, 30:80] = 200
    line = crop(image, np.array([[30, 20], [80, 20], [80, 40], [30, 40]], np.float32))
    assert line.shape == (20, 50, 3)
    assert line[2:-2, 2:-2].min() == 200


def test_a_column_of_text_is_laid_on_its_side() -> None:
    image = np.zeros((100, 60, 3), np.uint8)
    line = crop(image, np.array([[20, 10], [40, 10], [40, 90], [20, 90]], np.float32))
    assert line.shape == (20, 80, 3)
