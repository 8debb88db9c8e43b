"""The month report in a real browser: at the desk and on a phone, in both languages, light and dark."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.reports.month import MonthReport
from orchestrator.reports.page import html_text
from tests.browser.accessibility import violations
from tests.browser.report_pictures import DESK, LANGUAGES, PHONE, pictured

if TYPE_CHECKING:
    from playwright.sync_api import Page

#: CSS pixels under which words in a plot can hardly be read
SMALLEST = 9.0
#: the height of the smallest word in a plot, as it is drawn
WORDS = "Math.min(...[...document.querySelectorAll('svg text')].map(word => word.getBoundingClientRect().height))"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> MonthReport:
    return pictured(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_it_fits_and_can_be_read(page: "Page", report: MonthReport, language: str, size: tuple[int, int]) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.set_content(html_text(report, language))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page moves sideways"
    assert page.evaluate(WORDS) >= SMALLEST
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert violations(page) == []


def test_its_pictures_are_small_and_stand_in_the_readme() -> None:
    root = Path(__file__).parents[2]
    readme = (root / "README.md").read_text(encoding="utf-8")
    pictures = sorted((root / "docs").glob("report-*.png"))
    assert len(pictures) == 8
    assert all(picture.stat().st_size < 150_000 for picture in pictures)
    assert all(f"docs/{picture.name}" in readme for picture in pictures if "phone" not in picture.stem)
