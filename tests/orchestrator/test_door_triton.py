"""Triton's own client through the door, to a real replica: what the door must not touch, it does not."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from orchestrator.door import Door, ServingSet
from orchestrator.door import Replica as Served
from orchestrator.doorway import published
from tests.inference.replica import replica
from tests.orchestrator.door_asked import publish, status

PAGES = Path(__file__).resolve().parents[1] / "pages"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def door(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """With a replica that reads, behind it."""
    opened = Door(home, "ocr")
    opened.ensure("127.0.0.1:0")
    with replica(tmp_path_factory.mktemp("replica"), "--workers", "1") as running:
        running.until("ready")
        opened.publish(_serving(running.announced["url"]))
        yield opened
    opened.stop()
    opened.close()


def _serving(*urls: str) -> ServingSet:
    replicas = tuple(Served(id=f"ocr-{number}", url=url) for number, url in enumerate(urls))
    return ServingSet(deployment="ocr", open=True, reason="always", replicas=replicas)


@pytest.fixture
def client(door: Door) -> Iterator[triton.InferenceServerClient]:
    process = door.running()
    assert process is not None
    status(door)
    with triton.InferenceServerClient(process.url.removeprefix("http://"), concurrency=4) as client:
        yield client


def asked(*files: bytes, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("image", [len(files)], "BYTES")
    elements = list(files) if binary else [base64.b64encode(file) for file in files]
    return tensor.set_data_from_numpy(np.array(elements, dtype=object), binary_data=binary)


def test_health_and_descriptions(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("ppocr") and not client.is_model_ready("other")
    server = client.get_server_metadata()
    assert server["name"] == "halve" and "binary_tensor_data" in server["extensions"]
    assert client.get_model_metadata("ppocr")["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert client.get_model_config("ppocr")["input"][0]["data_type"] == "TYPE_STRING"
    assert client.get_inference_statistics("ppocr")["model_stats"][0]["name"] == "ppocr"


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("packing", [None, "gzip", "deflate"])
def test_tensors_both_ways(client: triton.InferenceServerClient, binary: bool, packing: str | None) -> None:
    files = [(PAGES / name).read_bytes() for name in ("packaging.png", "nameplate.png")]
    found = client.infer(
        "ppocr",
        [asked(*files, binary=binary)],
        request_id="seventeen",
        outputs=[triton.InferRequestedOutput(name, binary_data=binary) for name in ("result", "text")],
        parameters={"fields": "型号,净含量"},
        headers={"X-Request-Id": "mine"},
        request_compression_algorithm=packing,
        response_compression_algorithm=packing,
    )
    assert found.get_response()["id"] == "seventeen"
    results = [json.loads(result) for result in found.as_numpy("result")]
    assert [result["structured_data"]["净含量"] for result in results] == ["250 mL", None]
    texts = [text.decode() if isinstance(text, bytes) else text for text in found.as_numpy("text")]
    assert texts == [result["recognized_text"] for result in results] and all(texts)


def test_several_at_once(client: triton.InferenceServerClient) -> None:
    content = (PAGES / "packaging.png").read_bytes()
    under_way = [client.async_infer("ppocr", [asked(content)]) for _ in range(4)]
    texts = {tuple(one.get_result().as_numpy("text")) for one in under_way}
    assert len(texts) == 1


def test_refusals_are_the_replicas_own_words(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="not an image") as refused:
        client.infer("ppocr", [asked(b"no image")])
    assert refused.value.status() == "415"
    with pytest.raises(InferenceServerException, match="no such model") as refused:
        client.infer("other", [asked((PAGES / "packaging.png").read_bytes())])
    assert refused.value.status() == "404"


def test_what_is_packed_stays_packed(door: Door) -> None:
    """The door neither packs nor unpacks: bytes and headers are the replica's."""
    process = door.running()
    assert process is not None
    body = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [_page()]}]}
    asking = httpx.Request(
        "POST",
        f"{process.url}/v2/models/ppocr/infer",
        json=body,
        headers={"Accept-Encoding": "gzip", "X-Request-Id": "mine"},
    )
    with httpx.Client(timeout=60) as plain:
        answer = plain.send(asking, stream=True)
        raw = b"".join(answer.iter_raw())
    assert answer.status_code == 200 and answer.headers["X-Request-Id"] == "mine"
    assert answer.headers["Content-Encoding"] == "gzip" and raw[:2] == b"\x1f\x8b"
    assert len(raw) == int(answer.headers["Content-Length"])


def test_a_door_without_replicas_says_so_in_tritons_way(
    home: Path, door: Door, client: triton.InferenceServerClient
) -> None:
    serving = published(home, "ocr")
    assert serving is not None
    publish(door, _serving())
    try:
        assert not client.is_server_ready()
        with pytest.raises(InferenceServerException, match="unavailable") as refused:
            client.infer("ppocr", [asked(b"x")])
        assert refused.value.status() == "503"
    finally:
        door.publish(serving)


def _page() -> str:
    return base64.b64encode((PAGES / "packaging.png").read_bytes()).decode()
