"""Whose fault an answer is: the door's and the engine's words, over real HTTP."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from orchestrator.executors import Task, Verdict
from orchestrator.executors.http import HttpExecutor, judged
from tests.orchestrator.batch import folder
from tests.orchestrator.fake_engine import Replica, replica
from tests.orchestrator.ports import free_port

__all__ = ["replica"]

RESULT = '{"recognized_text":"发票","lines":[]}'
ANSWERS = {
    "a result": (200, RESULT, Verdict.READ, ""),
    "not JSON": (200, "<html>", Verdict.FAULT, "not the JSON object"),
    "several images": (200, f"[{RESULT}]", Verdict.FAULT, "not the JSON object"),
    "an object that is no result": (200, '{"status":"ok"}', Verdict.FAULT, "not the JSON object"),
    "damaged": (400, '{"error":"damaged PNG image"}', Verdict.REFUSED, "400 damaged PNG image"),
    "too large": (413, '{"error":"too large","reason":"at most 64 MiB"}', Verdict.REFUSED, "413 at most 64 MiB"),
    "no image": (415, "", Verdict.REFUSED, "415 Unsupported Media Type"),
    "the engine stumbles": (500, '{"error":"reading\\nfailed"}', Verdict.FAULT, "500 reading failed"),
    "the replica died": (502, '{"error":"broken","reason":"the replica died"}', Verdict.LOST, "502 the replica died"),
    "no answer in time": (504, "", Verdict.LOST, "504"),
    "the body stopped": (408, "", Verdict.LOST, "408"),
    "closed": (503, '{"error":"closed","reason":"closed until 08:00"}', Verdict.UNAVAILABLE, "503 closed until 08:00"),
    "crowded": (429, "", Verdict.UNAVAILABLE, "429"),
    "no token": (401, "", Verdict.BARRED, "401"),
    "another address": (404, "", Verdict.BARRED, "http://door/v1/ocr: 404"),
    "moved": (301, "", Verdict.BARRED, "301"),
}


@pytest.mark.parametrize(("status", "body", "verdict", "reason"), ANSWERS.values(), ids=ANSWERS.keys())
def test_what_an_answer_means(status: int, body: str, verdict: Verdict, reason: str) -> None:
    request = httpx.Request("POST", "http://door/v1/ocr")
    outcome = judged(httpx.Response(status, text=body, request=request))
    assert outcome.verdict is verdict
    assert reason in outcome.reason


@pytest.mark.parametrize(
    ("said", "seconds"), [("7", 7.0), ("0", 0.0), ("soon", None), ("-1", None), ("inf", None), (None, None)]
)
def test_retry_after(said: str | None, seconds: float | None) -> None:
    headers = {} if said is None else {"Retry-After": said}
    request = httpx.Request("POST", "http://door/v1/ocr")
    assert judged(httpx.Response(503, headers=headers, request=request)).retry_after_seconds == seconds


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(b"some text")
    return path


def test_the_file_its_name_its_fields_and_the_priority_arrive(replica: Replica, image: Path) -> None:
    executor = HttpExecutor(replica.start().url)
    outcome = executor.read(Task(place=image, name="发票 1.png", fields=("甲方", "金额")))
    assert outcome.verdict is Verdict.READ
    assert outcome.result["recognized_text"] == "some text"
    assert outcome.result["original_filename"] == "发票 1.png"
    assert outcome.result["structured_data"] == {"甲方": "", "金额": ""}
    assert replica.seen() == [{"name": "发票 1.png", "priority": "batch"}]


@pytest.mark.parametrize("name", ['a"b\\c.png', "a\nb.png", b"caf\xe9.png".decode("utf-8", "surrogateescape")])
def test_any_name_can_be_sent(replica: Replica, image: Path, name: str) -> None:
    outcome = HttpExecutor(replica.start().url).read(Task(place=image, name=name))
    assert outcome.verdict is Verdict.READ


def test_a_file_that_cannot_be_read_raises(replica: Replica, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        HttpExecutor(replica.start().url).read(Task(place=tmp_path / "none.png", name="none.png"))


def test_nobody_listens(image: Path) -> None:
    outcome = HttpExecutor(f"http://127.0.0.1:{free_port()}/v1/ocr").read(Task(place=image, name="a.png"))
    assert outcome.verdict is Verdict.UNAVAILABLE


def test_a_replica_that_dies_of_it(replica: Replica, image: Path) -> None:
    image.write_bytes(b"poison")
    outcome = HttpExecutor(replica.start().url).read(Task(place=image, name="a.png"))
    assert outcome.verdict is Verdict.LOST


def test_a_replica_that_never_answers(replica: Replica, image: Path) -> None:
    image.write_bytes(b"hangs")
    outcome = HttpExecutor(replica.start().url, answer_seconds=0.3).read(Task(place=image, name="a.png"))
    assert outcome.verdict is Verdict.LOST
    assert "in time" in outcome.reason


def test_a_replica_that_may_read_it_where_it_lies_is_only_told_where(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", {f"{number} 深.png": f"text {number}".encode() for number in range(3)})
    engine = Replica(tmp_path, allowed=source.as_uri()).start()
    try:
        executor = HttpExecutor(engine.url)
        for number in range(3):
            outcome = executor.read(Task(place=source / f"{number} 深.png", name="z.png"))
            assert outcome.result["recognized_text"] == f"text {number}"
        assert [one["source"] for one in engine.seen()] == [(source / f"{n} 深.png").as_uri() for n in range(3)]
        assert {one["priority"] for one in engine.seen()} == {"batch"}
    finally:
        engine.kill()


def test_one_that_may_not_is_sent_the_bytes(replica: Replica, image: Path, tmp_path: Path) -> None:
    """Of what it may read it is asked once, and never refuses anything."""
    asked = []
    executor = HttpExecutor(replica.start().url)
    executor._client.event_hooks["request"].append(
        lambda request: asked.append((request.method, request.headers.get("Content-Type", "").partition(";")[0]))
    )
    for _ in range(3):
        assert executor.read(Task(place=image, name="a.png")).verdict is Verdict.READ
    assert asked == [("GET", ""), *[("POST", "multipart/form-data")] * 3]


def test_what_lies_beside_what_it_may_read_is_sent(tmp_path: Path) -> None:
    may, beside = folder(tmp_path / "in", {"a.png": b"text"}), folder(tmp_path / "in2", {"a.png": b"text"})
    engine = Replica(tmp_path, allowed=may.as_uri()).start()
    try:
        executor = HttpExecutor(engine.url)
        for place in (may, beside):
            assert executor.read(Task(place=place / "a.png", name="a.png")).verdict is Verdict.READ
        assert ["source" in one for one in engine.seen()] == [True, False]
    finally:
        engine.kill()


def test_a_replica_that_says_it_may_and_then_may_not_is_sent_the_bytes(tmp_path: Path, image: Path) -> None:
    """Behind one door are several: another one answers than the one that was asked."""
    posts = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"status": "ready", "sources": [tmp_path.as_uri()]})
        posts.append(request.headers["Content-Type"].partition(";")[0])
        named = posts[-1] == "application/json"
        return httpx.Response(403, json={"error": "not within"}) if named else httpx.Response(200, text=RESULT)

    executor = HttpExecutor("http://door/v1/ocr")
    executor._client = httpx.Client(transport=httpx.MockTransport(answer))
    for _ in range(2):
        assert executor.read(Task(place=image, name="a.png")).verdict is Verdict.READ
    assert posts == ["application/json", "multipart/form-data", "multipart/form-data"]


def test_one_that_does_not_find_it_is_sent_the_bytes(tmp_path: Path) -> None:
    """A host that may read the same folder, and has none of it: whatever refuses the address, the bytes decide."""
    engine = Replica(tmp_path, allowed="file:///").start()
    try:
        raw = tmp_path / os.fsdecode(b"caf\xe9.png")  # its name is none that an address says alike everywhere
        raw.write_bytes(b"text")
        assert HttpExecutor(engine.url).read(Task(place=raw, name="a.png")).verdict is Verdict.READ
        (tmp_path / "b.png").write_bytes(b"corrupt")
        outcome = HttpExecutor(engine.url).read(Task(place=tmp_path / "b.png", name="b.png"))
        assert (outcome.verdict, outcome.reason) == (Verdict.REFUSED, "400 damaged PNG image")
    finally:
        engine.kill()


def test_what_kills_by_its_address_is_not_sent_after_it(tmp_path: Path, image: Path) -> None:
    image.write_bytes(b"poison")
    engine = Replica(tmp_path, allowed="file:///").start()
    try:
        assert HttpExecutor(engine.url).read(Task(place=image, name="a.png")).verdict is Verdict.LOST
        assert len(engine.seen()) == 1
    finally:
        engine.kill()


def test_the_engine_understands_how_an_image_is_named(tmp_path: Path, image: Path) -> None:
    """The body as it is sent, read by the engine's own code."""
    pytest.importorskip("starlette")
    from inference.sources import Sources
    from inference.uploads import _from_json

    bodies: list[bytes] = []
    replica = Sources([tmp_path.as_uri()])

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"status": "ready", "sources": replica.named})
        bodies.append(request.read())
        return httpx.Response(200, text=RESULT)

    executor = HttpExecutor("http://door/v1/ocr")
    executor._client = httpx.Client(transport=httpx.MockTransport(answer))
    assert executor.read(Task(place=image, name="a.png", fields=("甲方", "金额"))).verdict is Verdict.READ
    upload = _from_json(bodies[0], replica, 10**6)
    assert upload.files[0].content == b"some text"
    assert list(upload.wanted) == ["甲方", "金额"]


@pytest.fixture
def refuser() -> Iterator[str]:
    """Answers 413 before it has read the body, and hangs up: what a door does with a body that is too large."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for _ in ("named", "sent"):
                client, _ = server.accept()
                with client:
                    client.recv(1000)
                    client.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(65536):
                        pass

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1/ocr"
        thread.join(10)


def test_an_answer_before_the_end_of_the_body_is_heard(refuser: str, image: Path) -> None:
    image.write_bytes(bytes(20_000_000))
    outcome = HttpExecutor(refuser).read(Task(place=image, name="a.png"))
    assert outcome.verdict is Verdict.REFUSED


def test_a_proxy_of_the_environment_is_not_asked(
    replica: Replica, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    assert HttpExecutor(replica.start().url).read(Task(place=image, name="a.png")).verdict is Verdict.READ
