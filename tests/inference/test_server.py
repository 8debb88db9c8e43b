"""The engine over real HTTP, in a process of its own."""

import asyncio
import base64
import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from inference import server
from inference.batching import GPU_BUCKETS, QueueFull
from inference.engine import Reading
from inference.service import Service, Settings
from tests.inference.files import encoded, png_claiming
from tests.inference.replica import ANSWER_SECONDS, HalfSent, Replica, replica
from tests.inference.test_batching import OUT_OF_MEMORY

KEYS = [
    "original_filename",
    "width",
    "height",
    "recognized_text",
    "lines",
    "structured_data",
    "processing_time_ms",
    "model",
    "precision",
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    with replica(tmp_path_factory.mktemp("replica"), "--workers", "1") as running:
        running.until("ready")
        yield running


def test_one_image_is_an_object_with_exactly_the_promised_keys(
    served: Replica, pages: Path, truth: dict[str, Any]
) -> None:
    content = (pages / "invoice.png").read_bytes()
    answer = served.client.post("/v1/ocr", files={"file": ("发票.png", content)})
    assert answer.status_code == 200
    page = answer.json()
    assert list(page) == KEYS
    assert (page["original_filename"], page["width"], page["height"]) == ("发票.png", 1000, 640)
    assert page["recognized_text"] == "\n".join(line["text"] for line in page["lines"])
    assert "增值税电子普通发票" in page["recognized_text"]
    assert (page["model"], page["precision"]) == ("ppocr", "fp32")
    assert page["processing_time_ms"] > 0
    for line in page["lines"]:
        assert list(line) == ["text", "score", "box"]
        assert 0.5 <= line["score"] <= 1
        assert np.array(line["box"]).shape == (4, 2)
    assert page["structured_data"].items() >= truth["invoice.png"]["fields"].items()


def test_several_images_are_an_array_in_input_order(served: Replica, pages: Path) -> None:
    names = ["packaging.png", "nameplate.png", "packaging.png"]
    sent = [("file", (name, (pages / name).read_bytes())) for name in names]
    answer = served.client.post("/v1/ocr", files=sent, data={"fields": "型号,净含量"})
    assert [page["original_filename"] for page in answer.json()] == names
    assert [page["structured_data"] for page in answer.json()] == [
        {"型号": None, "净含量": "250 mL"},
        {"型号": "Y2-132M-4", "净含量": None},
        {"型号": None, "净含量": "250 mL"},
    ]
    assert answer.headers["X-Halve-Images"] == str(len(answer.json()))


def test_bytes_as_the_body_and_a_prompt_in_the_query(served: Replica, pages: Path) -> None:
    answer = served.client.post(
        "/v1/ocr",
        content=(pages / "contract.png").read_bytes(),
        params={"prompt": "请只识别图片中‘甲方’‘签订日期’两个字段", "filename": "contract.png"},
    )
    assert answer.json()["original_filename"] == "contract.png"
    assert answer.json()["structured_data"] == {"甲方": "云帆示例科技有限公司", "签订日期": "2026-03-18"}


def test_an_empty_page_is_an_empty_result(served: Replica) -> None:
    import cv2

    blank = bytes(cv2.imencode(".png", np.full((200, 300, 3), 255, np.uint8))[1])
    page = served.client.post("/v1/ocr", files={"file": ("blank.png", blank)}).json()
    assert (page["recognized_text"], page["lines"], page["structured_data"]) == ("", [], {})


PNG = {"content-type": "image/png"}


@pytest.mark.parametrize(
    ("request_", "status", "word"),
    [
        pytest.param({"content": b""}, 400, "empty body", id="empty-body"),
        pytest.param({"content": b"not an image", "headers": PNG}, 415, "not an image", id="text"),
        pytest.param({"json": {}}, 400, "either `image` or `images`", id="json-without-an-image"),
        pytest.param({"content": png_claiming(9, 9), "params": {"visualize": "perhaps"}}, 400, "true or false", id="?"),
        pytest.param({"content": png_claiming(60_000, 60_000)}, 413, "pixels", id="pixel-bomb"),
        pytest.param({"content": png_claiming(300, 300)}, 400, "damaged", id="hardly-any-pixels"),
        pytest.param({"content": b"\0" * (20 * 2**20 + 1)}, 413, "at most", id="image-too-large"),
        pytest.param({"content": b"\0" * (64 * 2**20 + 1)}, 413, "larger than", id="request-too-large"),
        pytest.param({"files": {"file": ("empty.png", b"")}}, 400, "empty.png: empty", id="empty-file"),
        pytest.param({"files": {"image": ("a.png", b"x")}}, 400, "name the part `file`", id="wrong-part-name"),
        pytest.param({"data": {"file": "text"}, "files": {"other": ("a", b"x")}}, 400, "no file", id="text-part"),
        pytest.param(
            {"files": [("file", (f"{i}.png", b"x")) for i in range(21)]}, 400, "Too many files", id="21-files"
        ),
        pytest.param(
            {"content": b"no parts", "headers": {"content-type": "multipart/form-data; boundary=x"}},
            400,
            "",
            id="garbled",
        ),
        pytest.param(
            {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "boundary", id="no-boundary"
        ),
        pytest.param(
            {"content": png_claiming(9, 9), "params": {"deadline_seconds": "soon"}}, 400, "number", id="deadline"
        ),
        pytest.param({"content": png_claiming(9, 9), "params": {"deadline_seconds": "-1"}}, 400, "above 0", id="past"),
        pytest.param({"content": png_claiming(9, 9), "params": {"deadline_seconds": "nan"}}, 400, "above 0", id="nan"),
    ],
)
def test_bad_input_is_refused_with_a_reason_and_the_service_lives_on(
    served: Replica, request_: dict[str, Any], status: int, word: str
) -> None:
    answer = served.client.post("/v1/ocr", **request_)
    assert answer.status_code == status, answer.text
    assert word in answer.json()["error"]
    assert served.health()["status"] == "ready"


def test_one_bad_image_among_good_ones_is_named(served: Replica, pages: Path) -> None:
    good = (pages / "packaging.png").read_bytes()
    answer = served.client.post("/v1/ocr", files=[("file", ("good.png", good)), ("file", ("cut.png", good[:3000]))])
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("cut.png: damaged")


def test_other_addresses_and_methods(served: Replica) -> None:
    assert served.client.get("/v1/ocr").status_code == 405
    assert served.client.get("/nowhere").json() == {"error": "Not Found"}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=400),
    kind=st.sampled_from(
        ["image/png", "multipart/form-data; boundary=x", "multipart/form-data; boundary=", "", "\x7f"]
    ),
    wrap=st.booleans(),
)
def test_no_body_gets_a_5xx(served: Replica, body: bytes, kind: str, wrap: bool) -> None:
    if wrap:
        body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + body + b"\r\n--x--\r\n"
    answer = served.client.post("/v1/ocr", content=body, headers={"content-type": kind})
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]


def test_health_says_what_really_runs(served: Replica) -> None:
    health = served.health()
    assert list(health)[:2] == ["status", "provider"]
    assert health["provider"].endswith("ExecutionProvider")
    assert health["model"] == "ppocr"
    assert (health["reclaim_at"], health["rebalance_at"]) == (None, None)
    assert health["batches"] == {"small": 1, "middle": 1, "large": 1}
    assert (health["in_flight"], health["queue"], health["sources"]) == (0, 0, [])


@pytest.mark.parametrize("said", [None, "", "[]", "null"])
def test_a_watcher_that_has_said_nothing_is_no_notice(tmp_path: Path, said: str | None) -> None:
    file = tmp_path / "notices.json"
    if said is not None:
        file.write_text(said)
    health = health_of(Service(Settings(notices=file)))
    assert (health["reclaim_at"], health["rebalance_at"]) == (None, None)


def test_health_says_what_the_hosts_watcher_has_heard(tmp_path: Path) -> None:
    service = Service(Settings(notices=tmp_path / "notices.json"))
    (tmp_path / "notices.json").write_text('{"reclaim_at": null, "rebalance_at": "2026-11-20T12:00:00Z"}')
    health = health_of(service)
    assert (health["reclaim_at"], health["rebalance_at"]) == (None, "2026-11-20T12:00:00Z")
    (tmp_path / "notices.json").write_text('{"reclaim_at": "2026-11-20T12:02:00Z", "rebalance_at": null}')
    assert health_of(service)["reclaim_at"] == "2026-11-20T12:02:00Z"


def health_of(service: Service) -> dict[str, Any]:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(server.app(service, failed=lambda error: None))
        async with httpx.AsyncClient(transport=transport, base_url="http://replica") as client:
            return await client.get("/healthz")

    found: dict[str, Any] = asyncio.run(ask()).json()
    return found


def test_metrics_count_images_and_refusals(served: Replica, pages: Path) -> None:
    def value(name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", served.client.get("/metrics").text, re.M)
        return float(found[1]) if found else 0.0

    images, fine, unfit = (
        value(name)
        for name in ("halve_images_total", 'halve_requests_total{status="200"}', 'halve_requests_total{status="415"}')
    )
    content = (pages / "packaging.png").read_bytes()
    served.client.post("/v1/ocr", files=[("file", ("a", content)), ("file", ("b", content))])
    served.client.post("/v1/ocr", content=b"no image")
    assert value("halve_images_total") == images + 2
    assert value('halve_requests_total{status="200"}') == fine + 1
    assert value('halve_requests_total{status="415"}') == unfit + 1
    assert value('halve_request_seconds_bucket{le="+Inf"}') == value("halve_request_seconds_count") == fine + 1
    assert served.health()["images_total"] == images + 2


def test_a_deadline_that_passes_is_a_504(served: Replica, pages: Path) -> None:
    content = (pages / "contract.png").read_bytes()
    answer = served.client.post("/v1/ocr", content=content, params={"deadline_seconds": "0.001"})
    assert answer.status_code == 504


def test_a_full_queue_is_a_429_with_retry_after(tmp_path: Path, pages: Path) -> None:
    content = (pages / "contract.png").read_bytes()
    with replica(tmp_path, "--workers", "1", "--queue", "1") as running:
        running.until("ready")
        one_is_read, one_waits = HalfSent(running, content), HalfSent(running, content)
        running.until_in_flight(2)
        refused = running.client.post("/v1/ocr", content=content)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert (one_is_read.answered()[0], one_waits.answered()[0]) == (200, 200)
        assert running.client.post("/v1/ocr", content=content).status_code == 200


class Tight:
    """An engine that has no memory for more than so many pixels, and says so as its runtime does."""

    model, precision, provider, fallback, on_accelerator = "tight", "fp32", "fake", None, False

    def __init__(self, most: int, error: Exception) -> None:
        self.most, self.error = most, error

    def read(self, some: list[Any]) -> list[Reading]:
        if sum(page.shape[0] * page.shape[1] for page in some) > self.most:
            raise self.error
        return [Reading(width=page.shape[1], height=page.shape[0], lines=(), seconds=0.0) for page in some]


def asked(service: Service, *sizes: int) -> httpx.Response:
    """What a service in this process answers to blank pages of so many pixels a side."""
    files = [("file", (f"{side}.png", encoded(Image.new("L", (side, side))))) for side in sizes]

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(server.app(service, failed=lambda error: None))
        async with httpx.AsyncClient(transport=transport, base_url="http://replica") as client:
            return await client.post("/v1/ocr", files=files)

    return asyncio.run(ask())


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_a_page_too_large_for_the_memory_is_a_503_and_those_beside_it_are_read_in_halves(error: Exception) -> None:
    service = Service(Settings(workers=1))
    service.start(Tight(20_000, error), GPU_BUCKETS)  # type: ignore[arg-type]
    assert len(asked(service, 100, 100, 100, 100).json()) == 4
    assert service.at_once == {"small": 2, "middle": 2, "large": 1}
    answer = asked(service, 600)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "memory" in answer.json()["error"]
    assert asked(service, 100).status_code == 200


def test_another_failure_is_a_500_that_points_to_the_log() -> None:
    service = Service(Settings(workers=1))
    service.start(Tight(0, ValueError("secret detail")))  # type: ignore[arg-type]
    answer = asked(service, 100)
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_more_images_than_ever_wait_are_a_413() -> None:
    """A 429 would have the client come back for ever."""
    service = Service(Settings(workers=1, queue=2))
    service.start(Tight(10**9, MemoryError()))  # type: ignore[arg-type]
    assert asked(service, 100, 100).status_code == 200
    answer = asked(service, 100, 100, 100)
    assert (answer.status_code, answer.json()["error"]) == (413, "3 images; at most 2 at once here")


class Gated(Tight):
    """Reads nothing until its gate is opened, and remembers how wide the pages were that it began to read."""

    def __init__(self) -> None:
        super().__init__(10**9, MemoryError())
        self.gate, self.widths = threading.Event(), list[int]()

    def read(self, some: list[Any]) -> list[Reading]:
        self.widths += [page.shape[1] for page in some]
        assert self.gate.wait(ANSWER_SECONDS)
        return super().read(some)


def gated(settings: Settings) -> tuple[Service, Gated]:
    service, engine = Service(settings), Gated()
    service.start(engine)  # type: ignore[arg-type]
    return service, engine


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(ANSWER_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


BATCH = {"X-Halve-Priority": "batch"}
SOON = "?deadline_seconds=0.05"


def one_after_the_other(
    service: Service, engine: Gated, *asked: tuple[int, str, dict[str, str]], late: bool = False
) -> list[httpx.Response]:
    """The answers to requests (width of the page, address, headers), of which each comes when those before it are being
    read, wait or were refused. The engine's gate is opened when all have come; when `late`, when all are answered."""

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(server.app(service, failed=lambda error: None))
        async with httpx.AsyncClient(transport=transport, base_url="http://replica") as client:
            under_way: list[asyncio.Task[httpx.Response]] = []
            for width, address, headers in asked:
                content = encoded(Image.new("L", (width, 50)))
                if "/v2/" in address:
                    body = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1]}]}
                    body["inputs"][0]["data"] = [base64.b64encode(content).decode()]
                    content = json.dumps(body).encode()
                under_way.append(asyncio.create_task(client.post(address, content=content, headers=headers)))
                await until(
                    lambda: (
                        len(engine.widths) + service.waiting + sum(task.done() for task in under_way) >= len(under_way)
                    )
                )
            if not late:
                engine.gate.set()
            answers = await asyncio.gather(*under_way)
            engine.gate.set()
            await service.close()
            return answers

    return asyncio.run(ask())


@pytest.mark.parametrize("address", ["/v1/ocr", "/v2/models/tight/infer"])
def test_a_batch_waits_for_online_requests(address: str) -> None:
    service, engine = gated(Settings(workers=1))
    asked = [(50, address, BATCH), (51, address, BATCH), (52, address, BATCH), (60, address, {}), (61, address, {})]
    answers = one_after_the_other(service, engine, *asked)
    assert {answer.status_code for answer in answers} == {200}
    assert engine.widths == [50, 60, 61, 51, 52]


def test_a_batch_that_online_requests_left_no_time_may_come_back() -> None:
    """A 504 would count against its images. Online, whoever waits in vain is told so as ever."""
    service, engine = gated(Settings(workers=1, deadline_seconds=1.0))
    asked = [(50, "/v1/ocr", {}), (51, f"/v1/ocr{SOON}", BATCH), (52, f"/v1/ocr{SOON}", {})]
    running, batch, online = one_after_the_other(service, engine, *asked, late=True)
    assert (running.status_code, batch.status_code, online.status_code) == (504, 429, 504)
    assert batch.headers["retry-after"] == "5"
    assert engine.widths == [50]


def test_a_batch_leaves_half_of_the_room_to_online_requests() -> None:
    service, engine = gated(Settings(workers=1, queue=3, max_held_bytes=1000))
    asked = [(50, "/v1/ocr", BATCH)] * 3 + [(60, "/v1/ocr", {})] * 2
    assert [answer.status_code for answer in one_after_the_other(service, engine, *asked)] == [200, 200, 429, 200, 200]
    with service.entered(online=False) as hold:
        hold(500)
        with pytest.raises(QueueFull):
            hold(1)
        with service.entered() as hold_more:
            hold_more(500)


def test_images_are_counted_by_size() -> None:
    service = Service(Settings(workers=1))
    service.start(Tight(10**9, MemoryError()))  # type: ignore[arg-type]
    assert asked(service, 100, 639, 640, 1281).status_code == 200
    counted = re.findall(r'^halve_images_by_size_total{size="(\w+)"} (\d+)$', service.metrics.text({}), re.M)
    assert counted == [("small", "2"), ("middle", "1"), ("large", "1")]


@contextlib.asynccontextmanager
async def listening(service: Service) -> AsyncIterator[int]:
    """The service's server in this process, on this port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        app = server.app(service, failed=lambda error: None)
        running = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False))
        serving = asyncio.create_task(running.serve(sockets=[taken]))
        try:
            yield taken.getsockname()[1]
        finally:
            running.should_exit = True
            await serving
    await service.close()


async def come_and_gone(service: Service, engine: Gated, port: int, content: bytes) -> None:
    """A client that sends a page, hangs up when it is being read or waits, and is then forgotten."""
    in_flight, waiting, come = service.in_flight, service.waiting, service.waiting + len(engine.widths)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v1/ocr HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
    await until(lambda: service.waiting + len(engine.widths) == come + 1)
    writer.close()
    await until(lambda: (service.in_flight, service.waiting) == (in_flight, waiting))


def test_work_of_a_client_that_left_is_dropped() -> None:
    async def scenario() -> None:
        service, engine = gated(Settings(workers=1))
        async with listening(service) as port, httpx.AsyncClient(timeout=ANSWER_SECONDS) as client:
            for _ in range(12):
                await come_and_gone(service, engine, port, encoded(Image.new("L", (50, 50))))
            engine.gate.set()
            content = encoded(Image.new("L", (60, 50)))
            answer = await client.post(f"http://127.0.0.1:{port}/v1/ocr", content=content)
            assert answer.status_code == 200
            assert engine.widths == [50, 60]  # the first had been begun
            assert service.metrics.images_total == 1
            assert 'halve_requests_total{status="499"} 12' in service.metrics.text({})

    asyncio.run(scenario())


def test_the_engine_does_not_run_what_nobody_waits_for() -> None:
    """Six pages keep the only worker busy while twelve clients ask and leave: the engine runs six times."""

    async def scenario() -> None:
        service, engine = gated(Settings(workers=1))
        async with listening(service) as port, httpx.AsyncClient(timeout=ANSWER_SECONDS) as client:
            url = f"http://127.0.0.1:{port}"
            sent = [("file", (f"{i}.png", encoded(Image.new("L", (50, 50))))) for i in range(6)]
            inside = asyncio.create_task(client.post(f"{url}/v1/ocr", files=sent))
            await until(lambda: engine.widths and service.waiting == 5)
            for _ in range(12):
                await come_and_gone(service, engine, port, encoded(Image.new("L", (60, 50))))
            engine.gate.set()
            assert len((await inside).json()) == 6
            assert engine.widths == [50] * 6
            (stats,) = (await client.get(f"{url}/v2/models/tight/stats")).json()["model_stats"]
            assert stats["execution_count"] == 6
            assert 'halve_requests_total{status="499"} 12' in service.metrics.text({})

    asyncio.run(scenario())


def test_draining_refuses_new_requests_and_finishes_those_in_flight(tmp_path: Path, pages: Path) -> None:
    content = (pages / "contract.png").read_bytes()
    with replica(tmp_path, "--workers", "1") as running:
        running.until("ready")
        inside = HalfSent(running, *[content] * 6)
        running.until_in_flight(1)
        drained = running.client.post("/drain").json()
        assert (drained["status"], drained["in_flight"]) == ("draining", 1)
        refused = running.client.post("/v1/ocr", content=content)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert running.client.post("/drain").status_code == 200
        status, read = inside.answered()
        assert (status, len(read)) == (200, 6)
        assert running.health() | {"status": "draining", "in_flight": 0, "images_total": 6} == running.health()


def test_sigterm_finishes_what_is_in_flight_then_ends(tmp_path: Path, pages: Path) -> None:
    content = (pages / "contract.png").read_bytes()
    with replica(tmp_path, "--workers", "1") as running:
        running.until("ready")
        inside = HalfSent(running, *[content] * 4)
        running.until_in_flight(1)
        running.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + ANSWER_SECONDS
        with pytest.raises(httpx.TransportError):  # it has heard, and takes nobody else
            while time.monotonic() < end:
                running.health()
                time.sleep(0.01)
        status, read = inside.answered()
        assert (status, len(read)) == (200, 4)
        assert running.process.wait(ANSWER_SECONDS) == 0


def test_it_announces_itself_and_is_alive_before_the_model_is_loaded(tmp_path: Path, pages: Path) -> None:
    with replica(tmp_path) as running:
        assert list(running.announced) == ["pid", "port", "url", "started_at"]
        assert running.announced["pid"] == running.process.pid
        assert running.announced["url"] == f"http://127.0.0.1:{running.announced['port']}"
        assert datetime.fromisoformat(running.announced["started_at"]).tzinfo is not None
        if running.health()["status"] == "loading":
            answer = running.client.post("/v1/ocr", content=(pages / "packaging.png").read_bytes())
            assert answer.status_code == 200 or answer.headers["retry-after"] == "1"
        running.until("ready")
        assert list(tmp_path.glob("*.partial")) == []


def started(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "inference", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = started("--port", str(port))
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another --host or --port"
    ]


def test_a_model_that_does_not_load_ends_the_process_with_the_reason() -> None:
    ended = started("--port", "0", "--model", "no-such-model")
    assert ended.returncode == 1
    assert "no model named 'no-such-model'; there is ppocr" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_wrong_usage_is_2() -> None:
    assert started("--workers", "0").returncode == 2


def test_json_is_readable_chinese(served: Replica, pages: Path) -> None:
    answer = served.client.post("/v1/ocr", content=(pages / "packaging.png").read_bytes())
    assert "全脂纯牛奶" in answer.text
    assert answer.headers["content-type"] == "application/json"
    json.loads(answer.text)
