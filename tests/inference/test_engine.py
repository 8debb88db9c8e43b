"""The engine reads the rendered pages, in any orientation it promises, and survives any shape."""

import difflib
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from inference import fields, images, models
from inference.agreement import Page, agreement, known_texts
from inference.engine import Engine
from inference.images import Pixels
from inference.values import narrowed
from tests.pages import render

PAGES = [page.name + ".png" for page in render.PAGES]
LEAST_EXACT_LINES = 0.98  # measured: all but one of 92, a 净 that is read as its variant 凈


def same(text: str) -> str:
    """Spaces and widths of brackets do not make a line another one."""
    return re.sub(r"\s", "", narrowed(text))


def test_truth_and_pictures_are_of_the_pages_that_the_renderer_describes(truth: dict[str, Any], pages: Path) -> None:
    assert truth == json.loads(json.dumps(render.truth()))
    for name in PAGES:
        assert (pages / name).stat().st_size < render.MAX_BYTES
    assert "SIL OPEN FONT LICENSE Version 1.1" in (pages / "page-font.LICENSE.txt").read_text(encoding="utf-8")


def test_lines_of_the_pages_are_exact(engine: Engine, truth: dict[str, Any], pages: Path) -> None:
    right = total = 0
    for name, true in truth.items():
        reading = engine.read([images.decode((pages / name).read_bytes())])[0]
        read = [same(line.text) for line in reading.lines]
        matched = difflib.SequenceMatcher(a=[same(text) for text in true["lines"]], b=read, autojunk=False)
        right += sum(block.size for block in matched.get_matching_blocks())
        total += len(true["lines"])
        assert len(read) == len(true["lines"]), name
    assert right / total >= LEAST_EXACT_LINES


@pytest.mark.parametrize("name", PAGES)
def test_fields_of_the_pages_are_exact(engine: Engine, truth: dict[str, Any], pages: Path, name: str) -> None:
    reading = engine.read([images.decode((pages / name).read_bytes())])[0]
    expected = truth[name]["fields"]
    assert fields.extract(reading.lines, tuple(expected)) == expected
    unasked = fields.extract(reading.lines, None)
    assert {key: unasked.get(key) for key in expected} == expected


def test_boxes_lie_around_their_text(engine: Engine, pages: Path) -> None:
    reading = engine.read([images.decode((pages / "contract.png").read_bytes())])[0]
    left, top, height, text = render.CONTRACT.places[2]
    line = next(line for line in reading.lines if line.text == text)
    assert [round(value / 8) for value in line.box[0]] == pytest.approx([left / 8, (top + height * 0.3) / 8], abs=1.2)
    assert (reading.width, reading.height) == render.CONTRACT.size


def test_a_page_on_its_head_is_read(engine: Engine, pages: Path) -> None:
    page = images.decode((pages / "packaging.png").read_bytes())
    upright = {line.text for line in engine.read([page])[0].lines}
    turned = {line.text for line in engine.read([cv2.rotate(page, cv2.ROTATE_180)])[0].lines}
    assert len(upright & turned) >= 0.8 * len(upright)


@pytest.mark.parametrize("turned", [False, True], ids=["upright", "on-its-head"])
def test_more_lines_of_receipts_are_true_when_doubted_ones_are_reread(
    engine: Engine, real_images: Path, turned: bool
) -> None:
    """The classifier turns upright lines, and leaves some that are on their head."""
    reread = models.load("ppocr-reread", accelerator="cpu")
    assert (reread.model, reread.orienter) == ("ppocr-reread", None)
    paths = [real_images / name for name in ("sroie_397.jpg", "sroie_622.jpg")]
    truth, by_classifier, by_rereading = list[Page](), list[Page](), list[Page]()
    for path, known in zip(paths, known_texts(real_images, paths), strict=True):
        page = images.decode(path.read_bytes())
        if turned:
            known = [(text, on_its_head(box, page)) for text, box in known]
            page = cv2.rotate(page, cv2.ROTATE_180)
        truth.append(known)
        for reader, found in ((engine, by_classifier), (reread, by_rereading)):
            found.append([(line.text, line.box) for line in reader.read([page])[0].lines])
    before, after = agreement(truth, by_classifier), agreement(truth, by_rereading)
    assert after[0] > before[0]
    assert after[1] > before[1]


def on_its_head(box: tuple[tuple[float, float], ...], page: Pixels) -> tuple[tuple[float, float], ...]:
    height, width = page.shape[:2]
    return tuple((width - x, height - y) for x, y in box)


def test_several_images_at_once_read_as_one_by_one(engine: Engine, pages: Path) -> None:
    some = [images.decode((pages / name).read_bytes()) for name in ("nameplate.png", "screenshot.png")]
    blank = np.full((50, 70, 3), 255, np.uint8)
    together = engine.read([some[0], blank, some[1]])
    assert [line.text for line in together[0].lines] == [line.text for line in engine.read([some[0]])[0].lines]
    assert together[1].lines == ()
    assert [line.text for line in together[2].lines] == [line.text for line in engine.read([some[1]])[0].lines]


@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (1, 700), (700, 1), (2, 1999), (29, 31), (33, 3000), (2500, 2600)],
)
def test_an_empty_page_of_any_shape_has_no_lines(engine: Engine, height: int, width: int) -> None:
    reading = engine.read([np.full((height, width, 3), 255, np.uint8)])[0]
    assert reading.lines == ()
    assert (reading.width, reading.height) == (width, height)


def test_no_images_no_readings(engine: Engine) -> None:
    assert engine.read([]) == []
