"""The commands that run the engine, as a user types them."""

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

HALVE = [sys.executable, "-c", "from orchestrator.cli import main; main()"]


def halve(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HALVE, *words], capture_output=True, text=True, timeout=120, check=False, env=os.environ | environment
    )


def test_read_prints_text_and_fields(pages: Path) -> None:
    done = halve("read", str(pages / "contract.png"), "--fields", "甲方,签订日期,丁方")
    assert done.returncode == 0
    assert "采购合同" in done.stdout.splitlines()
    assert done.stdout.splitlines()[-3:] == ["甲方: 云帆示例科技有限公司", "签订日期: 2026-03-18", "丁方: (not found)"]


def test_read_json_is_an_object_for_one_and_an_array_for_several(pages: Path, truth: dict[str, Any]) -> None:
    one = halve("read", str(pages / "nameplate.png"), "--json")
    page = json.loads(one.stdout)
    assert page["original_filename"] == "nameplate.png"
    assert page["structured_data"].items() >= truth["nameplate.png"]["fields"].items()
    prompt = "只识别‘型号’"
    two = halve("read", str(pages / "packaging.png"), str(pages / "nameplate.png"), "--json", "--prompt", prompt)
    assert [page["structured_data"] for page in json.loads(two.stdout)] == [{"型号": None}, {"型号": "Y2-132M-4"}]


@pytest.mark.parametrize(("content", "word"), [(None, "No such file"), (b"text", "not an image"), (b"", "empty file")])
def test_read_refuses_in_one_line(tmp_path: Path, content: bytes | None, word: str) -> None:
    path = tmp_path / "page.png"
    if content is not None:
        path.write_bytes(content)
    done = halve("read", str(path))
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert str(path) in done.stderr
    assert word in done.stderr


def test_run_writes_a_folder_and_prints_its_summary(pages: Path, tmp_path: Path) -> None:
    done = halve("run", str(pages), str(tmp_path / "out"), "--workers", "2", "--threads", "1", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert list(summary) == ["images", "failed", "seconds"]
    assert (summary["images"], summary["failed"]) == (5, 0)
    assert (tmp_path / "out" / "invoice.png.json").exists()
    assert len((tmp_path / "out" / "results.jsonl").read_text(encoding="utf-8").splitlines()) == 5


def test_run_exits_1_when_an_image_failed_and_writes_the_others(pages: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.png").write_bytes((pages / "packaging.png").read_bytes())
    (tmp_path / "in" / "bad.png").write_bytes(b"bad")
    done = halve("run", str(tmp_path / "in"), str(tmp_path / "out"))
    assert done.returncode == 1
    assert done.stdout.startswith("2 images, 1 failed")
    assert (tmp_path / "out" / "good.png.json").exists()
    assert "not an image" in (tmp_path / "out" / "errors.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("made", [False, True])
def test_run_refuses_a_folder_that_is_none(tmp_path: Path, made: bool) -> None:
    if made:
        (tmp_path / "in").touch()
    done = halve("run", str(tmp_path / "in"), str(tmp_path / "out"))
    assert done.returncode == 1
    assert re.fullmatch(r"halve: .*/in: (No such file or|Not a) directory\n", done.stderr)


@pytest.mark.parametrize("command", [("read", "a.png"), ("run", ".", "out"), ("serve", "--port", "0")])
@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--precision", "int9"), "--precision int9: it is one of auto, fp32, bf16, fp16"),
        (("--backend", "abacus"), "--backend abacus: it is one of auto, onnxruntime, openvino, torch"),
    ],
)
def test_backend_and_precision_are_the_same_words_everywhere(
    command: tuple[str, ...], option: tuple[str, str], words: str, tmp_path: Path
) -> None:
    done = halve(*command, *option, HALVE_HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr and len(done.stderr.splitlines()) == 1


def test_run_refuses_an_output_that_is_a_file(pages: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    done = halve("run", str(pages), str(tmp_path / "out"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "out") in done.stderr


def test_run_on_ctrl_c_keeps_what_was_written(pages: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(40):
        (tmp_path / "in" / f"{i}.png").symlink_to(pages / "contract.png")
    output = tmp_path / "out"
    command = [*HALVE, "run", str(tmp_path / "in"), str(output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        end = time.monotonic() + 60
        while not list(output.glob("*.png.json")):
            assert time.monotonic() < end
            assert running.poll() is None
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        _, complaint = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Traceback" not in complaint
    written = sorted(path.name for path in output.glob("*.json"))
    assert 0 < len(written) < 40
    assert len((output / "results.jsonl").read_text(encoding="utf-8").splitlines()) == len(written)
    assert [path.name for path in output.glob(".*")] == [".unfinished"]


def test_run_shows_how_far_it_is_on_a_terminal(pages: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("packaging.png", "nameplate.png"):
        (tmp_path / "in" / name).symlink_to(pages / name)
    ours, theirs = pty.openpty()
    command = [*HALVE, "run", str(tmp_path / "in"), str(tmp_path / "out"), "--visualize", "--prompt", "只识别‘型号’"]
    shown = b""
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment) as running:
        os.close(theirs)
        with contextlib.suppress(OSError):  # the other side has gone
            while piece := os.read(ours, 4096):
                shown += piece
    os.close(ours)
    assert running.returncode == 0, shown
    assert b"0 of 2" in shown
    assert re.search(rb"\d\.\d/s", shown)
    assert (tmp_path / "out" / "drawn" / "nameplate.png.png").is_file()
    page = json.loads((tmp_path / "out" / "nameplate.png.json").read_text(encoding="utf-8"))
    assert page["structured_data"] == {"型号": "Y2-132M-4"}


def test_run_after_kill_9_reads_the_rest_and_nothing_twice(pages: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(12):
        (tmp_path / "in" / f"{i} 页.png").symlink_to(pages / "packaging.png")
    output = tmp_path / "out"
    command = [*HALVE, "run", str(tmp_path / "in"), str(output), "--fields", "净含量"]

    def killed(count: int) -> bool:
        """Whether it was not done yet when it was killed, after so many."""
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
            end = time.monotonic() + 120
            while len(list(output.glob("*.png.json"))) < count and running.poll() is None:
                assert time.monotonic() < end
                time.sleep(0.01)
            running.kill()
        return (output / ".unfinished").exists()

    for _ in range(10):  # anew, should this process be kept waiting until all are read
        if killed(2) and killed(4):
            break
        shutil.rmtree(output)
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("*.png.json")}
    listed = {
        json.loads(line)["original_filename"]
        for line in (output / "results.jsonl").read_text(encoding="utf-8").split("\n")
        if line.endswith("}")
    }
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout)["images"] == 12
    assert done.stderr == ""  # no progress bar where there is no terminal
    after = {path.name: path.stat().st_mtime_ns for path in output.glob("*.png.json")}
    assert len(after) == 12
    assert all(after[f"{name}.json"] == before[f"{name}.json"] for name in listed)
    names = [json.loads(line)["original_filename"] for line in (output / "results.jsonl").read_text().splitlines()]
    assert sorted(names) == sorted(path.name for path in (tmp_path / "in").iterdir())
    assert not list(output.glob(".*"))


def test_serve_says_its_address_and_ends_on_ctrl_c() -> None:
    with subprocess.Popen(
        [*HALVE, "serve", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as served:
        try:
            assert served.stdout is not None
            address = served.stdout.readline().split()[0]
            assert httpx.get(f"{address}/healthz", timeout=60).json()["status"] in ("loading", "ready")
            served.send_signal(signal.SIGINT)
            assert served.wait(120) == 0
        finally:
            if served.poll() is None:
                served.kill()


def test_serve_on_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = halve("serve", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert re.fullmatch(r"halve: cannot listen on 127\.0\.0\.1:\d+: Address already in use; .*\n", done.stderr)


def test_bench_json_and_record(pages: Path, tmp_path: Path) -> None:
    with Image.open(pages / "nameplate.png") as page:
        page.crop((0, 0, 64, 64)).save(tmp_path / "corner.png")  # quickly read: twenty calls make a row
    words = ("bench", "--images", str(tmp_path), "--batch", "1,2", "--seconds", "0.1", "--record", "--json")
    for _ in range(3):  # who is kept waiting in the middle of it takes longer warm than cold
        done = halve(*words, HALVE_HOME=str(tmp_path))
        assert done.returncode == 0, done.stderr
        row = json.loads(done.stdout)
        if row["cold_seconds"] > row["warm_seconds"]:
            break
    assert [(each["size"], each["batch"]) for each in row["rows"]] == [("", 1), ("small", 1), ("small", 2)]
    assert row["cold_seconds"] > row["warm_seconds"] > 0
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", row["measured_at"])
    assert row["joules_per_image"] is None or row["joules_per_image"] > 0
    assert {"model", "gpu", "provider", "precision", "batch", "images_per_second", "p95_ms", "memory_bytes"} <= set(row)
    assert row["recorded"] is True
    table = json.loads(halve("gpus", "--model", "ppocr", "--json", HALVE_HOME=str(tmp_path)).stdout)
    (own,) = [each for each in table if each["gpu"] == row["gpu"]]
    assert own["images_per_second"] == pytest.approx(row["images_per_second"])  # not that of a size
    sized = json.loads(halve("gpus", "--model", "ppocr", "--size", "small", "--json", HALVE_HOME=str(tmp_path)).stdout)
    (own,) = [each for each in sized if each["gpu"] == row["gpu"]]
    assert own["images_per_second"] == pytest.approx(max(each["images_per_second"] for each in row["rows"][1:]))


def test_bench_without_images_to_read_says_so(tmp_path: Path) -> None:
    done = halve("bench", "--images", str(tmp_path))
    assert (done.returncode, done.stderr) == (1, f"halve: {tmp_path}: no images in it\n")


def test_without_the_engines_packages_the_remedy_is_one_line(pages: Path) -> None:
    """As on a machine with the base install alone: the packages are hidden from the finder."""
    hidden = (
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        hidden = name.split('.')[0] in ('cv2', 'onnxruntime')\n"
        "        return None if hidden else PathFinder.find_spec(name, path, target)\n"
        "sys.meta_path = [f for f in sys.meta_path if f is not PathFinder] + [Finder()]\n"
        "from orchestrator.cli import main; main()"
    )
    for words in (["read", "x.png"], ["run", ".", "out"], ["serve"], ["bench"]):
        done = subprocess.run(
            [sys.executable, "-c", hidden, *words], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 1
        assert (
            done.stderr == "halve: the engine is not installed (cv2, onnxruntime missing): pip install 'halve[cpu]'\n"
        )
