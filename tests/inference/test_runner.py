"""A folder in, a folder out: bad files stop nothing, odd names are kept, nothing is half written."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from inference import runner
from inference.engine import Engine, Reading
from inference.images import BadImage, File
from tests.inference.files import encoded

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
    heard: list[tuple[int, float]] = []
    found = runner.images_in(inputs)
    summary = runner.run(engine, found, output, workers=2, done=lambda *how_far: heard.append(how_far))

    assert (summary.images, summary.failed) == (10, 4)
    assert summary.seconds > 0
    assert [count for count, _ in heard] == list(range(11))
    assert [share for _, share in heard] == sorted(share for _, share in heard)
    assert heard[-1][1] == pytest.approx(1)
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
    done = lambda count, _: heard.append(count)  # noqa: E731
    summary = runner.run(engine, found, output, workers=1, resume=True, done=done)
    assert (summary.images, summary.failed, heard) == (5, 0, [2, 3, 4, 5])
    assert all(path.stat().st_mtime_ns == mark for path, mark in marks.items())
    names = [str(page["original_filename"]) for page in lines_of(output / "results.jsonl")]
    assert sorted(names) == [path.name for path in found]
    assert len(set(first) & set((output / "results.jsonl").read_text(encoding="utf-8").splitlines())) >= 2


class Fake:
    """An engine that finds nothing, fails as often as it is told to, and notes what came together."""

    model, precision, on_accelerator = "fake", "fp32", False

    def __init__(self, *, on_accelerator: bool = False, failing: int = 0, most: int = 100) -> None:
        self.on_accelerator = on_accelerator
        self.failing, self.most = failing, most
        self.batches: list[int] = []

    def read(self, some: list[Any]) -> list[Reading]:
        self.batches.append(len(some))
        if self.failing:
            self.failing -= 1
            raise RuntimeError("the device is gone for a moment")
        if len(some) > self.most:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return [Reading(width=p.shape[1], height=p.shape[0], lines=(), seconds=0.0) for p in some]


class Busy(Fake):
    """Reads on when so many calls are inside at once, and looks a while whether there are ever more."""

    def __init__(self, expected: int) -> None:
        super().__init__()
        self.expected, self.now, self.peak = expected, 0, 0
        self.changed = threading.Condition()

    def read(self, some: list[Any]) -> list[Reading]:
        with self.changed:
            self.now += 1
            self.peak = max(self.peak, self.now)
            self.changed.notify_all()
            if not self.changed.wait_for(lambda: self.peak >= self.expected, 60):
                self.expected = 0  # there are never so many: nobody else has to wait for them
        time.sleep(0.05)
        with self.changed:
            self.now -= 1
        return super().read(some)


def blank(folder: Path, **sizes: int) -> list[Path]:
    """Blank pages by name, so many pixels a side."""
    folder.mkdir(exist_ok=True)
    for name, side in sizes.items():
        (folder / f"{name}.png").write_bytes(encoded(Image.new("L", (side, side))))
    return runner.images_in(folder)


def run(fake: Fake, some: list[Path], output: Path, **options: Any) -> runner.Summary:
    return runner.run(fake, some, output, **options)  # type: ignore[arg-type]


def test_images_are_grouped_by_size_on_an_accelerator(tmp_path: Path) -> None:
    small = blank(tmp_path / "in", **{f"s{i}": 300 + i for i in range(16)})
    found = blank(tmp_path / "in", m1=700, m2=1000, m3=1280, l1=1300, l2=1400)
    fake = Fake(on_accelerator=True)
    assert run(fake, found, tmp_path / "out", workers=1).failed == 0
    assert sorted(fake.batches) == [1, 1, 1, 2, 8, 8]  # two large ones, three in the middle, sixteen small
    assert len(small) == 16


def test_what_does_not_fit_is_read_in_halves_from_then_on(tmp_path: Path) -> None:
    found = blank(tmp_path / "in", **{f"s{i}": 300 + i for i in range(16)})
    fake = Fake(on_accelerator=True, most=4)
    assert run(fake, found, tmp_path / "out", workers=1, retries=0).failed == 0
    assert fake.batches == [8, 4, 4, 4, 4]


@pytest.mark.parametrize(("workers", "in_flight", "expected"), [(8, 2, 2), (2, 8, 2), (8, None, 8), (2, None, 2)])
def test_no_more_at_once_than_wished(tmp_path: Path, workers: int, in_flight: int | None, expected: int) -> None:
    found = blank(tmp_path / "in", **{f"s{i}": 300 for i in range(16)})
    busy = Busy(expected)
    run(busy, found, tmp_path / "out", workers=workers, in_flight=in_flight, retries=0)
    assert busy.peak == expected


def test_files_are_read_when_their_turn_comes(tmp_path: Path) -> None:
    """Three in flight: what lies behind them is not in memory yet."""
    found = blank(tmp_path / "in", **{f"s{i}": 300 for i in range(8)})
    seen: list[int] = []

    def done(count: int, _: float) -> None:
        if count == 1:
            for path in found[5:]:
                path.unlink()
        seen.append(count)

    summary = run(Fake(), found, tmp_path / "out", workers=1, done=done)
    assert (summary.failed, seen[-1]) == (3, 8)


def test_names_that_look_alike_are_told_apart_when_resumed(tmp_path: Path) -> None:
    """Both are `latin-?.png` in JSON; one was read before the run was interrupted."""
    blank(tmp_path / "in", x=300)
    names = [os.fsdecode(b"latin-\xe9.png"), os.fsdecode(b"latin-\xe8.png")]
    for name in names:
        (tmp_path / "in" / name).write_bytes((tmp_path / "in" / "x.png").read_bytes())
    found, output = runner.images_in(tmp_path / "in"), tmp_path / "out"
    run(Fake(), [found[0]], output, workers=1)
    summary = run(Fake(), found, output, workers=1, resume=True)
    assert (summary.images, summary.failed) == (3, 0)
    assert all((output / f"{path.name}.json").is_file() for path in found)
    assert sorted(str(page["original_filename"]) for page in lines_of(output / "results.jsonl")) == [
        "latin-?.png",
        "latin-?.png",
        "x.png",
    ]


def test_only_a_run_that_asked_the_same_is_resumed(engine: Engine, tmp_path: Path) -> None:
    wish, output, found = runner.Wish(fields=("甲方",)), tmp_path / "out", blank(tmp_path / "in", a=300)
    assert not runner.unfinished(engine, found, output, wish)
    with pytest.raises(OSError):  # a folder is where a result should go
        (output / "a.png.json").mkdir(parents=True)
        runner.run(engine, found, output, workers=1, wish=wish)
    assert runner.unfinished(engine, found, output, wish)
    assert not runner.unfinished(engine, found, output, runner.Wish())
    assert not runner.unfinished(Fake(), found, output, wish)  # type: ignore[arg-type]
    (output / "a.png.json").rmdir()
    runner.run(engine, found, output, workers=1, wish=wish, resume=True)
    assert not runner.unfinished(engine, found, output, wish)


def test_wishes_are_those_of_the_service(engine: Engine, pages: Path, tmp_path: Path) -> None:
    wish = runner.Wish(fields=("型号", "甲方"), visualize=True)
    runner.run(engine, [pages / "nameplate.png"], tmp_path, workers=1, wish=wish)
    page = json.loads((tmp_path / "nameplate.png.json").read_text(encoding="utf-8"))
    assert page["structured_data"] == {"型号": "Y2-132M-4", "甲方": None}
    with Image.open(tmp_path / "drawn" / "nameplate.png.png") as drawn:
        assert drawn.size == (800, 520)


@pytest.mark.parametrize(("failing", "retries", "failed"), [(2, 2, 0), (3, 2, 1), (1, 0, 1), (5, 5, 0)])
def test_a_device_that_fails_for_a_moment_is_tried_again(
    tmp_path: Path, failing: int, retries: int, failed: int
) -> None:
    fake, one = Fake(failing=failing), blank(tmp_path / "in", a=300)
    assert run(fake, one, tmp_path / "out", workers=1, retries=retries).failed == failed
    assert len(fake.batches) == min(failing, retries) + 1


def test_results_of_another_folder_are_none_of_this_one(tmp_path: Path) -> None:
    """Cameras name their pictures alike."""
    one, other, output = (tmp_path / name for name in ("one", "other", "out"))
    first, second = blank(one, IMG_0001=300, IMG_0002=400), blank(other, IMG_0001=500, IMG_0002=600)
    engine: Any = Fake()
    (output / "IMG_0001.png.json").mkdir(parents=True)  # the larger is read first, then the run stops
    with pytest.raises(OSError):
        run(engine, first, output, workers=1)
    assert runner.unfinished(engine, first, output, runner.Wish())
    assert not runner.unfinished(engine, second, output, runner.Wish())


def test_an_image_that_changed_since_is_read_again(tmp_path: Path) -> None:
    found, output = blank(tmp_path / "in", a=300, b=400), tmp_path / "out"
    run(Fake(), found, output, workers=1)
    written = (output / "a.png.json").stat().st_mtime_ns
    (tmp_path / "in" / "a.png").write_bytes(encoded(Image.new("L", (500, 500))))
    os.utime(tmp_path / "in" / "a.png", ns=(written + 1, written + 1))
    run(Fake(), found, output, workers=1, resume=True)
    assert {str(page["original_filename"]): page["width"] for page in lines_of(output / "results.jsonl")} == {
        "a.png": 500,
        "b.png": 400,
    }


def test_a_result_that_was_lost_is_read_again(tmp_path: Path) -> None:
    """Empty after a power cut, or a drawing that is gone."""
    found, output, wish = blank(tmp_path / "in", a=300, b=400, c=500), tmp_path / "out", runner.Wish(visualize=True)
    run(Fake(), found, output, workers=1, wish=wish)
    (output / "a.png.json").write_bytes(b"")
    (output / "drawn" / "b.png.png").unlink()
    fake = Fake()
    assert run(fake, found, output, workers=1, wish=wish, resume=True).failed == 0
    assert len(fake.batches) == 2
    assert json.loads((output / "a.png.json").read_text(encoding="utf-8"))["width"] == 300
    assert (output / "drawn" / "b.png.png").is_file()


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path) -> None:
    found, output = blank(tmp_path / "in", a=300), tmp_path / "out"
    refused: list[OSError] = []

    def done(_: int, __: float) -> None:
        with pytest.raises(OSError, match="another run") as error:
            run(Fake(), found, output, workers=1)
        refused.append(error.value)

    assert run(Fake(), found, output, workers=1, done=done).failed == 0
    assert refused
    assert lines_of(output / "results.jsonl")
    assert run(Fake(), found, output, workers=1).failed == 0, "and when it is over, the folder is free"


def test_what_was_read_is_found_in_no_time(tmp_path: Path) -> None:
    """Of 20,000 images, once squared, half a minute."""
    names = [f"{i}.png" for i in range(20_000)]
    (tmp_path / "results.jsonl").write_text("".join(f'{{"original_filename":"{name}"}}\n' for name in names))

    def finished(folder: Path) -> tuple[int, float]:
        started = time.process_time()
        found = runner._finished(tmp_path, [folder / name for name in names], runner.Wish())
        return len(found), time.process_time() - started

    none, first_seconds = finished(Path("gone"))
    for name in names:
        (tmp_path / f"{name}.json").write_text("{}")
    folder = tmp_path / "in"
    folder.mkdir()
    for name in names:
        (folder / name).touch()
        os.utime(folder / name, (0, 0))
    all_of_them, second_seconds = finished(folder)
    assert (none, all_of_them) == (0, len(names))
    assert first_seconds + second_seconds < 15


def test_results_are_utf8_whatever_the_locale_says(pages: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes((pages / "nameplate.png").read_bytes())
    ascii_only = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    words = [sys.executable, "-m", "orchestrator", "run", str(tmp_path / "in"), str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, timeout=300, env=os.environ | ascii_only, check=False)
    assert done.returncode == 0, done.stderr.decode()
    (page,) = lines_of(tmp_path / "out" / "results.jsonl")
    assert "三相异步电动机" in str(page["recognized_text"])
