"""What the page says in Chinese when an image is not read."""

import re
from pathlib import Path

import pytest

from inference import images
from inference.images import BadImage
from inference.refusals import Refusal
from inference.ui import picture
from inference.ui.refusals import CHINESE, told
from tests.inference.files import RED, encoded, png_claiming

WHOLE = encoded(RED)
RED_BROKEN = WHOLE[:45] + bytes(len(WHOLE) - 60) + WHOLE[-15:]
LIMITS = {"max_bytes": 100_000, "max_pixels": 10_000}


@pytest.mark.parametrize(
    ("content", "chinese"),
    [
        (b"", "空文件"),
        (b"x" * 100_001, "100,001 字节；最多 100,000"),
        (b"no image", "不是图片：可识别 PNG, JPEG, WebP, BMP, GIF, TIFF and PNM"),
        (png_claiming(200, 100), "200 × 100 像素；总数最多 10,000"),
    ],
    ids=["empty", "large", "text", "pixels"],
)
def test_an_image_that_is_refused_is_so_in_chinese(content: bytes, chinese: str) -> None:
    with pytest.raises(BadImage) as bad:
        images.decode(content, **LIMITS)
    assert told(bad.value.reason, "zh") == chinese
    assert told(bad.value.reason, "en") == bad.value.reason
    assert told(f"a: b.png: {bad.value.reason}", "zh") == f"a: b.png: {chinese}"


def test_a_damaged_image_says_what_is_damaged() -> None:
    with pytest.raises(BadImage) as bad:
        images.decode(RED_BROKEN, **LIMITS)
    assert told(bad.value.reason, "zh").startswith("PNG 图片已损坏："), bad.value.reason


def test_the_page_and_the_batch_say_it_alike() -> None:
    refusal = Refusal(429, "the queue is full", 3)
    assert picture.refused(refusal, "zh") == (
        '<p class="halve-refused" role="alert"><strong>繁忙，请 3 秒后再试</strong> 队列已满</p>'
    )
    assert picture.in_words(refusal, "zh") == "繁忙，请 3 秒后再试（队列已满）"
    assert picture.in_words(refusal, "en") == "the queue is full"
    unknown = Refusal(400, "something {new}")
    assert "something {new}" in picture.refused(unknown, "zh")


def test_every_reason_that_is_translated_is_one_that_is_given() -> None:
    """Word for word somewhere, so that a changed reason does not stay English unseen."""
    folder = Path(images.__file__).parent
    written = " ".join(
        file.read_text(encoding="utf-8")
        for file in folder.rglob("*.py")
        if file.name != "refusals.py" or file.parent == folder
    )
    for english in CHINESE:
        assert max(re.split(r"{\w+}", english), key=len).strip(" :;,") in written, english
