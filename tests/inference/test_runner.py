"""A folder in, a folder out: bad files stop nothing, odd names are kept, nothing is half written."""

import json
import os
from pathlib import Path

import pytest

from inference import runner
from inference.engine import Engine
from inference.images import BadImage, File

LONG_NAME = "x" * 250 + ".png"  # 254 bytes: .json does not fit behind it
ODD_NAMES = ["发票 一.png", "two words.PNG", "line\nbreak.png", "quote'\".png", "-dash.png"]


def lines_of(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def inputs(tmp_path: Path, pages: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    content = (pages / "nameplate.png").read_bytes()
    for name in ODD_NAMES:
        (folder / name).write_bytes(content)
    (folder / os.fsdecode(b"latin-\xe9.png")).write_bytes(content)
    (folder / LONG_NAME).write_bytes(content)
    (folder / "cut.png").write_bytes(content[:5000])
    (folder / "text.jpg").write_text("not an image")
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("not even called one")
    (folder / ".hidden.png").write_bytes(content)
    (folder / "folder.png").mkdir()
    return folder


def test_everything_readable_is_written_and_the_rest_is_an_error(engine: Engine, inputs: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "deep"
    heard: list[int] = []
    found = runner.images_in(inputs)
    summary = runner.run(engine, found, output, workers=2, done=heard.append)

    assert (summary.images, summary.failed) == (10, 4)
    assert summary.seconds > 0
    assert heard == list(range(1, 11))
    good = [*ODD_NAMES, os.fsdecode(b"latin-\xe9.png")]
    assert {path.name for path in output.iterdir()} == {
        "results.jsonl",
        "errors.jsonl",
        *(f"{name}.json" for name in good),
    }
    for name in ODD_NAMES:
        page = json.loads((output / f"{name}.json").read_text(encoding="utf-8"))
        assert page["original_filename"] == name
        assert page["structured_data"]["型号"] == "Y2-132M-4"
    results = {page["original_filename"] for page in lines_of(output / "results.jsonl")}
    assert results == {*ODD_NAMES, "latin-?.png"}
    errors = {error["original_filename"]: str(error["error"]) for error in lines_of(output / "errors.jsonl")}
    assert set(errors) == {"cut.png", "text.jpg", "empty.png", LONG_NAME}
    assert "too long" in errors[LONG_NAME]
    assert "damaged" in errors["cut.png"]
    assert "not an image" in errors["text.jpg"]


def test_a_second_run_replaces_the_first(engine: Engine, inputs: Path, tmp_path: Path) -> None:
    some = runner.images_in(inputs)[:2]
    for _ in range(2):
        summary = runner.run(engine, some, tmp_path / "out", workers=1)
        assert len(lines_of(tmp_path / "out" / "results.jsonl")) == summary.images - summary.failed


def test_an_empty_folder_is_no_failure(engine: Engine, tmp_path: Path) -> None:
    summary = runner.run(engine, [], tmp_path / "out", workers=2)
    assert (summary.images, summary.failed) == (0, 0)
    assert (tmp_path / "out" / "results.jsonl").read_text() == ""


def test_an_output_that_cannot_be_written_stops_the_run(engine: Engine, pages: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (output / "invoice.png.json").mkdir(parents=True)
    with pytest.raises(OSError):
        runner.run(engine, runner.images_in(pages), output, workers=2)


def test_workers_share_the_images_the_largest_first(engine: Engine, pages: Path, tmp_path: Path) -> None:
    found = runner.images_in(pages)
    runner.run(engine, found, tmp_path / "out", workers=1)
    written = lines_of(tmp_path / "out" / "results.jsonl")
    sizes = [int(str(page["width"])) * int(str(page["height"])) for page in written]
    assert sizes == sorted(sizes, reverse=True)


def test_one_page_refuses_what_is_no_image(engine: Engine) -> None:
    with pytest.raises(BadImage):
        runner.page_of(engine, File("x", b"no"))


def test_an_interrupted_run_is_resumed(engine: Engine, pages: Path, tmp_path: Path) -> None:
    output, found = tmp_path / "out", runner.images_in(pages)
    runner.run(engine, found[:3], output, workers=1)
    first = (output / "results.jsonl").read_text(encoding="utf-8").splitlines()
    (output / f"{found[1].name}.json").unlink()
    with (output / "results.jsonl").open("a") as results:
        results.write('{"original_filename":"half')
    marks = {path: path.stat().st_mtime_ns for path in output.glob("*.png.json")}
    heard: list[int] = []
    summary = runner.run(engine, found, output, workers=1, resume=True, done=heard.append)
    assert (summary.images, summary.failed, heard) == (5, 0, [3, 4, 5])
    assert all(path.stat().st_mtime_ns == mark for path, mark in marks.items())
    names = [str(page["original_filename"]) for page in lines_of(output / "results.jsonl")]
    assert sorted(names) == [path.name for path in found]
    assert len(set(first) & set((output / "results.jsonl").read_text(encoding="utf-8").splitlines())) >= 2


def test_a_device_that_fails_twice_is_tried_again(engine: Engine, pages: Path, tmp_path: Path) -> None:
    class Flaky:
        model, precision = "flaky", "fp32"

        def __init__(self, failing: int) -> None:
            self.failing = failing

        def read(self, some: list[object]) -> object:
            self.failing -= 1
            if self.failing >= 0:
                raise RuntimeError("the device is gone for a moment")
            return engine.read(some)  # type: ignore[arg-type]

    for failing, failed in ((2, 0), (3, 1)):
        flaky, one = Flaky(failing), runner.images_in(pages)[:1]
        summary = runner.run(flaky, one, tmp_path / "out", workers=1)  # type: ignore[arg-type]
        assert summary.failed == failed
