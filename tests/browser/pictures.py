"""The README's pictures: `python -m tests.browser.pictures` draws docs/ui.png and docs/dashboard.png anew.

The first shows a drawn invoice, the second a ledger that the tests made up.
"""

import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser.conftest import ALONE
from tests.inference.replica import replica
from tests.orchestrator.dashboard_ledger import filled

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 1120
COLOURS = 128
WAIT_MS = 240_000


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        options = ["--no-sandbox", *ALONE]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        page = browser.new_page(viewport={"width": WIDTH, "height": 760}, locale="en-US")
        page.set_default_timeout(WAIT_MS)
        reading(page, Path(folder))
        costs(page, Path(folder))
        browser.close()


def reading(page: "Page", folder: Path) -> None:
    """An invoice with its boxes, and the first of its lines and values."""
    with replica(folder, "--workers", "1") as served:
        served.until("ready")
        page.goto(f"{served.announced['url']}/ui/")
        page.wait_for_selector("#halve-read")
        page.set_input_files("#halve-image input[type=file]", ROOT / "tests" / "pages" / "invoice.png")
        page.wait_for_selector(".halve-lines li")
        page.hover(".halve-lines li >> nth=1")
        page.mouse.wheel(0, -5000)
        page.wait_for_function("scrollY === 0")
        saved(page, "ui.png")


def costs(page: "Page", home: Path) -> None:
    """What this month costs, what it saved and why."""
    filled(home).close()
    command = [sys.executable, "-m", "orchestrator", "dashboard", "--listen", "127.0.0.1:0"]
    environment = {**os.environ, "HALVE_HOME": str(home)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().removeprefix("dashboard: ").partition(",")[0]
            page.goto(f"{url}/login")
            page.keyboard.type((home / "dashboard.token").read_text().strip())
            page.keyboard.press("Enter")
            page.wait_for_url("**/now")
            page.goto(f"{url}/costs")
            page.locator(".chart canvas").first.wait_for()
            saved(page, "dashboard.png")
        finally:
            process.terminate()


def saved(page: "Page", name: str) -> None:
    """What is on the screen, in few colours."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(ROOT / "docs" / name, optimize=True)


if __name__ == "__main__":
    main()
