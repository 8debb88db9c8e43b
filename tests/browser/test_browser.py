"""The browser itself: that the tests of pages would see what they look for."""

from typing import TYPE_CHECKING

from tests.browser.accessibility import violations
from tests.browser.conftest import failures
from tests.orchestrator.tiny import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

GOOD = "<!doctype html><html lang=en><title>t</title><main><h1>A page</h1><p>Words.</p></main>"
BAD = "<!doctype html><html><title>t</title><main><h1>A page</h1><img src='data:,'><button></button></main>"


def test_what_a_page_wants_from_elsewhere_fails_and_is_seen(browser: "Browser") -> None:
    """Fonts, scripts and counters of other hosts: there is no network for them, whatever this machine has."""
    context = browser.new_context()
    context.set_default_timeout(60_000)
    page = context.new_page()
    failed = failures(page)
    page.set_content("<img src='http://cdn.example/a.png'><script src='https://198.51.100.7/s.js' async></script>")
    until(lambda: page.evaluate("true") and len(failed) == 2)
    context.close()
    reason = "net::ERR_NAME_NOT_RESOLVED"
    assert sorted(failed) == [f"http://cdn.example/a.png: {reason}", f"https://198.51.100.7/s.js: {reason}"]


def test_axe_finds_what_is_wrong(page: "Page") -> None:
    page.set_content(GOOD)
    assert violations(page) == []
    page.set_content(BAD)
    assert {line.partition(":")[0] for line in violations(page)} >= {"html-has-lang", "image-alt", "button-name"}
