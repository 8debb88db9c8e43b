"""What a batch is to read: folders, globs, manifests; and that no name of them leads out of the destination."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import Refused
from orchestrator.jobs import submit
from orchestrator.jobs.sources import Unnameable, kept_as, listed, location
from orchestrator.ledger.store import Ledger
from orchestrator.s3 import Address
from tests.orchestrator.batch import NOW, folder, opened


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return opened(tmp_path / "home")


GLOBS = {
    "one folder": ("in/*.png", "in", ["a.png"]),
    "every folder": ("in/**/*.png", "in", ["a.png", "x/b.png", "x/y/c.png"]),
    "everything": ("in/**", "in", ["a.png", "d.jpg", "x/b.png", "x/y/c.png"]),
    "a folder in the middle": ("in/*/b.*", "in", ["x/b.png"]),
    "one character": ("in/x/[ab].png", "in/x", ["b.png"]),
    "from here": ("*/a.png", ".", ["in/a.png"]),
}


@pytest.mark.parametrize(("pattern", "root", "names"), GLOBS.values(), ids=GLOBS.keys())
def test_a_glob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, root: str, names: list[str]) -> None:
    files = {"a.png": b"", "d.jpg": b"", "x/b.png": b"", "x/y/c.png": b"", "x/notes.txt": b"", ".hidden/e.png": b""}
    folder(tmp_path / "in", files)
    monkeypatch.chdir(tmp_path)
    found = listed(pattern)
    assert (found.root, found.names) == ((tmp_path / root).resolve(), names)


def test_a_folder_whose_name_looks_like_a_glob_is_a_folder(tmp_path: Path) -> None:
    source = folder(tmp_path / "scans[1]", {"a.png": b""})
    assert listed(str(source)).names == ["a.png"]


def test_a_glob_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no images in it"):
        listed(str(tmp_path / "*.png"))


MANIFESTS = {
    "a column by name": ("l.csv", "id,path\n1,a.png\n2,x/b.png\n", ["a.png", "x/b.png"]),
    "the first column": ("l.csv", "a.png,1\nx/b.png,2\n", ["a.png", "x/b.png"]),
    "quoted": ("l.csv", '"a, b.png"\n"new\nline.png"\n', ["a, b.png", "new\nline.png"]),
    "from a spreadsheet": ("l.CSV", "\ufeffImage;\r\n".replace(";", "") + "a.png\r\n\r\n", ["a.png"]),
    "lines of JSON": ("l.jsonl", '"a.png"\n{"image": "x/b.png", "page": 3}\n\n', ["a.png", "x/b.png"]),
    "whole paths and objects": ("l.jsonl", '"/data/a.png"\n"s3://bucket/b.png"', ["/data/a.png", "s3://bucket/b.png"]),
    "a suffix of its own": ("l.csv", "scan.0001\n", ["scan.0001"]),
}


@pytest.mark.parametrize(("file", "content", "names"), MANIFESTS.values(), ids=MANIFESTS.keys())
def test_a_manifest(tmp_path: Path, file: str, content: str, names: list[str]) -> None:
    (tmp_path / file).write_text(content, newline="")
    assert listed(str(tmp_path / file)).names == names
    assert listed(str(tmp_path / file)).root == tmp_path


@pytest.mark.parametrize("file", ["l.csv", "l.jsonl"])
def test_bytes_that_are_not_utf8_come_through(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_bytes(b'"caf\xe9.png"\n')
    assert os.fsencode(listed(str(tmp_path / file)).names[0]) == b"caf\xe9.png"


WRONG = {
    "leads out": ("l.csv", "a.png\n../b.png\n", ["l.csv line 2", "'../b.png'", "leads out", "whole path"]),
    "leads out from inside": ("l.jsonl", '"x/../../b.png"', ["line 1", "leads out"]),
    "leads out of a bucket": ("l.jsonl", '"s3://bucket/../b.png"', ["line 1", "leads out"]),
    "twice": ("l.csv", "a.png\nb.png\na.png\n", ["line 3", "'a.png' is in line 1 already"]),
    "twice in other words": ("l.csv", "/a.png\na.png\n", ["line 2", "is in line 1 already"]),
    "the same file in other words": ("l.csv", "a.png\n./a.png\n", ["line 2", "no name of a file"]),
    "among the drafts": ("l.csv", ".halve-job-1/a.png\n", ["line 1", "drafts"]),
    "not JSON": ("l.jsonl", '"a.png"\nb.png\n', ["line 2", "not JSON"]),
    "no name": ("l.jsonl", '{"page": 3}\n', ["line 1", "`path`"]),
    "an empty cell": ("l.csv", "id,path\n1,\n", ["line 2", "no name"]),
    "a quote left open": ("l.csv", 'a.png\n"b.png\n', ["line 2"]),
    "nothing": ("l.csv", "path\n", ["no images"]),
}


@pytest.mark.parametrize(("file", "content", "says"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_in_a_manifest_is_said_with_its_line(
    tmp_path: Path, file: str, content: str, says: list[str]
) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(Refused) as refusal:
        listed(str(tmp_path / file))
    assert all(word in str(refusal.value) for word in says), str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_manifest_may_have_its_results_beside_it(tmp_path: Path, ledger: Ledger) -> None:
    folder(tmp_path / "in", {"a.png": b""})
    (tmp_path / "list.csv").write_text("in/a.png\n")
    job = submit(ledger, None, tmp_path / "list.csv", tmp_path / "out", [], NOW)
    assert (job.source, job.total) == (tmp_path, 1)
    assert location(job, "in/a.png") == tmp_path / "in/a.png"
    assert location(job, "/data/a.png") == Path("/data/a.png")
    assert location(job, "s3://bucket/x/b.png") == Address("bucket", "x/b.png")


PARTS = st.lists(st.sampled_from(["..", ".", "", "a", "a.png", "s3:", "/", "\0", ".halve-job-1", "~"]), max_size=6)


@given(parts=PARTS, head=st.sampled_from(["", "/", "//", "s3://", "s3:///", "s3://bucket/"]))
def test_no_name_leads_out_of_the_destination(parts: list[str], head: str) -> None:
    try:
        kept = kept_as(head + "/".join(parts))
    except Unnameable:
        return
    place = os.path.normpath(f"/out/{kept}.json")
    assert place == f"/out/{kept}.json"  # as it is written: nothing of it is folded away
    assert not kept.startswith(("/", ".halve-job-"))


@given(st.lists(st.text(alphabet="a./s3:", min_size=1, max_size=8), max_size=6, unique=True))
def test_a_manifest_never_has_two_names_for_one_result(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    manifest = tmp_path_factory.mktemp("manifest") / "l.jsonl"
    manifest.write_text("".join(f"{json.dumps(name)}\n" for name in names))
    try:
        found = listed(str(manifest)).names
    except Refused:
        return
    assert len({kept_as(name) for name in found}) == len(names)
