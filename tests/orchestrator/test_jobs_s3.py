"""A batch from S3 to S3, through a real S3 protocol on loopback."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import s3
from orchestrator.errors import Refused
from orchestrator.executors import Executor
from orchestrator.executors.http import HttpExecutor
from orchestrator.jobs import JobRunner, submit
from orchestrator.jobs.asking import result_lines
from orchestrator.ledger import jobs
from orchestrator.ledger.jobs import State
from orchestrator.ledger.store import Ledger
from orchestrator.s3 import Address
from tests.orchestrator.batch import NOW, HurriedClock, begin, find, folder, is_done, runner, until
from tests.orchestrator.fake_engine import Replica, replica
from tests.orchestrator.ports import free_port

__all__ = ["replica"]

pytest.importorskip("flask", reason="moto's server needs Flask")


@pytest.fixture(scope="module")
def store() -> Iterator[Any]:
    """A client of an S3 on loopback with an empty bucket `bucket`."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    before = dict(os.environ)
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        yield boto3.client("s3")
    finally:
        server.stop()
        os.environ.clear()
        os.environ |= before


@pytest.fixture
def bucket(store: Any, request: pytest.FixtureRequest) -> str:
    name = f"b{abs(hash(request.node.nodeid))}"
    store.create_bucket(Bucket=name)
    return name


def keys(bucket: str) -> set[str]:
    return set(s3.below(Address(bucket)))


def objects(bucket: str, key: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in s3.read(Address(bucket, key)).splitlines()]


def test_from_s3_to_s3(tmp_path: Path, ledger: Ledger, replica: Replica, running: list[JobRunner], bucket: str) -> None:
    images = {f"{number:02d}.png": f"text {number}".encode() for number in range(40)}
    images |= {"x/深 1.png": "中文".encode(), "bad.png": b"corrupt"}
    for name, content in images.items():
        s3.write(Address(bucket, f"scans/{name}"), content)
    for other in ("scans/notes.txt", "scans/.hidden/a.png", "scans2/a.png"):
        s3.write(Address(bucket, other), b"")
    job = submit(ledger, None, f"s3://{bucket}/scans/", f"s3://{bucket}/read", ["甲方"], NOW)
    assert job.total == len(images)
    begin(running, runner(ledger, HttpExecutor(replica.start().url)))
    until(lambda: is_done(ledger, job))
    read = sorted(images.keys() - {"bad.png"})
    found = objects(bucket, "read/results.jsonl")
    assert [one["original_filename"] for one in found] == read
    assert [one["recognized_text"] for one in found] == [images[name].decode() for name in read]
    assert objects(bucket, "read/errors.jsonl") == [{"original_filename": "bad.png", "error": "400 damaged PNG image"}]
    written = {key.removeprefix("read/") for key in keys(bucket) if key.startswith("read/")}
    assert written == {f"{name}.json" for name in read} | {"results.jsonl", "errors.jsonl"}
    assert objects(bucket, "read/x/深 1.png.json")[0]["recognized_text"] == "中文"
    assert b"".join(result_lines(ledger, job.id, NOW, errors=False)) == s3.read(Address(bucket, "read/results.jsonl"))


def test_from_s3_to_a_folder_no_key_leads_out(
    tmp_path: Path, ledger: Ledger, replica: Replica, running: list[JobRunner], bucket: str
) -> None:
    secret = folder(tmp_path / "secret", {"a.png": b"not yours"}) / "a.png"
    out = [
        "../a.png",
        "x/../../a.png",
        str(secret),
        "//a.png",
        "s3://elsewhere/a.png",
        ".halve-job-1/a.png",
        "a//b.png",
    ]
    fine = ["a b.png", "%2e%2e%2fa.png", "x/a.png"]
    store = s3._client()
    for key in (*out, *fine):
        store.put_object(Bucket=bucket, Key=f"scans/{key}", Body=b"text")
    job = submit(ledger, None, f"s3://{bucket}/scans", tmp_path / "out", [], NOW)
    begin(running, runner(ledger, HttpExecutor(replica.start().url)))
    until(lambda: is_done(ledger, job))
    listed = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert listed == {f"{name}.json" for name in fine} | {"results.jsonl", "errors.jsonl"}
    failed = len(out) - 1  # what is hidden is not listed at all
    assert (find(ledger, job.id).done, find(ledger, job.id).failed) == (len(fine), failed)
    assert not list(tmp_path.glob("*.json")) and not list(secret.parent.glob("*.json"))
    assert not any("not yours" in path.read_text() for path in (tmp_path / "out").rglob("*.json"))


def test_from_a_folder_to_s3_any_name_is_kept(
    tmp_path: Path, ledger: Ledger, replica: Replica, running: list[JobRunner], bucket: str
) -> None:
    names: dict[str | bytes, bytes] = {
        b"caf\xe9.png": b"1",
        "发票/🧾.png": b"2",
        "a b%.png": b"3",
        "x" * 250 + ".png": b"4",
    }
    long = "y" * 200
    names |= {"/".join([long] * 6) + ".png": b"too long for a key"}
    job = submit(ledger, None, folder(tmp_path / "in", names), f"s3://{bucket}/read", [], NOW)
    begin(running, runner(ledger, HttpExecutor(replica.start().url)))
    until(lambda: is_done(ledger, job))
    assert sorted(one["recognized_text"] for one in objects(bucket, "read/results.jsonl")) == ["1", "2", "3", "4"]
    (error,) = objects(bucket, "read/errors.jsonl")
    assert long in error["original_filename"] and "no result of the name" in error["error"]
    assert "read/caf\\udce9.png.json" in keys(bucket)


def test_a_manifest_names_files_and_objects(
    tmp_path: Path, ledger: Ledger, replica: Replica, running: list[JobRunner], bucket: str
) -> None:
    s3.write(Address(bucket, "scans/b.png"), b"in s3")
    whole = folder(tmp_path / "data", {"c.png": b"whole path"}) / "c.png"
    folder(tmp_path / "lists", {"x/a.png": b"relative"})
    (tmp_path / "lists/l.csv").write_text(f"x/a.png\ns3://{bucket}/scans/b.png\n{whole}\ns3://{bucket}/none.png\n")
    job = submit(ledger, None, tmp_path / "lists/l.csv", tmp_path / "out", [], NOW)
    begin(running, runner(ledger, HttpExecutor(replica.start().url)))
    until(lambda: is_done(ledger, job))
    out = tmp_path / "out"
    assert json.loads((out / "x/a.png.json").read_bytes())["recognized_text"] == "relative"
    assert json.loads((out / f"{bucket}/scans/b.png.json").read_bytes())["recognized_text"] == "in s3"
    assert json.loads((out / f"{str(whole)[1:]}.json").read_bytes())["recognized_text"] == "whole path"
    (error,) = [json.loads(line) for line in (out / "errors.jsonl").read_bytes().splitlines()]
    assert error["original_filename"] == f"s3://{bucket}/none.png" and "cannot be read" in error["error"]


def test_a_manifest_in_s3_is_relative_to_its_own_place(ledger: Ledger, tmp_path: Path, bucket: str) -> None:
    s3.write(Address(bucket, "lists/l.jsonl"), b'"x/a.png"\n"b.png"\n')
    job = submit(ledger, None, f"s3://{bucket}/lists/l.jsonl", tmp_path / "out", [], NOW)
    assert (str(job.source), job.total) == (f"s3://{bucket}/lists", 2)


REFUSALS = {
    "no bucket": ("s3://", "out", "want s3://bucket/prefix"),
    "no such bucket": ("s3://no-such-bucket/x", "out", "no-such-bucket"),
    "nothing there": ("s3://BUCKET/nothing", "out", "no images in it"),
    "a destination in its source": ("s3://BUCKET/scans", "s3://BUCKET/scans/out", "lies inside the source"),
    "a destination without a bucket": ("s3://BUCKET/scans", "s3://", "destination"),
    "a destination that is not there": ("s3://BUCKET/scans", "s3://no-such-bucket/x", "--out"),
}


@pytest.mark.parametrize(("source", "destination", "says"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusals(tmp_path: Path, ledger: Ledger, bucket: str, source: str, destination: str, says: str) -> None:
    s3.write(Address(bucket, "scans/a.png"), b"")
    target = destination.replace("BUCKET", bucket) if "s3:" in destination else tmp_path / destination
    with pytest.raises(Refused) as refusal:
        submit(ledger, None, source.replace("BUCKET", bucket), target, [], NOW)
    assert says in str(refusal.value) and "\n" not in str(refusal.value)
    with ledger.read() as tx:
        assert jobs.known(tx) == ()


def test_a_bucket_that_takes_nothing_pauses_the_job_until_it_does(
    tmp_path: Path, ledger: Ledger, replica: Replica, running: list[JobRunner], bucket: str, store: Any
) -> None:
    job = submit(ledger, None, folder(tmp_path / "in", {"a.png": b"a"}), f"s3://{bucket}/read", [], NOW)
    store.delete_bucket(Bucket=bucket)
    begin(running, runner(ledger, HttpExecutor(replica.start().url), clock=HurriedClock()))
    until(lambda: find(ledger, job.id).state is State.PAUSED)
    assert f"s3://{bucket}/read" in find(ledger, job.id).reason and find(ledger, job.id).failed == 0
    store.create_bucket(Bucket=bucket)
    until(lambda: is_done(ledger, job))
    assert keys(bucket) == {"read/a.png.json", "read/results.jsonl", "read/errors.jsonl"}


def test_an_s3_that_cannot_be_reached_fails_no_image(
    tmp_path: Path, ledger: Ledger, replica: Replica, running: list[JobRunner], bucket: str
) -> None:
    """The network to S3 is cut while the job runs: it waits, and then goes on."""
    for number in range(30):
        s3.write(Address(bucket, f"scans/{number:02d}.png"), b"text")
    job = submit(ledger, None, f"s3://{bucket}/scans", tmp_path / "out", [], NOW)

    class Cut(Executor):
        """S3 answers while it is set."""

        def __init__(self) -> None:
            self.whole = threading.Event()
            self.inner = HttpExecutor(replica.start().url)

        def read(self, task: Any) -> Any:
            if not self.whole.is_set():
                raise ConnectionError(5, "Could not connect to the endpoint URL", str(task.place))
            return self.inner.read(task)

    cut = Cut()
    begin(running, runner(ledger, cut, clock=HurriedClock()))
    until(lambda: find(ledger, job.id).state is State.PAUSED)
    assert "Could not connect" in find(ledger, job.id).reason
    cut.whole.set()
    until(lambda: is_done(ledger, job))
    assert (find(ledger, job.id).done, find(ledger, job.id).failed) == (30, 0)


def test_a_batch_without_s3_loads_none_of_it(tmp_path: Path) -> None:
    code = "import sys; import orchestrator.jobs, orchestrator.executors.http; sys.exit('boto3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
