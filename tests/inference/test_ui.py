"""The page's parts without a browser: what is kept on the disk, how a batch is read, what is refused and loaded."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from string import Formatter
from typing import Any, cast

import httpx
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from inference import images, server
from inference.engine import Engine
from inference.images import File
from inference.refusals import Refusal
from inference.service import Service, Settings
from inference.ui import PATH, REMEDY, batch, installed, picture, words, workshop
from inference.ui.mount import Ui
from inference.ui.replica import Replica
from inference.ui.shelf import PREFIX, SAFE_SECONDS, Shelf
from inference.ui.workshop import Task
from tests.inference.files import encoded, png_claiming
from tests.inference.replica import Replica as Process
from tests.inference.replica import replica

needs_gradio = pytest.mark.skipif(not installed(), reason="gradio is not installed: pip install 'halve[ui]'")


@asynccontextmanager
async def client(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as found:
        yield found


# without the extra


def test_without_gradio_the_page_says_what_is_missing_in_one_line() -> None:
    async def asked() -> list[httpx.Response]:
        ui = Ui(Service(Settings()), there=False)
        async with client(Starlette(routes=ui.routes())) as http:
            answers = [await http.get(path) for path in ("/ui", "/ui/", "/ui/assets/x.js", "/")]
        await ui.close()
        return answers

    *missing, root = asyncio.run(asked())
    assert [(answer.status_code, answer.text) for answer in missing] == [(404, f"{REMEDY}\n")] * 3
    assert root.status_code == 404


def test_a_replica_imports_nothing_of_the_page_before_it_is_asked_for() -> None:
    heavy = "{'gradio', 'pandas', 'fastapi', 'httpx'}"
    code = f"import sys, inference.listener; sys.exit(', '.join({heavy} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert found.stderr.strip() == ""


# the folder


def put(shelf: Shelf, name: str, size: int) -> Path:
    file = shelf.place(name)
    file.write_bytes(b"x" * size)
    time.sleep(0.02)  # the file system's clock has steps
    return file


def test_what_is_old_goes_and_what_is_in_the_way_goes_oldest_first(tmp_path: Path) -> None:
    later = [0.0]  # a file's times cannot be set back, so the clock is set forward
    shelf = Shelf(tmp_path, most_bytes=1000, now=lambda: time.time() + later[0])
    first, second = put(shelf, "a.png", 600), put(shelf, "b.png", 300)
    assert shelf.room() == 100
    third = put(shelf, "c.png", 500)
    assert shelf.room() == 0, "somebody may be looking at them"
    assert first.exists()
    later[0] = SAFE_SECONDS + 60
    assert shelf.room() == 200
    assert not first.exists()
    assert second.exists()
    assert third.exists()
    later[0] = 2 * 3600
    assert shelf.room() == 1000
    assert list(shelf.folder.iterdir()) == [], "empty folders go with their files"


def test_a_folder_left_by_a_process_that_was_killed_is_removed_by_the_next(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = tmp_path / f"{PREFIX}{gone.pid}-abc"
    left.mkdir()
    (left / "upload.png").write_bytes(b"x")
    other = tmp_path / f"{PREFIX}somebody"
    other.mkdir()
    shelf = Shelf(tmp_path)
    again = Shelf(tmp_path)
    assert not left.exists()
    assert other.exists()
    assert shelf.folder.exists(), "its process lives"
    again.clear()
    assert not again.folder.exists()


@pytest.mark.parametrize("path", ["/etc/passwd", "relative.png", "https://example.org/a.png", "{folder}/../a", ""])
def test_only_what_was_uploaded_is_opened(tmp_path: Path, path: str) -> None:
    shelf = Shelf(tmp_path)
    with pytest.raises(Refusal, match="upload it again"):
        asyncio.run(shelf.taken({"path": path.format(folder=shelf.folder)}, 10))


def test_a_link_out_of_the_folder_is_not_followed_and_a_long_file_is_not_read_whole(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    secret = tmp_path / "secret"
    secret.write_bytes(b"s")
    link = shelf.place("link.png")
    link.symlink_to(secret)
    assert not shelf.holds(link)
    long = shelf.place("long.png")
    long.write_bytes(b"x" * 100)
    taken = asyncio.run(shelf.taken({"path": str(long), "orig_name": "扫描.png"}, 10))
    assert (taken.name, len(taken.content)) == ("扫描.png", 11)


# a batch


class Answers:
    """A replica that answers what it is told to, and counts."""

    def __init__(self, *statuses: int, seconds: float = 0.0) -> None:
        self.statuses = list(statuses)
        self.priorities: list[str | None] = []
        self.most = self._now = 0
        self._seconds = seconds
        self.app = Starlette(routes=[Route("/v1/ocr", self.answer, methods=["POST"])])

    async def answer(self, request: Request) -> Response:
        self.priorities.append(request.headers.get("X-Halve-Priority"))
        self._now += 1
        self.most = max(self.most, self._now)
        await asyncio.sleep(self._seconds)
        self._now -= 1
        status = self.statuses.pop(0) if self.statuses else 200
        if status != 200:
            headers = {"Retry-After": "0"} if status == 429 else {}
            return JSONResponse({"error": f"no: {status}"}, status_code=status, headers=headers)
        async with request.form() as form:
            sent = form["file"]
            assert not isinstance(sent, str)
            return JSONResponse({"original_filename": sent.filename, "fields": form["fields"], "lines": []})


def files_of(*names: str) -> list[tuple[str, batch.Load]]:
    def load(name: str) -> batch.Load:
        async def loaded() -> File:
            if name == "gone.png":
                raise Refusal(400, "this upload is no longer kept: upload it again")
            return File(name, b"bytes")

        return loaded

    return [(name, load(name)) for name in names]


def read(answers: Answers, *names: str, at_once: int = 2) -> list[batch.Item]:
    async def reading() -> list[batch.Item]:
        way = Replica(answers.app)
        found = batch.read(way, files_of(*names), lambda file, page: Path(file.name), at_once=at_once, fields="A")
        items = [item async for item in found]
        await way.close()
        return sorted(items, key=lambda item: item.number)

    return asyncio.run(reading())


def test_a_batch_is_read_behind_others_and_comes_again_when_it_is_told_to() -> None:
    answers = Answers(429, 200, 429, 415)
    items = read(answers, "a.png", "b.png", "gone.png", at_once=1)
    assert [(item.name, item.page is not None, item.reason) for item in items] == [
        ("a.png", True, ""),
        ("b.png", False, "no: 415"),
        ("gone.png", False, "this upload is no longer kept: upload it again"),
    ]
    assert items[0].page == {"original_filename": "a.png", "fields": "A", "lines": []}
    assert answers.priorities == ["batch"] * 4


def test_so_many_are_in_flight_and_no_more_and_none_when_it_is_stopped() -> None:
    answers = Answers(seconds=0.05)
    assert len(read(answers, *(f"{i}.png" for i in range(9)), at_once=3)) == 9
    assert answers.most == 3

    async def stopped() -> int:
        way, slow = Replica(answers.app), batch.read
        items = slow(way, files_of(*"abcdef"), lambda file, page: Path(file.name), at_once=2)
        await anext(items)
        await items.aclose()
        asked = len(answers.priorities)
        await asyncio.sleep(0.2)
        return len(answers.priorities) - asked

    assert asyncio.run(stopped()) <= 1


def test_an_archive_can_be_unpacked_whatever_its_files_are_called(tmp_path: Path) -> None:
    """Half a character, a way out of the folder, and names that only some file systems tell apart."""
    names = ["a\ud800.png", "../../x.png", "/abs.png", "C:\\x.png", "a.png", "A.png", ".."]
    items = [batch.Item(number=i, name=name, page={"original_filename": "x"}) for i, name in enumerate(names)]
    failed = batch.Item(number=9, name="b\ud800.png", reason="empty file", status=400)
    batch.written([*items, failed], tmp_path / "r.jsonl", tmp_path / "r.zip")
    with zipfile.ZipFile(tmp_path / "r.zip") as archive:
        assert sorted(archive.namelist()) == sorted(
            [
                *("a?.png.json", "x.png.json", "abs.png.json", "x.png.2.json", "a.png.json", "A.png.2.json"),
                *("image.json", "results.jsonl"),
            ]
        )
    last = (tmp_path / "r.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    assert json.loads(last) == {"original_filename": "b?.png", "error": "empty file"}


def test_the_files_of_a_batch_are_in_the_order_given_and_none_hides_another(tmp_path: Path) -> None:
    items = [
        batch.Item(number=2, name="b.png", reason="not an image"),
        batch.Item(number=1, name="a.png", page={"original_filename": "a.png", "n": 2}),
        batch.Item(number=0, name="a.png", page={"original_filename": "a.png", "n": 1}),
    ]
    batch.written(items, tmp_path / "r.jsonl", tmp_path / "r.zip")
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [line.get("n", line.get("error")) for line in lines] == [1, 2, "not an image"]
    with zipfile.ZipFile(tmp_path / "r.zip") as packed:
        assert packed.namelist() == ["a.png.json", "a.png.2.json", "results.jsonl"]
        assert json.loads(packed.read("a.png.2.json"))["n"] == 2
        assert packed.read("results.jsonl") == (tmp_path / "r.jsonl").read_bytes()


# what is shown


def test_text_from_an_image_is_no_markup() -> None:
    hostile = "<script>alert(1)</script>\" onload='x'"
    corner = [[0, 0], [9, 0], [9, 9], [0, 9]]
    page = {
        "width": 10,
        "height": 10,
        "processing_time_ms": 1,
        "model": hostile,
        "precision": "fp32",
        "lines": [{"text": hostile, "score": 0.9, "box": corner}],
        "structured_data": {hostile: hostile, "missing": None},
    }
    shown = [
        picture.html(page, b"", "en"),
        picture.refused(Refusal(400, hostile), "zh"),
        picture.table([hostile], [[hostile]]),
        picture.progress(hostile, 1, 2),
    ]
    assert picture.table(["a", "b", "c"], [["1", "2"]]).count('<td colspan="2">2</td>') == 1
    for html in shown:
        assert "<script" not in html
        assert "onload='" not in html
        assert "&lt;script&gt;" in html


def test_a_picture_is_turned_made_smaller_and_framed_where_its_lines_are() -> None:
    content = encoded(Image.new("RGB", (3200, 800), "white"))
    limits = {"max_bytes": 1 << 24, "max_pixels": 1 << 24}
    assert images.header(picture.shown(content, **limits)).width == picture.SHOWN_SIDE
    line = {"text": "x", "score": 1.0, "box": [[400, 200], [2800, 200], [2800, 600], [400, 600]]}
    small = images.decode(picture.small(content, {"width": 3200, "lines": [line]}, **limits))
    assert small.shape[:2] == (180, 720)
    plain = images.decode(picture.small(content, {"width": 3200, "lines": []}, **limits))
    changed = abs(small.astype(int) - plain.astype(int)).sum(axis=2) > 60
    rows, columns = changed.any(axis=1).nonzero()[0], changed.any(axis=0).nonzero()[0]
    assert abs(rows.min() - 45) <= 2
    assert abs(rows.max() - 135) <= 2
    assert abs(columns.min() - 90) <= 2
    assert abs(columns.max() - 630) <= 2


def test_both_languages_say_everything_with_the_same_values() -> None:
    found = words.translations()
    assert found["en"].keys() == found["zh-CN"].keys()
    for key, english in found["en"].items():
        chinese = found["zh-CN"][key]
        assert english
        assert chinese
        assert values(english) == values(chinese), key


def values(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


@pytest.mark.parametrize(
    ("cookie", "accepted", "spoken"),
    [
        (None, "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        (None, "en-GB,zh;q=0.5", "en"),
        (None, None, "en"),
        ("zh", "en-GB", "zh"),
        ("en", "zh-CN", "en"),
        ("xx", "zh-TW", "zh"),
    ],
)
def test_the_visitors_choice_wins_over_the_browsers(cookie: str | None, accepted: str | None, spoken: str) -> None:
    assert words.spoken(cookie, accepted) == spoken


# the workshop


def test_a_task_that_cannot_be_done_says_why_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="no model named 'abacus'"):
        asyncio.run(workshop.run(Task(kind="bench", model="abacus")))


@pytest.mark.skipif(not workshop.able(), reason="torch is not installed: pip install 'halve[torch]'")
def test_an_export_is_a_file_and_its_speed_before_and_after(tmp_path: Path) -> None:
    output = tmp_path / "d.onnx"
    found = asyncio.run(workshop.run(Task(kind="export", model="ppocr", precision="fp16", output=str(output), side=64)))
    assert found["bytes"] == output.stat().st_size
    assert found["precision"] == "fp16"
    assert found["before_ms"] > 0
    assert found["after_ms"] > 0
    assert 0 < found["loss"]["largest"] < 0.1


def test_a_task_ends_with_its_caller() -> None:
    async def cancelled() -> float:
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await workshop.run(Task(kind="bench", model="ppocr", workers=1))
        return time.monotonic() - begun

    assert asyncio.run(cancelled()) < 30
    mine = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children")
    if mine.exists():
        assert not any("workshop" in Path(f"/proc/{one}/cmdline").read_text() for one in mine.read_text().split())


# the page over HTTP


def test_it_is_where_users_of_such_pages_look_for_it() -> None:
    command = [sys.executable, "-m", "orchestrator", "serve", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert re.search(r"--port.*7860", said)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with replica(tmp_path_factory.mktemp("ui"), "--workers", "1") as running:
        running.until("ready")
        yield running


@needs_gradio
def test_the_page_is_whole_and_names_no_other_host(served: Process) -> None:
    assert served.client.get("/").headers["location"] == "/ui/"
    assert served.client.get("/ui").headers["location"] == "/ui/"
    page = served.client.get("/ui/")
    assert page.status_code == 200
    assert page.headers["content-length"] == str(len(page.content))
    assert "halve_ui_language" in page.text
    style = served.client.get("/ui/theme.css").text
    assert "http" not in style.replace("http://www.w3.org/2000/svg", "")
    assert "@font-face" not in style


@needs_gradio
@pytest.mark.parametrize(
    "path",
    [
        "proxy=http://example.org/",
        "file=http://example.org/a.png",
        "monitoring",
        "gradio_api/proxy=http://example.org/",
        "gradio_api/file=http://example.org/a.png",
        "gradio_api/run/predict",
        "gradio_api/openapi.json",
        "gradio_api/mcp/",
        "login",
        "nothing",
    ],
)
def test_what_the_page_does_not_use_is_not_there(served: Process, path: str) -> None:
    for method in ("GET", "POST"):
        assert served.client.request(method, f"/ui/{path}").status_code == 404, method


@needs_gradio
def test_a_file_of_this_machine_is_no_upload(served: Process, tmp_path: Path) -> None:
    for path in ("/etc/passwd", "http://127.0.0.1:1/a.png", str(tmp_path)):
        image = {"path": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
        body = {"data": [image, "", ""], "fn_index": 0, "session_hash": "s"}
        assert served.client.post("/ui/gradio_api/queue/join", json=body).status_code == 403
        assert served.client.get(f"/ui/gradio_api/file={path}").status_code in (403, 404)
    assert served.client.post("/ui/gradio_api/queue/join", content=b"x" * (2 << 20)).status_code == 413


@needs_gradio
def test_the_page_remembers_so_many_visitors_and_no_more(tmp_path: Path) -> None:
    from inference.ui import made, page

    async def remembered() -> int:
        service = Service(Settings())
        found = await made.make(server.app(service, failed=lambda error: None), service, Shelf(tmp_path))
        holder = next(route for route in cast("Any", found.page).routes if route.path == PATH).app.state_holder
        for visitor in range(page.SESSIONS + 20):
            holder[f"visitor {visitor}"]
        await found.close()
        await service.close()
        return len(holder.session_data)

    assert asyncio.run(remembered()) == page.SESSIONS


@needs_gradio
def test_one_file_is_no_larger_than_the_replica_reads(served: Process) -> None:
    files = {"files": ("a.png", b"\0" * (Settings().max_bytes + 1))}
    assert served.client.post("/ui/gradio_api/upload", files=files).status_code == 413


@needs_gradio
def test_an_open_page_does_not_keep_the_process_and_its_folder_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    with replica(tmp_path, "--workers", "1") as running:
        running.until("ready")
        assert running.client.get("/ui/", timeout=120).status_code == 200
        upload = running.client.post("/ui/gradio_api/upload", files={"files": ("a.png", b"x")})
        (kept,) = upload.json()
        assert Path(kept).is_relative_to(tmp_path / "tmp")
        with running.client.stream("GET", "/ui/gradio_api/heartbeat/abc") as open_page:
            lines = open_page.iter_lines()
            assert "ALIVE" in next(lines)
            running.process.send_signal(signal.SIGTERM)
            list(lines)  # whole, not cut off
        assert running.process.wait(timeout=50) == 0
    assert list((tmp_path / "tmp").glob(f"{PREFIX}*")) == []


async def refusal(service: Service, file: File, *, online: bool = True) -> tuple[int, str, int | None]:
    way = Replica(server.app(service, failed=lambda error: None))
    with pytest.raises(Refusal) as raised:
        await way.read(file, online=online)
    await way.close()
    return raised.value.status, raised.value.reason, raised.value.retry_after_seconds


def test_the_pages_requests_are_refused_as_all_others_are() -> None:
    """Whatever the page is given, the replica's limits are asked first: nothing here ever reaches an engine."""

    async def refusals() -> None:
        file = File("a.png", b"no image")
        service = Service(Settings(queue=3, workers=1, max_body_bytes=5000))
        assert await refusal(service, file) == (503, "the model is loading", 1)
        service.start(cast("Engine", None))
        assert (await refusal(service, file))[0] == 415
        bomb = await refusal(service, File("bomb.png", png_claiming(50_000, 50_000)))
        assert bomb[0] == 413
        assert "bomb.png" in bomb[1]
        assert (await refusal(service, File("long.png", b"x" * 6000)))[0] == 413
        with service.entered(), service.entered():
            assert await refusal(service, file, online=False) == (429, "too many requests at once", 1)
            assert (await refusal(service, file))[0] == 415, "online requests have the other half"
            with service.entered(), service.entered():
                assert await refusal(service, file) == (429, "too many requests at once", 1)
        service.drain()
        assert await refusal(service, file) == (503, "draining: no new requests", 10)
        await service.close()

    asyncio.run(refusals())
