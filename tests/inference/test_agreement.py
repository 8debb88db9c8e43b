"""The results are those of rapidocr's own loop on photographs, line for line."""

from pathlib import Path

import numpy as np
import pytest
from rapidocr import RapidOCR

from inference import images, runner
from inference.engine import Engine
from tests.inference.agreement import Agreement, compare

LEAST_EQUAL_LINES = 0.999
LEAST_BOX_F1 = 0.995


@pytest.mark.slow
def test_lines_and_boxes_are_those_of_the_reference(engine: Engine, real_images: Path) -> None:
    reference = RapidOCR(params={"Global.log_level": "error"})
    total = Agreement()
    for path in runner.images_in(real_images)[1::8]:
        theirs = reference(path)
        boxes = theirs.boxes if theirs.boxes is not None else []
        expected = [(text, np.asarray(box)) for text, box in zip(theirs.txts or (), boxes, strict=True)]
        read = engine.read([images.decode(path.read_bytes())])[0]
        total += compare(expected, [(line.text, np.array(line.box, np.float32)) for line in read.lines])
    assert total.lines > 100
    assert total.equal_lines >= LEAST_EQUAL_LINES
    assert total.box_f1 >= LEAST_BOX_F1
