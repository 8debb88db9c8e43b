"""From probabilities to text, and from boxes to upright lines."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from inference import images
from inference.backends import Floats, Session
from inference.engine import Engine
from inference.images import Pixels
from inference.models import ppocr
from inference.recognition import MOST_COLUMNS, Recogniser, Words, crop, decoded

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


@pytest.mark.parametrize("offset", [0.0, 500.0], ids=["small", "large"])
def test_logits_are_read_as_their_probabilities_are(offset: float) -> None:
    """Larger ones than float32's exponential takes, too."""
    probabilities = steps(1, 1, 0, 2, 3, 0, 1, certainty=0.7)
    logits = np.log(probabilities) + np.float32(offset)
    assert decoded(logits, ALPHABET, logits=True) == decoded(probabilities, ALPHABET) == Words("甲乙 甲", 0.7)


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


class Noted:
    """A session that notes the shapes it ran."""

    def __init__(self, session: Session) -> None:
        self.session, self.shapes = session, list[tuple[int, ...]]()
        self.metadata = session.metadata

    def run(self, batch: Floats) -> Floats:
        self.shapes.append(batch.shape)
        return self.session.run(batch)


def lines_of(engine: Engine, pages: Path) -> list[list[Pixels]]:
    """The lines on three pages, cut out."""
    decoded_pages = [images.decode((pages / name).read_bytes()) for name in ("nameplate.png", "packaging.png")]
    decoded_pages += [np.full((100, 100, 3), 255, np.uint8), decoded_pages[0][:300]]
    found = engine.detector.find(decoded_pages)
    return [[crop(page, box) for box in boxes] for page, boxes in zip(decoded_pages, found, strict=True)]


def words_alone(recogniser: Recogniser, pages: Sequence[Sequence[Pixels]]) -> list[list[Words]]:
    return [recogniser.read([lines])[0] for lines in pages]


@pytest.mark.parametrize("own_widths", [False, True], ids=["as-the-reference", "own-widths"])
def test_lines_of_several_pages_run_in_common_batches_and_read_as_page_by_page(
    engine: Engine, pages: Path, own_widths: bool
) -> None:
    """What accelerators do, on torch's CPU."""
    pytest.importorskip("torch", reason="torch is not installed: pip install 'halve[torch]'")
    from inference.backends.pytorch import TorchRuntime

    lines = lines_of(engine, pages)
    alone = ppocr.recogniser(TorchRuntime(accelerator="cpu"), own_widths=own_widths)
    noted = Noted(alone._session)
    together = Recogniser(noted, together=True, own_widths=own_widths, form=ppocr.FORM)
    for got, expected in zip(together.read(lines), words_alone(alone, lines), strict=True):
        assert [word.text for word in got] == [word.text for word in expected]
        assert [word.score for word in got] == pytest.approx([word.score for word in expected], abs=1e-4)
    widths = [shape[3] for shape in noted.shapes]
    assert len(widths) == len(set(widths)), "one batch for all that share a width"
    assert max(shape[0] for shape in noted.shapes) > 6 or own_widths
    assert sum(shape[0] for shape in noted.shapes) == sum(map(len, lines))


class Bright:
    """A recogniser's network that is sure of a line that is bright on the left, and guesses at others."""

    def __init__(self, guess: float) -> None:
        self.metadata = {"character": "甲\n乙"}
        self.guess = guess
        self.lines = 0

    def run(self, batch: Floats) -> Floats:
        self.lines += len(batch)
        bright = [line[:, :, 2].mean() > 0 for line in batch]
        return np.stack([steps(1, certainty=0.95) if b else steps(2, certainty=self.guess) for b in bright])


def test_a_line_in_doubt_is_read_on_its_head_too_and_the_surer_reading_counts() -> None:
    upright = np.zeros((48, 320, 3), np.uint8)
    upright[:, :160] = 255
    upside_down, grey = upright[::-1, ::-1].copy(), np.zeros_like(upright)
    network = Bright(guess=0.8)
    recogniser = Recogniser(network, together=False)
    sure, guessed = Words("甲", 0.95), Words("乙", 0.8)
    pages = [[upright, upside_down], [], [grey]]
    assert recogniser.read(pages) == [[sure, guessed], [], [guessed]]
    network.lines = 0
    assert recogniser.reread(pages) == [[sure, sure], [], [guessed]]
    assert network.lines == 3 + 2, "what is sure is read once"


def test_on_a_page_that_stands_on_its_head_the_sure_lines_are_read_both_ways_too() -> None:
    """One line in fourteen on its head is sure of what it says there."""
    bright = np.full((48, 320, 3), 255, np.uint8)
    dim, upside_down = bright.copy(), bright.copy()
    upside_down[:, :160] = 0  # "乙" as it lies, at 0.8; "甲" on its head, at 0.95
    dim[:, 160:] = 0
    network = Bright(guess=0.8)
    recogniser = Recogniser(network, together=False)
    recogniser.reread([[upside_down, upside_down, bright]])
    assert network.lines == 3 + 2 + 1
    network.lines = 0
    recogniser.reread([[upside_down, dim, bright]])
    assert network.lines == 3 + 1, "half of a page is not most of it"


class Nothing:
    """A recogniser's network that sees no character."""

    def __init__(self) -> None:
        self.metadata = {"character": "甲"}

    def run(self, batch: Floats) -> Floats:
        assert batch.shape[0] * batch.shape[3] <= MOST_COLUMNS
        answer = np.zeros((batch.shape[0], batch.shape[3] // 8, 3), np.float32)
        answer[..., 0] = 1
        return answer


@pytest.mark.parametrize("own_widths", [False, True])
def test_a_batch_of_lines_is_bounded(own_widths: bool) -> None:
    """However many lines a page has, and however wide."""
    lines = [np.zeros((48, width, 3), np.uint8) for width in (100, 5000, 30_000)]
    recogniser = Recogniser(Nothing(), together=True, own_widths=own_widths)
    assert recogniser.read([lines * 50, [], lines]) == [[Words("", 0.0)] * 150, [], [Words("", 0.0)] * 3]
