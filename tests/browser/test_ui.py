"""The page at /ui as people use it: in a browser, at a desk and on a phone, in English and in Chinese, by keyboard."""

import base64
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from inference.ui import installed
from orchestrator.door import Door, ServingSet
from orchestrator.door import Replica as Behind
from tests.browser.accessibility import violations
from tests.browser.conftest import failures
from tests.inference.files import png_claiming
from tests.inference.replica import Replica, replica
from tests.orchestrator.tiny import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.skipif(not installed(), reason="gradio is not installed: pip install 'halve[ui]'")

PAGES = Path(__file__).resolve().parents[1] / "pages"
DESK, PHONE = {"width": 1280, "height": 850}, {"width": 390, "height": 844}
LONG_MS = 240_000  # reading, on a machine that does much else
WORKSHOP_MS = 400_000  # what gives way to everything else

#: what Gradio's own script warns of whenever one of its streams ends; nothing of ours
GRADIO_WARNS = ("Method not implemented.",)
#: what axe holds against Gradio's own buttons: an aria-label that does not repeat the words shown in the drop zone and
#: in the gallery, and the file list's upload button, which is a button within one
GRADIO_VIOLATES = (
    ("label-content-name-mismatch", "upload-container"),
    ("label-content-name-mismatch", "thumbnail-item"),
    ("nested-interactive", 'aria-label="common.upload"'),
)

Visit = Callable[..., "Page"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    with replica(tmp_path_factory.mktemp("ui"), "--workers", "2") as running:
        running.until("ready")
        yield running


@pytest.fixture
def visit(browser: "Browser", served: Replica) -> Iterator[Visit]:
    """Opens the page. Fails a test whose page complained in the console, or asked any other host, or in vain."""
    complaints: list[str] = []
    asked: list[str] = []
    failed: list[list[str]] = []
    contexts = []

    def visited(
        size: dict[str, int] = DESK, locale: str = "en-US", url: str = served.announced["url"], scheme: str = "light"
    ) -> "Page":
        context = browser.new_context(viewport=size, locale=locale, color_scheme=scheme, accept_downloads=True)
        contexts.append(context)
        context.set_default_timeout(LONG_MS)
        page = context.new_page()
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda one: asked.append(one.url) if not one.url.startswith((url, "data:")) else None)
        failed.append(failures(page))
        page.goto(f"{url}/ui/")
        page.wait_for_selector("#halve-read")
        return page

    yield visited
    for context in contexts:
        context.close()
    assert [line for line in complaints if line not in GRADIO_WARNS] == []
    assert asked == []
    assert [line for one in failed for line in one] == []


def ours(page: "Page") -> list[str]:
    """The violations that are not Gradio's own."""
    return [
        line
        for line in violations(page)
        if not any(line.startswith(rule) and part in line for rule, part in GRADIO_VIOLATES)
    ]


def read(page: "Page", file: Path | dict[str, Any]) -> list[str]:
    page.set_input_files("#halve-image input[type=file]", file)
    page.wait_for_selector(".halve-lines li")
    return texts(page)


def texts(page: "Page") -> list[str]:
    return page.locator(".halve-lines li:not([hidden]) .halve-text").all_inner_texts()


def again(page: "Page") -> None:
    """Read once more, and wait for what comes of it."""
    page.evaluate("document.querySelector('.halve-page').dataset.old = 1")
    page.click("#halve-read")
    page.wait_for_selector(".halve-page:not([data-old])")


def values(page: "Page") -> dict[str, str]:
    rows = page.locator(".halve-values tr").all()
    return {row.locator("th").inner_text(): row.locator("td").inner_text() for row in rows}


def known(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((PAGES / "truth.json").read_text(encoding="utf-8"))[name]
    return found


def test_an_image_becomes_boxes_lines_values_and_json(visit: Visit, tmp_path: Path) -> None:
    page = visit()
    assert page.locator(".halve-waiting p:visible").all_inner_texts() == ["The text appears here, with its boxes."]
    assert ours(page) == []
    lines = read(page, PAGES / "invoice.png")
    assert "增值税电子普通发票" in lines
    assert page.locator(".halve-picture polygon").count() == len(lines)
    assert values(page).items() >= known("invoice.png")["fields"].items()

    # the boxes lie on the picture: their corners, on the screen, within it, and the first where the title is
    picture, first = (
        page.locator(one).bounding_box() for one in (".halve-picture img", ".halve-picture polygon >> nth=0")
    )
    assert picture and first
    assert 0.3 < (first["x"] - picture["x"]) / picture["width"] < 0.4
    assert 0.03 < (first["y"] - picture["y"]) / picture["height"] < 0.12

    # a line and its box light up together
    page.hover(".halve-lines li >> nth=0")
    assert page.locator(".halve-picture polygon.lit").count() == 1
    page.mouse.move(0, 0)
    assert page.locator(".lit").count() == 0

    page.screenshot(path=tmp_path / "desk.png", full_page=True)
    assert ours(page) == []
    page.get_by_role("button", name="JSON").click()
    until(lambda: "original_filename" in page.locator("#halve-json").inner_text())


def test_fields_a_sentence_and_the_least_confidence_narrow_what_is_shown(visit: Visit) -> None:
    page = visit()
    read(page, PAGES / "contract.png")
    page.get_by_label("Values wanted").first.fill("甲方,签订日期,仓库")
    again(page)
    found = {name: known("contract.png")["fields"][name] for name in ("甲方", "签订日期")}
    assert values(page) == {**found, "仓库": "not found"}
    page.get_by_label("Values wanted").first.fill("")
    page.get_by_label("… or in a sentence").first.fill("请只识别图片中‘乙方’")
    again(page)
    assert values(page) == {"乙方": known("contract.png")["fields"]["乙方"]}

    scores = page.locator(".halve-lines li").evaluate_all("all => all.map(one => Number(one.dataset.score))")
    least = sorted(scores)[len(scores) // 2]
    page.locator("#halve-threshold input[type=number]").fill(f"{least:.2f}")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('.halve-lines li[hidden]').length > 0")
    kept = sum(score >= round(least, 2) for score in scores)
    assert len(texts(page)) == page.locator(".halve-picture polygon:not([hidden])").count() == kept


def test_an_image_is_pasted(visit: Visit) -> None:
    page = visit()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async (content) => {
            const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
            const image = new Blob([bytes], { type: "image/png" });
            await navigator.clipboard.write([new ClipboardItem({ "image/png": image })]);
        }""",
        base64.b64encode((PAGES / "nameplate.png").read_bytes()).decode(),
    )
    page.click("#halve-image [aria-label='Paste from clipboard']")
    page.wait_for_selector(".halve-lines li")
    assert "三相异步电动机" in texts(page)


def test_a_refusal_is_one_line_and_the_next_image_is_read(visit: Visit) -> None:
    page = visit()
    bomb = {"name": "bomb.png", "mimeType": "image/png", "buffer": png_claiming(50_000, 50_000)}
    page.set_input_files("#halve-image input[type=file]", bomb)
    said = page.wait_for_selector(".halve-refused")
    assert said and said.inner_text().startswith("Too large bomb.png: ")
    assert ours(page) == []
    page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.click()
    assert "产品标准号：GB 25190" in read(page, PAGES / "packaging.png")
    page.get_by_label("Values wanted").first.fill(",".join(f"name{number}" for number in range(70)))
    page.click("#halve-read")
    said = page.wait_for_selector(".halve-refused")
    assert said and "at most 64 names" in said.inner_text()


def test_a_batch_is_read_shown_and_taken_home(visit: Visit, served: Replica, tmp_path: Path) -> None:
    page = visit()
    page.get_by_role("tab", name="Batch").click()
    names = ["nameplate.png", "packaging.png", "contract.png"]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    page.set_input_files("#halve-files input[type=file]", [*(PAGES / name for name in names), broken])
    page.wait_for_selector("#halve-files >> text=broken")
    page.click("#halve-start")
    page.wait_for_selector("#halve-zip:not([disabled])")
    page.wait_for_selector("#halve-progress >> text=3 read, 1 failed")
    rows = [row.locator("td").all_inner_texts() for row in page.locator("#halve-outcomes tbody tr").all()]
    assert [(row[0], row[3]) for row in rows[:3]] == [(name, "read") for name in names]
    assert rows[3][0] == "broken.png"
    assert "not an image" in rows[3][1]
    page.wait_for_function("document.querySelectorAll('#halve-gallery img').length >= 3")
    page.wait_for_timeout(500)
    page.screenshot(path=tmp_path / "batch.png", full_page=True)
    assert ours(page) == []

    with page.expect_download() as download:
        page.click("#halve-zip")
    with zipfile.ZipFile(download.value.path()) as packed:
        assert packed.namelist() == [*(f"{name}.json" for name in names), "results.jsonl"]
        lines = [json.loads(line) for line in packed.read("results.jsonl").decode().splitlines()]
    assert [line["original_filename"] for line in lines] == [*names, "broken.png"]
    assert "error" in lines[3]
    assert lines[0]["structured_data"].items() >= known("nameplate.png")["fields"].items()
    # nothing of it went past the door of everybody's requests
    assert 'halve_requests_total{status="415"}' in served.client.get("/metrics").text


@pytest.mark.parametrize("end", ["stop", "leave"])
def test_a_batch_ends_when_it_is_stopped_or_nobody_looks_any_more(visit: Visit, served: Replica, end: str) -> None:
    page = visit()
    page.get_by_role("tab", name="Batch").click()
    content = (PAGES / "packaging.png").read_bytes()
    many = [{"name": f"{number}.png", "mimeType": "image/png", "buffer": content} for number in range(40)]
    page.set_input_files("#halve-files input[type=file]", many)
    page.wait_for_selector("#halve-files >> text=39")
    before = served.health()["images_total"]
    page.click("#halve-start")
    page.wait_for_function("document.querySelectorAll('#halve-outcomes tbody tr').length > 0")
    if end == "stop":
        page.click("#halve-stop")
    else:
        page.close()
    asked = 0

    def alone() -> bool:
        """Whether nothing but what is asked for here is read meanwhile; a batch that goes on has a worker too."""
        nonlocal asked
        at = served.health()["images_total"]
        for _ in range(4):
            assert served.client.post("/v1/ocr", content=content).status_code == 200
            asked += 1
        return bool(served.health()["images_total"] - at == 4)

    until(alone, 200)
    assert 0 < served.health()["images_total"] - before - asked < 40


def test_a_phone_in_chinese_and_back_to_english(visit: Visit, tmp_path: Path) -> None:
    page = visit(PHONE, "zh-CN")
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    assert page.get_by_role("tab").all_inner_texts() == ["单图", "批量", "导出", "测速"]
    assert "增值税电子普通发票" in read(page, PAGES / "invoice.png")
    assert page.locator(".halve-head").inner_text().startswith("29 行")
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= PHONE["width"], "nothing is beyond the edge"
    page.screenshot(path=tmp_path / "phone.png", full_page=True)
    assert ours(page) == []
    page.get_by_role("button", name="English").click()
    page.wait_for_selector("html[lang=en]")
    page.wait_for_selector("#halve-read")
    assert page.get_by_role("tab").all_inner_texts() == ["Image", "Batch", "ONNX", "Speed"]
    page.reload()
    page.wait_for_selector("html[lang=en]")


def test_a_batch_on_a_phone_in_chinese(visit: Visit, tmp_path: Path) -> None:
    page = visit(PHONE, "zh-CN")
    page.get_by_role("tab", name="批量").click()
    broken = {"name": "broken.png", "mimeType": "image/png", "buffer": b"no image"}
    page.set_input_files("#halve-files input[type=file]", PAGES / "packaging.png")
    page.wait_for_selector("#halve-files >> text=packag")
    page.set_input_files("#halve-files input[type=file]", broken)
    page.wait_for_selector("#halve-files >> text=broken")
    page.click("#halve-start")
    page.wait_for_selector("#halve-zip:not([disabled])")
    page.wait_for_selector("#halve-progress >> text=成功 1 张，失败 1 张")
    assert "不是图片" in page.locator("#halve-outcomes").inner_text()
    table = page.locator("#halve-outcomes .halve-scroll")
    assert table.evaluate("one => one.scrollWidth <= one.clientWidth"), "its table fits"
    page.screenshot(path=tmp_path / "phone-batch.png", full_page=True)
    assert ours(page) == []


def test_in_the_dark_it_can_be_read_too(visit: Visit, tmp_path: Path) -> None:
    page = visit(scheme="dark")
    read(page, PAGES / "packaging.png")
    page.hover(".halve-lines li >> nth=0")
    page.screenshot(path=tmp_path / "dark.png", full_page=True)
    assert ours(page) == []


def test_all_of_it_is_reached_by_keyboard(visit: Visit) -> None:
    page = visit()
    page.set_input_files("#halve-image input[type=file]", PAGES / "nameplate.png")
    page.wait_for_selector(".halve-lines li")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "(() => { const one = document.activeElement;"
                " return one.id || one.dataset?.language || one.className || one.tagName })()"
            )
        )
        if page.evaluate("document.activeElement.id") == "halve-read":
            page.evaluate("document.querySelector('.halve-page').dataset.old = 1")
            page.keyboard.press("Enter")
            page.wait_for_selector(".halve-page:not([data-old])")
    assert {"en", "zh", "halve-read", "halve-copy"} <= reached
    page.locator(".halve-lines li").nth(2).focus()
    assert page.locator(".halve-picture polygon.lit").count() == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_model_is_taken_home_as_a_file(visit: Visit) -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install 'halve[torch]'")
    page = visit()
    page.get_by_role("tab", name="ONNX").click()
    page.get_by_label("fp16").check()
    page.click("#halve-export")
    page.wait_for_selector("#halve-exported .halve-facts", timeout=WORKSHOP_MS)
    page.wait_for_selector("#halve-onnx:not([disabled])")
    with page.expect_download() as download:
        page.click("#halve-onnx")
    assert download.value.suggested_filename == "ppocr-detector-fp16.onnx"
    assert 1 << 20 < download.value.path().stat().st_size < 10 << 20
    assert ours(page) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_says_how_fast_this_machine_is(visit: Visit) -> None:
    page = visit()
    page.get_by_role("tab", name="Speed").click()
    page.click("#halve-bench")
    page.wait_for_selector("#halve-measured .halve-facts", timeout=WORKSHOP_MS)
    assert "Images/s" in page.locator("#halve-measured").inner_text()
    assert ours(page) == []


def test_the_page_through_the_door_is_the_same(visit: Visit, served: Replica, tmp_path: Path) -> None:
    door = Door(tmp_path, "ocr")
    try:
        opened = door.ensure("127.0.0.1:0")
        behind = Behind(id="a", url=served.announced["url"])
        door.publish(ServingSet(deployment="ocr", open=True, replicas=(behind,)))
        assert httpx.get(f"{opened.url}/ui/", timeout=60).status_code == 200
        page = visit(url=opened.url)
        assert "当前状态" in " ".join(read(page, PAGES / "screenshot.png"))
        assert "halve_ui" in {one["name"] for one in page.context.cookies()}
        page.get_by_role("tab", name="Batch").click()
        page.set_input_files("#halve-files input[type=file]", [PAGES / "packaging.png"])
        page.wait_for_selector("#halve-files >> text=packaging")
        page.click("#halve-start")
        page.wait_for_selector("#halve-progress >> text=1 read, 0 failed")
        page.close()
    finally:
        door.stop()
        door.close()
