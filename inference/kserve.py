"""The KServe v2 ("open inference") protocol as Triton speaks it, with its binary tensors, gzip and deflate.

The model takes `image`, BYTES [1-20]: image files, raw as a binary tensor or as base64 text in JSON. It gives `result`,
BYTES of the same shape: the JSON of /v1/ocr per image; and `text`: the text alone. The request's parameters `fields`,
`prompt` and `deadline_seconds` are those of /v1/ocr.

Protocol: kserve.github.io, "Open Inference Protocol (V2)" and "Binary Tensor Data Extension"; the model configuration
and statistics extensions are Triton's.
"""

import asyncio
import gzip
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from inference import reception, uploads
from inference.images import File
from inference.pages import Page
from inference.reception import Answer, as_json
from inference.refusals import Refusal
from inference.service import Service
from inference.uploads import MAX_FILES, Upload

HEADER_LENGTH = "Inference-Header-Content-Length"
MODEL_VERSION = "1"
INPUT = "image"
OUTPUTS: Mapping[str, Callable[[Page], bytes]] = {
    "result": lambda page: as_json(page.content),
    "text": lambda page: page.content["recognized_text"].encode(),
}
EXTENSIONS = ["binary_tensor_data", "model_configuration", "statistics"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """One inference request: what is to be read, and which outputs are wanted, each binary or not."""

    upload: Upload
    id: str | None
    outputs: tuple[tuple[str, bool], ...]


def routes(service: Service, *, version: str) -> list[Route]:
    """Everything under /v2."""

    async def live(_: Request) -> Response:
        return Answer({"live": True})

    async def ready(_: Request) -> Response:
        return Answer({"ready": service.status == "ready"}, status_code=200 if service.status == "ready" else 503)

    async def server(_: Request) -> Response:
        return Answer({"name": "halve", "version": version, "extensions": EXTENSIONS})

    async def metadata(_: Request) -> Response:
        return Answer(_metadata(service.model))

    async def config(_: Request) -> Response:
        return Answer(_config(service))

    async def stats(_: Request) -> Response:
        return Answer({"model_stats": [_statistics(service)]})

    async def receive(request: Request) -> tuple[Upload, reception.Render]:
        length = request.headers.get(HEADER_LENGTH)
        inference = await asyncio.to_thread(parsed, await request.body(), length)
        accepted = request.headers.get("accept-encoding", "")
        return inference.upload, lambda pages: _packed(rendered(service.model, inference, pages), accepted)

    async def infer(request: Request) -> Response:
        return await reception.answered(service, request, receive)

    async def known(request: Request, then: Callable[[Request], Any]) -> Response:
        named = request.path_params
        if named["model"] != service.model or named.get("version", MODEL_VERSION) != MODEL_VERSION:
            raise HTTPException(404, f"no such model here; there is {service.model}, version {MODEL_VERSION}")
        response: Response = await then(request)
        return response

    def of_model(then: Callable[[Request], Any], suffix: str, method: str = "GET") -> Iterator[Route]:
        async def endpoint(request: Request) -> Response:
            return await known(request, then)

        for place in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            yield Route(place + suffix, endpoint, methods=[method])

    return [
        Route("/v2", server),
        Route("/v2/", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        Route("/v2/models/stats", stats),
        *of_model(metadata, ""),
        *of_model(ready, "/ready"),
        *of_model(config, "/config"),
        *of_model(stats, "/stats"),
        *of_model(infer, "/infer", "POST"),
    ]


def parsed(body: bytes, header_length: str | None) -> Inference:
    """`header_length` is that header's value: where the JSON ends and the binary tensors begin.

    Raises Refusal with 400 and the reason.
    """
    end = _length(header_length, len(body), HEADER_LENGTH) if header_length is not None else len(body)
    asked = uploads.document(body[:end])
    parameters = _parameters(asked, "the request")
    tensors = asked.get("inputs")
    if not isinstance(tensors, list) or len(tensors) != 1 or not isinstance(tensors[0], dict):
        raise Refusal(400, f"inputs: exactly one is needed, {INPUT!r}")
    contents, used = _elements(tensors[0], memoryview(body)[end:])
    if used != len(body) - end:
        raise Refusal(400, f"{len(body) - end - used:,} bytes behind the last binary tensor")
    given_id = asked.get("id")
    if given_id is not None and not isinstance(given_id, str):
        raise Refusal(400, "id: not text")
    files = [File(f"image {i}", content) for i, content in enumerate(contents, start=1)]
    return Inference(
        upload=uploads.wished(files, {**parameters, "visualize": None}), id=given_id, outputs=_wanted(asked, parameters)
    )


def rendered(model: str, inference: Inference, pages: Sequence[Page]) -> tuple[bytes, int | None]:
    """The body, and where its JSON ends when binary tensors follow."""
    described: list[dict[str, Any]] = []
    tensors = b""
    for name, binary in inference.outputs:
        elements = [OUTPUTS[name](page) for page in pages]
        tensor: dict[str, Any] = {"name": name, "datatype": "BYTES", "shape": [len(pages)]}
        if binary:
            content = b"".join(struct.pack("<I", len(element)) + element for element in elements)
            tensor["parameters"] = {"binary_data_size": len(content)}
            tensors += content
        else:
            tensor["data"] = [element.decode() for element in elements]
        described.append(tensor)
    answer = {"model_name": model, "model_version": MODEL_VERSION, "outputs": described}
    if inference.id is not None:
        answer["id"] = inference.id
    head = as_json(answer)
    return head + tensors, len(head) if any(binary for _, binary in inference.outputs) else None


def _elements(tensor: Mapping[str, Any], binary: memoryview) -> tuple[list[bytes], int]:
    """The image files in a tensor, and how many of the binary bytes they took."""
    name, shape = tensor.get("name"), tensor.get("shape")
    if name != INPUT:
        raise Refusal(400, f"inputs: no input named {str(name)[:100]!r}; there is {INPUT!r}")
    if tensor.get("datatype") != "BYTES":
        raise Refusal(400, f"{INPUT}: its datatype is BYTES")
    if not isinstance(shape, list) or not all(type(side) is int and side > 0 for side in shape) or len(shape) > 8:
        raise Refusal(400, f"{INPUT}: shape: a list of numbers above 0")
    count = math.prod(shape)
    if not shape or count > MAX_FILES:
        raise Refusal(400, f"{INPUT}: shape: 1 to {MAX_FILES} images")
    size = _parameters(tensor, INPUT).get("binary_data_size")
    if size is None:
        written = tensor.get("data")
        while isinstance(written, list) and len(written) == 1 and isinstance(written[0], list):
            written = written[0]  # as nested as its shape says, or flat
        flat = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in _list(written)]
        if len(flat) != count or not all(isinstance(text, str) for text in flat):
            raise Refusal(400, f"{INPUT}: data: {count} base64 texts, as the shape says")
        return [uploads.from_base64(f"image {i}", text) for i, text in enumerate(flat, start=1)], 0
    if "data" in tensor:
        raise Refusal(400, f"{INPUT}: either data or binary_data_size")
    used = _length(size, len(binary), f"{INPUT}: binary_data_size")
    files = list(_framed(binary[:used]))
    if len(files) != count:
        raise Refusal(400, f"{INPUT}: {len(files)} elements, not the {count} that the shape says")
    return files, used


def _framed(content: memoryview) -> Iterator[bytes]:
    """BYTES elements: each a little-endian 4-byte length and as many bytes."""
    place = 0
    while place < len(content):
        start = place + 4
        length = int.from_bytes(content[place:start], "little")
        place = start + length
        if start > len(content) or place > len(content):
            raise Refusal(400, f"{INPUT}: an element is longer than the tensor")
        yield bytes(content[start:place])


def _wanted(asked: Mapping[str, Any], parameters: Mapping[str, Any]) -> tuple[tuple[str, bool], ...]:
    """The outputs asked for, or both; binary where asked for, for one or for all."""
    everywhere = parameters.get("binary_data_output") is True
    outputs = asked.get("outputs") or [{"name": name} for name in OUTPUTS]
    if not isinstance(outputs, list) or len(outputs) > len(OUTPUTS):
        raise Refusal(400, f"outputs: a list of some of {', '.join(OUTPUTS)}")
    found: dict[str, bool] = {}
    for output in outputs:
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str) or name not in OUTPUTS:
            raise Refusal(400, f"outputs: no output named {str(name)[:100]!r}; there are {', '.join(OUTPUTS)}")
        chosen = _parameters(output, name)
        if chosen.keys() & {"classification", "shared_memory_region"}:
            raise Refusal(400, f"{name}: neither classification nor shared memory is offered")
        found[name] = chosen.get("binary_data", everywhere) is True
    return tuple(found.items())


def _parameters(part: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = part.get("parameters") or {}
    if not isinstance(found, dict):
        raise Refusal(400, f"{name}: parameters: not an object")
    return found


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _length(value: object, most: int, name: str) -> int:
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal()) or len(text) > 12 or int(text) > most:
        raise Refusal(400, f"{name}: not a length of at most {most:,}")
    return int(text)


def _packed(body: tuple[bytes, int | None], accepted: str) -> Response:
    content, head = body
    listed = (part.replace(" ", "").lower().partition(";") for part in accepted.split(","))
    wished = {name for name, _, weight in listed if not re.fullmatch(r"q=0(\.0*)?", weight)}
    headers = {} if head is None else {HEADER_LENGTH: str(head)}
    if "gzip" in wished:
        content, headers["Content-Encoding"] = gzip.compress(content, 5), "gzip"
    elif "deflate" in wished:
        content, headers["Content-Encoding"] = zlib.compress(content, 5), "deflate"
    return Response(
        content, media_type="application/json" if head is None else "application/octet-stream", headers=headers
    )


def _metadata(model: str) -> dict[str, Any]:
    def tensor(name: str) -> dict[str, Any]:
        return {"name": name, "datatype": "BYTES", "shape": [-1]}

    return {
        "name": model,
        "versions": [MODEL_VERSION],
        "platform": "halve",
        "inputs": [tensor(INPUT)],
        "outputs": [tensor(name) for name in OUTPUTS],
    }


def _config(service: Service) -> dict[str, Any]:
    """Triton's model configuration. max_batch_size 0: the first dimension is the model's own affair."""

    def tensor(name: str) -> dict[str, Any]:
        return {"name": name, "data_type": "TYPE_STRING", "dims": [-1]}

    on_accelerator = service.engine is not None and service.engine.on_accelerator
    return {
        "name": service.model,
        "platform": "halve",
        "backend": "halve",
        "max_batch_size": 0,
        "input": [tensor(INPUT)],
        "output": [tensor(name) for name in OUTPUTS],
        "instance_group": [
            {
                "name": service.model,
                "kind": "KIND_GPU" if on_accelerator else "KIND_CPU",
                "count": service.workers,
            }
        ],
    }


def _statistics(service: Service) -> dict[str, Any]:
    """Triton's model statistics; `fail` counts refusals too."""
    seen = service.metrics

    def sums(count: int, seconds: float) -> dict[str, int]:
        return {"count": count, "ns": round(seconds * 1e9)}

    return {
        "name": service.model,
        "version": MODEL_VERSION,
        "last_inference": round(seen.last_at.timestamp() * 1000) if seen.last_at else 0,
        "inference_count": seen.images_total,
        "execution_count": service.batches,
        "inference_stats": {
            "success": sums(seen.succeeded, seen.seconds),
            "fail": sums(seen.failed, seen.failed_seconds),
            "queue": sums(seen.images_total, seen.waited_seconds),
            "compute_input": sums(0, 0),
            "compute_infer": sums(seen.images_total, seen.worked_seconds),
            "compute_output": sums(0, 0),
        },
        "batch_stats": [],
    }
