"""The v2 protocol, spoken by Triton's own client and by hand."""

import base64
import gzip
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from inference import kserve
from inference.refusals import Refusal
from tests.inference.replica import Replica, replica


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    with replica(tmp_path_factory.mktemp("replica"), "--workers", "1") as running:
        running.until("ready")
        yield running


@pytest.fixture
def client(served: Replica) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{served.announced['port']}") as client:
        yield client


def asked(*files: bytes, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("image", [len(files)], "BYTES")
    if binary:
        return tensor.set_data_from_numpy(np.array(files, dtype=object), binary_data=True)
    texts = [base64.b64encode(file) for file in files]
    return tensor.set_data_from_numpy(np.array(texts, dtype=object), binary_data=False)


def test_health_and_descriptions(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("ppocr")
    assert client.is_model_ready("ppocr", "1")
    assert not client.is_model_ready("ppocr", "2")
    assert not client.is_model_ready("other")
    server = client.get_server_metadata()
    assert server["name"] == "halve"
    assert "binary_tensor_data" in server["extensions"]
    model = client.get_model_metadata("ppocr")
    assert model["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert [output["name"] for output in model["outputs"]] == ["result", "text"]
    config = client.get_model_config("ppocr")
    assert config["input"][0]["data_type"] == "TYPE_STRING"
    assert config["instance_group"] == [{"name": "ppocr", "kind": "KIND_CPU", "count": 1}]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("packing", [None, "gzip", "deflate"])
def test_images_are_read_in_order(
    client: triton.InferenceServerClient, pages: Path, binary_in: bool, binary_out: bool, packing: str | None
) -> None:
    files = [(pages / name).read_bytes() for name in ("packaging.png", "nameplate.png")]
    found = client.infer(
        "ppocr",
        [asked(*files, binary=binary_in)],
        request_id="seventeen",
        outputs=[triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("result", "text")],
        parameters={"fields": "型号,净含量"},
        request_compression_algorithm=packing,
        response_compression_algorithm=packing,
    )
    assert found.get_response()["id"] == "seventeen"
    results = [json.loads(result) for result in found.as_numpy("result")]
    assert [result["structured_data"] for result in results] == [
        {"型号": None, "净含量": "250 mL"},
        {"型号": "Y2-132M-4", "净含量": None},
    ]
    texts = [text.decode() if isinstance(text, bytes) else text for text in found.as_numpy("text")]
    assert texts == [result["recognized_text"] for result in results]


def test_only_the_output_asked_for_comes_back(client: triton.InferenceServerClient, pages: Path) -> None:
    content = (pages / "packaging.png").read_bytes()
    found = client.infer("ppocr", [asked(content)], outputs=[triton.InferRequestedOutput("text", binary_data=False)])
    assert [output["name"] for output in found.get_response()["outputs"]] == ["text"]


def test_statistics_count_images(client: triton.InferenceServerClient, pages: Path) -> None:
    before = client.get_inference_statistics("ppocr")["model_stats"][0]
    content = (pages / "packaging.png").read_bytes()
    client.infer("ppocr", [asked(content, content)])
    with pytest.raises(InferenceServerException):
        client.infer("ppocr", [asked(b"no image")])
    after = client.get_inference_statistics()["model_stats"][0]
    assert after["inference_count"] == before["inference_count"] + 2
    assert after["last_inference"] > before["last_inference"]
    for kind in ("success", "fail"):
        assert after["inference_stats"][kind]["count"] == before["inference_stats"][kind]["count"] + 1
        assert after["inference_stats"][kind]["ns"] > before["inference_stats"][kind]["ns"]
    assert after["inference_stats"]["compute_infer"]["ns"] > 0


def test_refusals_reach_the_client_as_its_own_exception(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="image 2: not an image") as refused:
        client.infer("ppocr", [asked(blank(), b"no image")])
    assert refused.value.status() == "415"
    with pytest.raises(InferenceServerException, match="no such model") as refused:
        client.infer("other", [asked(blank())])
    assert refused.value.status() == "404"


def blank() -> bytes:
    return bytes(cv2.imencode(".png", np.full((40, 60, 3), 255, np.uint8))[1])


def test_the_images_of_an_answer_are_counted_for_whoever_stands_in_front(served: Replica) -> None:
    body, head = request({}, blank())
    answer = served.client.post("/v2/models/ppocr/infer", content=body, headers={kserve.HEADER_LENGTH: str(head)})
    assert answer.headers["X-Halve-Images"] == "1"
    assert answer.json()["outputs"][1] == {"name": "text", "datatype": "BYTES", "shape": [1], "data": [""]}


def test_a_replica_that_drains_is_live_but_not_ready(tmp_path: Path) -> None:
    with replica(tmp_path, "--workers", "1") as running:
        running.until("ready")
        running.client.post("/drain")
        with triton.InferenceServerClient(f"127.0.0.1:{running.announced['port']}") as client:
            assert client.is_server_live()
            assert not client.is_server_ready()
            assert not client.is_model_ready("ppocr")
            with pytest.raises(InferenceServerException, match="draining"):
                client.infer("ppocr", [asked(blank())])


def request(change: dict[str, Any], *files: bytes) -> tuple[bytes, int]:
    tensors = b"".join(struct.pack("<I", len(file)) + file for file in files)
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(files)]}
    tensor |= {"parameters": {"binary_data_size": len(tensors)}} | change
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + tensors, len(head)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"name": "pixels"}, "no input named"),
        ({"datatype": "FP32"}, "BYTES"),
        ({"shape": [2]}, "1 elements, not the 2"),
        ({"shape": [0]}, "above 0"),
        ({"shape": [-1]}, "above 0"),
        ({"shape": [True]}, "above 0"),
        ({"shape": []}, "1 to 20"),
        ({"shape": [21]}, "1 to 20"),
        ({"shape": [10**30, 10**30]}, "1 to 20"),
        ({"shape": "1"}, "shape"),
        ({"parameters": []}, "base64 texts"),
        ({"parameters": [1]}, "not an object"),
        ({"parameters": {"binary_data_size": -1}}, "length"),
        ({"parameters": {"binary_data_size": 10**9}}, "length"),
        ({"parameters": {"binary_data_size": "3"}}, "longer than the tensor"),
        ({"parameters": {"binary_data_size": 0}}, "0 elements"),
        ({"data": ["x"]}, "either data or binary"),
        ({"parameters": {}, "data": [7]}, "base64 texts"),
        ({"parameters": {}, "data": ["?"]}, "not base64"),
    ],
)
def test_wrong_tensors_are_refused_with_the_reason(change: dict[str, Any], word: str) -> None:
    body, head = request(change, b"file")
    with pytest.raises(Refusal, match=word) as refused:
        kserve.parsed(body, str(head))
    assert refused.value.status == 400


@pytest.mark.parametrize("header", ["-1", "x", "99999999", "٣", "1" * 50])
def test_a_wrong_header_length_is_refused(header: str) -> None:
    with pytest.raises(Refusal, match="Inference-Header-Content-Length"):
        kserve.parsed(b"{}", header)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["image", "BYTES"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["inputs", "outputs", "name", "shape", "datatype", "data", "parameters", "id", "binary_data_size"]
            )
            | st.text(max_size=5),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=400, deadline=None)
@given(asked=VALUES, tail=st.binary(max_size=60), shift=st.integers(-3, 3))
def test_any_request_is_parsed_or_refused(asked: Any, tail: bytes, shift: int) -> None:
    head = json.dumps(asked).encode()
    try:
        kserve.parsed(head + tail, str(len(head) + shift))
    except Refusal as refusal:
        assert refusal.status == 400


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tensor=st.fixed_dictionaries(
        {},
        optional={
            "name": st.just("image") | VALUES,
            "datatype": st.just("BYTES") | VALUES,
            "shape": st.just([1]) | VALUES,
            "data": st.lists(st.sampled_from(["", "aGFsdmU=", "iVBORw0KGgo="]), max_size=2) | VALUES,
            "parameters": VALUES,
        },
    ),
    outputs=VALUES,
)
def test_no_inference_gets_a_5xx(served: Replica, tensor: dict[str, Any], outputs: Any) -> None:
    body = json.dumps({"inputs": [tensor], "outputs": outputs})
    answer = served.client.post("/v2/models/ppocr/infer", content=body)
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "status", "word"),
    [
        (b"not gzip", 400, "not gzip"),
        (gzip.compress(b"{}" * 100, mtime=0)[:-9], 400, "too early"),
        (gzip.compress(b"{}", mtime=0) + b"more", 400, "too late"),
        (gzip.compress(b"\0" * (65 * 2**20), mtime=0), 413, "larger than"),
    ],
)
@pytest.mark.parametrize("path", ["/v2/models/ppocr/infer", "/v1/ocr"])
def test_packed_bodies_are_bounded_and_checked(
    served: Replica, path: str, content: bytes, status: int, word: str
) -> None:
    answer = served.client.post(path, content=content, headers={"content-encoding": "gzip"})
    assert answer.status_code == status
    assert word in answer.json()["error"]


def test_an_unknown_packing_is_a_415(served: Replica) -> None:
    answer = served.client.post("/v1/ocr", content=b"x", headers={"content-encoding": "br"})
    assert (answer.status_code, "gzip and deflate" in answer.json()["error"]) == (415, True)


def test_a_plain_client_gets_unpacked_json(served: Replica) -> None:
    body, head = request({}, blank())
    with httpx.Client(base_url=served.announced["url"], headers={"accept-encoding": "identity"}) as plain:
        answer = plain.post(
            "/v2/models/ppocr/versions/1/infer", content=body, headers={kserve.HEADER_LENGTH: str(head)}
        )
    assert "content-encoding" not in answer.headers
    assert answer.json()["model_version"] == "1"


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("deflate, gzip;q=0.5", "gzip"),
        ("gzip;q=0", None),
        ("gzip; q=0.000, deflate", "deflate"),
        ("identity", None),
    ],
)
def test_what_is_not_accepted_is_not_sent(accepted: str, encoding: str | None) -> None:
    """RFC 9110, 12.4.2: a weight of 0 is "not acceptable"."""
    assert kserve._packed((b"{}", None), accepted).headers.get("content-encoding") == encoding
