"""What a replica takes and gives, as an OpenAPI 3.1 document: GET /openapi.json."""

from collections.abc import Mapping
from typing import Any

from inference.kserve import INPUT, MODEL_VERSION, OUTPUTS
from inference.uploads import MAX_FILES

Json = dict[str, Any]

TEXT: Json = {"type": "string"}
NUMBER: Json = {"type": "number"}
COUNT: Json = {"type": "integer", "minimum": 0}
MAYBE_TEXT: Json = {"type": ["string", "null"]}
#: whose fault it is, by status
REASONS = {
    400: "nothing, or nonsense, was sent",
    403: "a source that this replica may not read",
    404: "no such source, or model",
    408: "the body took too long to arrive",
    413: "too large, too many, or too many pixels",
    415: "no image format, or encoding, that is read here",
    429: "too much at once; Retry-After says when to come again",
    500: "reading failed; the replica's log says why",
    502: "a source that does not answer",
    503: "loading, draining, or out of memory; Retry-After says when to come again",
    504: "not read before the deadline",
}
WISHES: Mapping[str, tuple[Json, str]] = {
    "fields": (TEXT, "Names of values to find, with commas: 甲方,金额. None: all that are found."),
    "prompt": (TEXT, "The same in words: what to find."),
    "deadline_seconds": ({"type": "number", "exclusiveMinimum": 0}, "How long its sender waits for the answer."),
    "visualize": ({"type": "boolean"}, "Answer with the image and its boxes, as PNG. One image at a time."),
}


def document(version: str, model: str) -> Json:
    """The whole document, as JSON values; `model` is the one that is served."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "halve replica",
            "version": version,
            "description": "An image in, its text out. /v2 is the Open Inference Protocol, as Triton speaks it.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            "/v1/ocr": {"post": _ocr()},
            "/healthz": {"get": _get("How the replica is.", _ref("Health"))},
            "/metrics": {"get": _operation("Counts for a Prometheus.", {"200": _answer("Text", "text/plain", TEXT)})},
            "/drain": {"post": _get("Take no new request; those in flight finish. Repeatable.", _ref("Health"))},
            **_v2({"model": model, "version": MODEL_VERSION}),
        },
        "components": {"schemas": _schemas()},
    }


def _ocr() -> Json:
    wishes = {name: schema for name, (schema, _) in WISHES.items()}
    form = _object({"file": {"type": "array", "items": _binary(), "maxItems": MAX_FILES}, **wishes}, required=["file"])
    one: Json = {
        "oneOf": [
            {"type": "string", "contentEncoding": "base64", "description": "base64, or a data URL"},
            _closed(_object({"content": TEXT, "filename": TEXT}, required=["content"])),
            _closed(_object({"source": TEXT, "filename": TEXT}, required=["source"])),
        ]
    }
    images = {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_FILES}
    listed = {**wishes, "fields": {"oneOf": [TEXT, {"type": "array", "items": TEXT}]}}
    whole = _object({"image": one, "images": images, "filename": TEXT, **listed})
    asked = _closed({**whole, "oneOf": [{"required": ["image"]}, {"required": ["images"]}]})
    read = {"oneOf": [_ref("Page"), {"type": "array", "items": _ref("Page"), "minItems": 2}]}
    found = _answer("One image is an object, several are an array in their order.", "application/json", read)
    found["content"]["image/png"] = {"schema": _binary()}
    query = [
        {"name": name, "in": "query", "schema": schema, "description": told}
        for name, (schema, told) in {"filename": (TEXT, "Of an image sent as bytes."), **WISHES}.items()
    ]
    operation = _operation("Read images.", {"200": found, **_refusals(*REASONS)})
    body = {"multipart/form-data": form, "application/json": asked, "image/*": _binary()}
    return operation | {"parameters": query, "requestBody": _body(body)}


def _v2(served: Mapping[str, str]) -> Json:
    health = {"200": _answer("Yes.", "application/json", {"type": "object"})}
    paths: Json = {
        "/v2": {"get": _get("Server metadata.", {"type": "object"})},
        "/v2/health/live": {"get": _operation("Whether it answers.", health)},
        "/v2/health/ready": {"get": _operation("Whether it reads.", health | _not_ready())},
        "/v2/models/stats": {"get": _get("Statistics of all models.", {"type": "object"})},
    }
    for place, names in (("", ("model",)), ("/versions/{version}", ("model", "version"))):
        of_model = [
            {"name": name, "in": "path", "required": True, "schema": TEXT, "example": served[name]} for name in names
        ]
        known = _answer("Of this model.", "application/json", {"type": "object"})
        lacking = _refusals(404)
        for suffix, told in (
            ("", "Model metadata."),
            ("/config", "Triton's configuration."),
            ("/stats", "Statistics."),
        ):
            path = f"/v2/models/{{model}}{place}{suffix}"
            paths[path] = {"get": _operation(told, {"200": known, **lacking}), "parameters": of_model}
        ready = _operation("Whether this model reads.", health | _not_ready() | lacking)
        paths[f"/v2/models/{{model}}{place}/ready"] = {"get": ready, "parameters": of_model}
        answered = {"200": _answer("Outputs; binary tensors behind the JSON.", "application/json", _ref("Inferred"))}
        answered["200"]["content"]["application/octet-stream"] = {"schema": _binary()}
        infer = _operation("Read the images of a tensor.", answered | _refusals(*REASONS))
        infer["requestBody"] = _body({"application/json": _ref("Inference")})
        paths[f"/v2/models/{{model}}{place}/infer"] = {"post": infer, "parameters": of_model}
    return paths


def _schemas() -> Json:
    corner = {"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2}
    line = _object({"text": TEXT, "score": NUMBER, "box": {"type": "array", "items": corner, "minItems": 4}})
    page = {
        "original_filename": TEXT,
        "width": COUNT,
        "height": COUNT,
        "recognized_text": TEXT,
        "lines": {"type": "array", "items": _ref("Line")},
        "structured_data": {"type": "object", "additionalProperties": MAYBE_TEXT},
        "processing_time_ms": NUMBER,
        "model": TEXT,
        "precision": TEXT,
    }
    health = {
        "status": {"enum": ["loading", "ready", "draining"]},
        "provider": MAYBE_TEXT,
        "fallback": MAYBE_TEXT,
        "model": TEXT,
        "precision": MAYBE_TEXT,
        "version": MAYBE_TEXT,
        "workers": COUNT,
        "batches": {"type": "object", "additionalProperties": COUNT},
        "sources": {"type": "array", "items": TEXT},
        "in_flight": COUNT,
        "queue": COUNT,
        "images_total": COUNT,
        "reclaim_at": MAYBE_TEXT,
        "rebalance_at": MAYBE_TEXT,
    }
    shape = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "maxItems": 8}
    tensor = {
        "name": {"const": INPUT},
        "datatype": {"const": "BYTES"},
        "shape": shape,
        "parameters": {"type": "object"},
    }
    tensor["data"] = {"type": "array", "description": "base64 texts; absent where the bytes follow the JSON"}
    wanted = _object({"name": {"enum": list(OUTPUTS)}, "parameters": {"type": "object"}}, required=["name"])
    inference = {
        "id": TEXT,
        "inputs": {"type": "array", "items": _ref("Tensor"), "minItems": 1, "maxItems": 1},
        "outputs": {"type": "array", "items": wanted, "maxItems": len(OUTPUTS)},
        "parameters": {"type": "object"},
    }
    outputs = {"type": "array", "items": {"type": "object"}}
    return {
        "Line": _whole(line),
        "Page": _whole(_object(page)),
        "Health": _whole(_object(health)),
        "Error": _whole(_object({"error": TEXT})),
        "Tensor": _object(tensor, required=["name", "datatype", "shape"]),
        "Inference": _object(inference, required=["inputs"]),
        "Inferred": _object(
            {"model_name": TEXT, "model_version": TEXT, "outputs": outputs, "id": TEXT},
            required=["model_name", "model_version", "outputs"],
        ),
    }


def _object(properties: Json, required: list[str] | None = None) -> Json:
    return {"type": "object", "properties": properties, "required": required or []}


def _whole(schema: Json) -> Json:
    """All of its keys are always there."""
    return schema | {"required": list(schema["properties"])}


def _closed(schema: Json) -> Json:
    return schema | {"additionalProperties": False}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _binary() -> Json:
    return {"type": "string", "format": "binary"}


def _body(kinds: Mapping[str, Json]) -> Json:
    return {"required": True, "content": {kind: {"schema": schema} for kind, schema in kinds.items()}}


def _answer(told: str, kind: str, schema: Json) -> Json:
    return {"description": told, "content": {kind: {"schema": schema}}}


def _refusals(*statuses: int) -> Json:
    return {str(status): _answer(REASONS[status], "application/json", _ref("Error")) for status in statuses}


def _not_ready() -> Json:
    return {"503": _answer("Not now.", "application/json", {"type": "object"})}


def _operation(told: str, responses: Json) -> Json:
    return {"summary": told, "responses": responses}


def _get(told: str, schema: Json) -> Json:
    return _operation(told, {"200": _answer("So it is.", "application/json", schema)})
