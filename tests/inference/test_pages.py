"""Fields of labelled pages: those that run over several lines, and those that were scanned badly.

python -m tests.inference.test_pages            prints the rates, one row a scan
python -m tests.inference.test_pages --wrong    and what was read instead
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from inference import fields, images, models
from inference.engine import Engine
from inference.images import Pixels
from tests.inference.conftest import PAGES
from tests.pages import render
from tests.pages.render import Page, Place


def wrapped(left: int, top: int, height: int, step: int, columns: int, text: str, first: str = "") -> list[Place]:
    """Text in lines as wide as so many Chinese characters; `first` stands before it in the first line."""
    lines, width = [""], 0.0
    for character in first + text:
        width += 0.6 if character.isascii() else 1
        if width > columns:
            lines, width = [*lines, ""], 1.0
        lines[-1] += character
    return [(left, top + step * i, height, line) for i, line in enumerate(lines)]


BUYER = "云帆示例科技有限公司内蒙古呼和浩特办公设备采购协商合同生效采购贸易有限公司"
GOODS = (
    "激光打印机及墨粉盒，型号HL-2270DW及TN-450，规格见附件，"
    "货物于合同生效后送达甲方指定地点，甲方验收合格，货款于验收后付清"
)
PLACE = "内蒙古呼和浩特示例乳业有限公司办公地点草原常温避光保存开启后请冷藏"

LETTER = Page(
    name="letter",
    size=(900, 760),
    paper="#ffffff",
    ink="#111111",
    places=(
        (350, 40, 40, "采购合同"),
        (560, 115, 22, "合同编号：HT-2026-0318"),
        *wrapped(70, 165, 24, 36, 31, BUYER, "甲方："),
        (70, 260, 24, "乙方：青禾示例贸易有限公司"),
        *wrapped(70, 305, 24, 36, 31, GOODS, "货物名称："),
        (70, 430, 22, "第一条　甲方向乙方采购激光打印机及墨粉盒，规格见附件。"),
        (70, 515, 24, "合同金额：人民币¥86,500.00元"),
        (70, 560, 24, "签订日期：2026年3月18日"),
    ),
    fields={
        "合同编号": "HT-2026-0318",
        "甲方": BUYER,
        "乙方": "青禾示例贸易有限公司",
        "货物名称": GOODS,
        "合同金额": "86500.00",
        "签订日期": "2026-03-18",
    },
)

FORM = Page(
    name="form",
    size=(800, 620),
    paper="#f7f7f7",
    ink="#222222",
    places=(
        (60, 60, 26, "名称"),
        (230, 60, 26, "全脂纯牛奶"),
        (60, 125, 26, "生产商"),
        *wrapped(230, 125, 26, 38, 15, PLACE),
        (60, 260, 26, "生产日期"),
        (230, 260, 26, "2026/03/18"),
        (60, 325, 26, "配料："),
        *wrapped(230, 325, 26, 38, 12, "生牛乳草原牛奶面包对订单有疑惑开启后请冷藏"),
        (60, 425, 26, "净含量"),
        (230, 425, 26, "250 mL"),
    ),
    fields={
        "名称": "全脂纯牛奶",
        "生产商": PLACE,
        "生产日期": "2026-03-18",
        "配料": "生牛乳草原牛奶面包对订单有疑惑开启后请冷藏",
        "净含量": "250 mL",
    },
)

Change = Callable[[Pixels], Pixels]


def turned(degrees: float) -> Change:
    def change(page: Pixels) -> Pixels:
        height, width = page.shape[:2]
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
        cosine, sine = abs(matrix[0, 0]), abs(matrix[0, 1])
        size = (int(height * sine + width * cosine), int(height * cosine + width * sine))
        matrix[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
        return np.asarray(cv2.warpAffine(page, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))

    return change


def blurred(sigma: float) -> Change:
    return lambda page: cv2.GaussianBlur(page, (0, 0), sigma)


def noisy(deviation: float) -> Change:
    def change(page: Pixels) -> Pixels:
        grain = np.random.default_rng(1).normal(0, deviation, page.shape)
        return np.clip(page + grain, 0, 255).astype(np.uint8)

    return change


def jpeg(quality: int) -> Change:
    return lambda page: images.decode(cv2.imencode(".jpg", page, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())


#: name -> (what happened to the page, least share of fields that must be right; the shares measured are in brackets)
SCANS: dict[str, tuple[Change, float]] = {
    "clean": (lambda page: page, 0.95),
    "turned by 2": (turned(2), 0.95),
    "turned by -7": (turned(-7), 0.95),
    "on its side": (lambda page: cv2.rotate(page, cv2.ROTATE_90_CLOCKWISE), 0.95),
    "on its head": (lambda page: cv2.rotate(page, cv2.ROTATE_180), 0.95),
    "blurred": (blurred(1.6), 0.9),
    "noisy": (noisy(45), 0.85),
    "blurred and turned by 5": (lambda page: blurred(1.2)(turned(5)(page)), 0.9),
    "half the size": (lambda page: cv2.resize(page, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), 0.85),
    "jpeg 15": (jpeg(15), 0.9),
}


def labelled(pages: Path, truth: Mapping[str, Any]) -> list[tuple[Pixels, dict[str, str]]]:
    kept = [(images.decode((pages / name).read_bytes()), page["fields"]) for name, page in truth.items()]
    return kept + [(images.decode(render.drawn(page)), page.fields) for page in (LETTER, FORM)]


@dataclass
class Rates:
    """How many fields are exactly right, asked for by name and found unasked; and what was read where they are not."""

    total: int = 0
    asked: int = 0
    unasked: int = 0
    wrong: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, engine: Engine, documents: list[tuple[Pixels, dict[str, str]]], change: Change) -> "Rates":
        rates = cls()
        for page, expected in documents:
            lines = engine.read([change(page)])[0].lines
            asked, unasked = fields.extract(lines, tuple(expected)), fields.extract(lines, None)
            rates.total += len(expected)
            rates.asked += sum(asked[name] == value for name, value in expected.items())
            rates.unasked += sum(unasked.get(name) == value for name, value in expected.items())
            rates.wrong += [f"{n}: {asked[n]!r}, not {value!r}" for n, value in expected.items() if asked[n] != value]
        return rates


@pytest.mark.parametrize("page", [LETTER, FORM], ids=lambda page: page.name)
def test_values_that_run_over_several_lines_are_whole(engine: Engine, page: Page) -> None:
    assert set("".join(text for *_, text in page.places)) <= {c for p in render.PAGES for *_, t in p.places for c in t}
    lines = engine.read([images.decode(render.drawn(page))])[0].lines
    assert fields.extract(lines, tuple(page.fields)) == page.fields


@pytest.mark.slow
@pytest.mark.parametrize("scan", SCANS)
def test_fields_of_scans(engine: Engine, truth: Mapping[str, Any], pages: Path, scan: str) -> None:
    change, least = SCANS[scan]
    rates = Rates.of(engine, labelled(pages, truth), change)
    assert rates.asked / rates.total >= least, rates.wrong


def main() -> None:
    engine = models.load(accelerator="cpu")
    documents = labelled(PAGES, json.loads((PAGES / "truth.json").read_text(encoding="utf-8")))
    print(f"{len(documents)} documents, {sum(len(expected) for _, expected in documents)} fields")
    print(f"{'scan':22} {'asked for':>9} {'unasked':>8}")
    for name, (change, _) in SCANS.items():
        rates = Rates.of(engine, documents, change)
        print(f"{name:22} {rates.asked / rates.total:9.1%} {rates.unasked / rates.total:8.1%}", flush=True)
        if "--wrong" in sys.argv:
            print(*(f"    {line}" for line in rates.wrong), sep="\n", flush=True)


if __name__ == "__main__":
    main()
