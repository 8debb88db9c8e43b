"""A real Chromium for the tests of pages: Debian's, headless, driven by Playwright."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request

HERE = Path(__file__).parent
#: no name but those of this machine leads anywhere, so a page that wants more fails as it does without a network
ALONE = ("--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost")
#: what a page gave up itself: it was left while a stream was open, or a download took its place
GIVEN_UP = "net::ERR_ABORTED"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them one after the other in one worker: a browser takes more than a test runner's share of a machine."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.xdist_group("browser"))


@pytest.fixture(scope="package")
def browser() -> "Iterator[Browser]":
    """One browser for all pages. It ends with the package: Playwright keeps an event loop for as long as it lives."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install 'halve[dev]'")
    with sync_api.sync_playwright() as playwright:
        # without its sandbox it runs as root too; it is shown our own pages alone
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *ALONE], timeout=180_000)
        yield opened
        opened.close()


def failures(page: "Page") -> list[str]:
    """Of the requests of a page those that failed from now on, with the reason."""
    found: list[str] = []

    def heard(request: "Request") -> None:
        if request.failure != GIVEN_UP:
            found.append(f"{request.url}: {request.failure}")

    page.on("requestfailed", heard)
    return found


@pytest.fixture
def page(browser: "Browser") -> "Iterator[Page]":
    """A page of 1280 x 800 in a context of its own. It fails a test whose page complained in the console, asked for
    anything beyond this machine, or for anything in vain.
    """
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-US")
    context.set_default_timeout(60_000)
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    abroad: list[str] = []
    near = ("http://127.0.0.1:", "http://localhost:", "ws://127.0.0.1:", "data:", "blob:")
    opened.on("request", lambda asked: None if asked.url.startswith(near) else abroad.append(asked.url))
    failed = failures(opened)
    yield opened
    context.close()
    assert failed == []
    assert complaints == []
    assert abroad == []
