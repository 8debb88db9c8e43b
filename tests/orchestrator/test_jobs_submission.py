"""A folder becomes a job, or a refusal that says what to do, with nothing recorded."""

import os
import sys
import tracemalloc
from pathlib import Path

import pytest

from orchestrator.errors import Refused
from orchestrator.jobs import submit
from orchestrator.jobs.sources import images
from orchestrator.ledger import items, jobs
from orchestrator.ledger.store import Ledger
from tests.orchestrator.batch import NOW, folder, numbered, opened


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return opened(tmp_path / "home")


def test_images_of_subfolders_keep_their_relative_names(tmp_path: Path, ledger: Ledger) -> None:
    source = folder(tmp_path / "in", {"b.png": b"", "a.JPG": b"", "x/y/c.tiff": b"", "x/a.png": b"", "notes.txt": b""})
    job = submit(ledger, None, source, tmp_path / "out", ["甲方"], NOW)
    assert (job.deployment, job.total, job.fields) == ("ocr", 4, ("甲方",))
    with ledger.write() as tx:
        leased = items.lease(tx, job.id, "me", 9, NOW, NOW)
    assert [item.name for item in leased] == ["a.JPG", "b.png", "x/a.png", "x/y/c.tiff"]


def test_what_is_no_image_file_is_left_out(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", {"a.png": b"", ".b.png": b"", ".thumbs/c.png": b"", "d.png.json": b""})
    (source / "folder.png").mkdir()
    os.mkfifo(source / "pipe.png")
    (source / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    (source / "loop").symlink_to(source)
    (source / "link.png").symlink_to(source / "a.png")
    assert list(images(source)) == ["a.png", "link.png"]


REFUSALS = {
    # source, destination -> what the line has to say
    "no such folder": ("none", "out", ["none", "No such file", "name a folder"]),
    "a file": ("in/a.png", "out", ["in/a.png", "Not a directory"]),
    "no images": ("empty", "out", ["empty", "no images", ".png"]),
    "destination is the source": ("in", "in", ["inside the source", "outside"]),
    "destination inside the source": ("in", "in/sub/out", ["inside the source", "outside"]),
    "inside by a detour": ("in", "empty/../in/out", ["inside the source"]),
    "destination is a file": ("in", "in.txt", ["in.txt", "--out"]),
    "destination below a file": ("in", "in.txt/out", ["in.txt", "--out"]),
}


@pytest.mark.parametrize(("source", "destination", "says"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusals(tmp_path: Path, ledger: Ledger, source: str, destination: str, says: list[str]) -> None:
    folder(tmp_path / "in", {"a.png": b""})
    folder(tmp_path / "empty", {"a.txt": b""})
    (tmp_path / "in.txt").write_text("")
    with pytest.raises(Refused) as refusal:
        submit(ledger, None, tmp_path / source, tmp_path / destination, [], NOW)
    assert all(word in str(refusal.value) for word in says)
    assert "\n" not in str(refusal.value)
    with ledger.read() as tx:
        assert jobs.known(tx) == ()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that takes no files")
def test_a_destination_that_takes_no_files_is_refused(tmp_path: Path, ledger: Ledger) -> None:
    source = folder(tmp_path / "in", {"a.png": b""})
    with pytest.raises(Refused, match="destination /proc"):
        submit(ledger, None, source, Path("/proc"), [], NOW)


def test_two_open_jobs_never_write_to_one_folder(tmp_path: Path, ledger: Ledger) -> None:
    source = folder(tmp_path / "in", {"a.png": b""})
    first = submit(ledger, None, source, tmp_path / "out", [], NOW)
    (tmp_path / "same").symlink_to(tmp_path / "out")
    with pytest.raises(Refused, match=f"job {first.id} still writes to"):
        submit(ledger, None, source, tmp_path / "same", [], NOW)
    with ledger.write() as tx:
        jobs.cancel(tx, first.id, NOW)
    submit(ledger, None, source, tmp_path / "out", [], NOW)


DEPLOYMENTS = {
    "the only one": (["a"], [], None, "a"),
    "named": (["a", "b"], [], "b", "b"),
    "the only one that is up": (["a", "b"], ["a"], None, "b"),
    "named, though down": (["a", "b"], ["a"], "a", "a"),
    "several": (["a", "b"], [], None, "--deployment NAME; there are: a, b"),
    "unknown": (["a", "b"], [], "c", "deployment c: unknown; there are: a, b"),
}


@pytest.mark.parametrize(("known", "down", "name", "expected"), DEPLOYMENTS.values(), ids=DEPLOYMENTS.keys())
def test_which_deployment(tmp_path: Path, known: list[str], down: list[str], name: str | None, expected: str) -> None:
    from orchestrator.ledger import deployments

    ledger = opened(tmp_path / "home", *known)
    with ledger.write() as tx:
        for gone in down:
            deployments.take_down(tx, gone, NOW)
    source = folder(tmp_path / "in", {"a.png": b""})
    if expected in known:
        assert submit(ledger, name, source, tmp_path / "out", [], NOW).deployment == expected
    else:
        with pytest.raises(Refused, match=expected):
            submit(ledger, name, source, tmp_path / "out", [], NOW)


def test_five_thousand_items_take_as_many_calls_as_five_thousand_need(tmp_path: Path, ledger: Ledger) -> None:
    """Bounded in calls and bytes, which every machine counts alike, and linear: twice the items, twice the calls."""

    def calls(count: int, out: str) -> int:
        source = folder(tmp_path / str(count), numbered(count))
        made = 0

        def count_call(frame: object, event: str, argument: object) -> None:
            nonlocal made
            made += event in ("call", "c_call")

        sys.setprofile(count_call)
        try:
            job = submit(ledger, None, source, tmp_path / out, [], NOW)
        finally:
            sys.setprofile(None)
        assert job.total == count
        return made

    calls(10, "warm")
    small, large = calls(2500, "a"), calls(5000, "b")
    assert large < 5000 * 150
    assert large < 2.2 * small
    tracemalloc.start()
    try:
        submit(ledger, None, tmp_path / "5000", tmp_path / "c", [], NOW)
        assert tracemalloc.get_traced_memory()[1] < 5000 * 4000
    finally:
        tracemalloc.stop()
