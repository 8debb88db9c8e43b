"""Requests as JSON, by name, with a drawing; and whatever else is sent: a page or a 4xx that says why."""

import asyncio
import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from inference import images, uploads
from inference.refusals import Refusal
from inference.sources import Sources
from tests.inference.files import FAULTY, encoded_kinds
from tests.inference.replica import Replica, replica


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scans")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, scans: Path) -> Iterator[Replica]:
    options = ("--workers", "1", "--allow-source", f"file://{scans}")
    with replica(tmp_path_factory.mktemp("replica"), *options) as running:
        running.until("ready")
        yield running


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


BLANK = bytes(cv2.imencode(".png", np.full((20, 30, 3), 255, np.uint8))[1])


def test_one_image_as_json_is_an_object(served: Replica, pages: Path) -> None:
    sent = {"image": text((pages / "packaging.png").read_bytes()), "filename": "牛奶.png", "fields": ["净含量", "型号"]}
    page = served.client.post("/v1/ocr", json=sent).json()
    assert page["original_filename"] == "牛奶.png"
    assert page["structured_data"] == {"净含量": "250 mL", "型号": None}


def test_several_images_as_json_are_an_array_in_order(served: Replica, scans: Path, pages: Path) -> None:
    (scans / "nameplate.png").write_bytes((pages / "nameplate.png").read_bytes())
    sent = [
        text(BLANK),
        {"source": f"file://{scans}/nameplate.png"},
        {"content": f"data:image/png;base64,{text(BLANK)}", "filename": "b.png"},
    ]
    answer = served.client.post("/v1/ocr", json={"images": sent, "prompt": "只识别‘型号’"})
    assert [(page["original_filename"], page["structured_data"]["型号"]) for page in answer.json()] == [
        ("image", None),
        ("nameplate.png", "Y2-132M-4"),
        ("b.png", None),
    ]
    assert answer.headers["X-Halve-Images"] == "3"


@pytest.mark.parametrize(
    ("sent", "status", "word"),
    [
        ([], 400, "not a JSON object"),
        ({"image": "", "images": []}, 400, "either"),
        ({"images": []}, 400, "1 to 20"),
        ({"images": [""] * 21}, 400, "1 to 20"),
        ({"images": "x"}, 400, "1 to 20"),
        ({"image": "?"}, 400, "not base64"),
        ({"image": ""}, 400, "empty file"),
        ({"image": 7}, 400, "not text"),
        ({"image": {"content": "", "source": ""}}, 400, "an image is"),
        ({"image": {"path": "/etc/passwd"}}, 400, "an image is"),
        ({"image": text(b"no")}, 415, "not an image"),
        ({"image": text(BLANK), "fileds": "A"}, 400, "fileds: no such key"),
        ({"image": text(BLANK), "fields": 7}, 400, "fields: not text"),
        ({"image": text(BLANK), "fields": [7]}, 400, "fields: not text"),
        ({"image": text(BLANK), "prompt": {}}, 400, "prompt: not text"),
        ({"image": text(BLANK), "filename": 7}, 400, "filename: not text"),
        ({"image": text(BLANK), "deadline_seconds": 0}, 400, "above 0"),
        ({"image": text(BLANK), "deadline_seconds": True}, 400, "not a number"),
        ({"image": text(BLANK), "deadline_seconds": [1]}, 400, "not a number"),
        ({"image": text(BLANK), "visualize": 3}, 400, "true or false"),
        ({"images": [text(BLANK)] * 2, "visualize": True}, 400, "one image at a time"),
        ({"image": {"source": "file:///etc/hostname"}}, 403, "--allow-source"),
        ({"image": {"source": "s3://bucket/a.png"}}, 403, "--allow-source"),
        ({"image": {"source": "http://127.0.0.1/a.png"}}, 400, "not a file"),
    ],
)
def test_wrong_json_is_refused_with_the_reason(served: Replica, sent: Any, status: int, word: str) -> None:
    answer = served.client.post("/v1/ocr", json=sent)
    assert (answer.status_code, word in answer.json()["error"]) == (status, True), answer.text


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"image": 1' + b"0" * 5000 + b"}", b'{"deadline_seconds": NaN}']
)
def test_what_is_no_json_is_a_400(served: Replica, body: bytes) -> None:
    answer = served.client.post("/v1/ocr", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]


@pytest.mark.parametrize("charset", ["undefined", "idna", "punycode", "\0", "utf-16", "hex", "no such"])
def test_no_charset_of_a_form_gets_a_5xx(served: Replica, charset: str) -> None:
    """Starlette decodes names by whatever the request says."""
    body = b'--X\r\nContent-Disposition: form-data; name="file"; filename="\xff.png"\r\n\r\n' + BLANK + b"\r\n--X--\r\n"
    kind = f"multipart/form-data; boundary=X; charset={charset}".encode()
    content, headers = asyncio.run(_received(kind, body)), {"content-type": "multipart/form-data; boundary=X"}
    assert content in (200, 400)
    assert served.client.post("/v1/ocr", content=body, headers=headers).status_code == 200


async def _received(kind: bytes, body: bytes) -> int:
    """The status of this form, of which no HTTP client would send every one."""
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": [(b"content-type", kind)]}
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        return next(messages)

    try:
        await uploads.receive(Request(scope, receive), Sources(), 1 << 20)
    except Refusal as refusal:
        return refusal.status
    return 200


@pytest.mark.parametrize("between", ["\n", "\r\n", " "])
def test_base64_may_stand_on_several_lines(between: str) -> None:
    """As the command base64 and MIME write it."""
    assert uploads.from_base64("x", between + between.join(re.findall(".{1,76}", text(BLANK))) + between) == BLANK


def test_json_of_countless_parts_is_not_unpacked() -> None:
    """64 MiB of `[],` are more than a gigabyte of lists."""
    for part in (b"[],", b"{},", b"1,", b'"",'):
        with pytest.raises(Refusal, match="parts"):
            uploads.document(b'{"image":[' + part * 1_000_000 + b"1]}")


def test_wishes_have_a_length() -> None:
    for name, wish in (("fields", "\n" * 100_000), ("fields", ["a"] * 100_000), ("prompt", "\u201c" * 100_000)):
        with pytest.raises(Refusal, match=r"fields|prompt") as refused:
            uploads.wished([], {name: wish})
        assert refused.value.status == 400


def test_half_a_character_in_a_name_does_no_harm(served: Replica) -> None:
    body = json.dumps({"image": text(BLANK), "filename": "\ud800", "fields": ["\udfff"]})
    answer = served.client.post("/v1/ocr", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200
    assert answer.json()["structured_data"] == {"?": None}


@pytest.mark.parametrize("how", ["form", "query", "json"])
def test_a_drawing_is_a_png_of_the_page_with_frames(served: Replica, pages: Path, how: str) -> None:
    content = (pages / "packaging.png").read_bytes()
    sent: dict[str, dict[str, Any]] = {
        "form": {"files": {"file": content}, "data": {"visualize": "true"}},
        "query": {"content": content, "params": {"visualize": "1"}},
        "json": {"json": {"image": text(content), "visualize": True}},
    }
    answer = served.client.post("/v1/ocr", **sent[how])
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["X-Halve-Images"] == "1"
    before, drawn = images.decode(content), images.decode(answer.content)
    assert drawn.shape == before.shape
    changed = (drawn != before).any(axis=2)
    assert 0.005 < changed.mean() < 0.2
    line = served.client.post("/v1/ocr", content=content).json()["lines"][0]
    left, top = (round(value) for value in line["box"][0])
    assert changed[top - 2 : top + 3, left : left + 60].any(axis=0).mean() > 0.9


def test_bytes_that_wait_are_bounded(tmp_path: Path) -> None:
    """Whatever is sent at once, no more is held than the limit; and what was refused is forgotten."""
    from inference.batching import QueueFull
    from inference.service import Service, Settings

    service = Service(Settings(max_held_bytes=100))
    with service.entered() as hold:
        hold(60)
        with service.entered() as another:
            another(40)
            with pytest.raises(QueueFull):
                another(1)
            assert service.held_bytes == 100
        hold(40)
    assert (service.held_bytes, service.in_flight) == (0, 0)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    asked=st.dictionaries(
        st.sampled_from(["image", "images", "fields", "prompt", "visualize", "deadline_seconds", "filename"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just(text(BLANK)),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["content", "source", "filename"]), inner, max_size=3)
            ),
            max_leaves=6,
        ),
        max_size=6,
    )
)
def test_no_json_gets_a_5xx(served: Replica, asked: dict[str, Any]) -> None:
    answer = served.client.post("/v1/ocr", content=json.dumps(asked), headers={"content-type": "application/json"})
    assert answer.status_code == 200 or 400 <= answer.status_code < 500 or answer.status_code == 504
    if answer.status_code != 200:
        assert answer.json()["error"]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=FAULTY)
def test_no_file_gets_a_5xx(served: Replica, content: bytes) -> None:
    answer = served.client.post("/v1/ocr", files={"file": ("x", content)})
    if answer.status_code == 200:
        assert answer.json()["width"] * answer.json()["height"] > 0
    else:
        assert answer.status_code in (400, 413, 415), answer.text
        assert answer.json()["error"].startswith("x: ")


@pytest.mark.parametrize("kind", sorted(encoded_kinds()))
def test_every_kind_of_file_is_read(served: Replica, kind: str) -> None:
    answer = served.client.post("/v1/ocr", content=encoded_kinds()[kind])
    assert (answer.status_code, answer.json().get("lines")) == (200, [])
