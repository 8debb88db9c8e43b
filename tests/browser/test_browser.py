"""The browser itself: that the tests of pages would see what they look for."""

from typing import TYPE_CHECKING

from tests.browser.accessibility import violations

if TYPE_CHECKING:
    from playwright.sync_api import Page

GOOD = "<!doctype html><html lang=en><title>t</title><main><h1>A page</h1><p>Words.</p></main>"
BAD = "<!doctype html><html><title>t</title><main><h1>A page</h1><img src='data:,'><button></button></main>"


def test_axe_finds_what_is_wrong(page: "Page") -> None:
    page.set_content(GOOD)
    assert violations(page) == []
    page.set_content(BAD)
    assert {line.partition(":")[0] for line in violations(page)} >= {"html-has-lang", "image-alt", "button-name"}
