"""The JSON that others rely on."""

from collections.abc import Mapping
from typing import Any

from inference.engine import Reading


def page(
    filename: str,
    reading: Reading,
    structured: Mapping[str, str | None],
    *,
    milliseconds: float,
    model: str,
    precision: str,
) -> dict[str, Any]:
    """One image as JSON-ready values; `milliseconds` is from decoding to fields."""
    return {
        "original_filename": printable(filename),
        "width": reading.width,
        "height": reading.height,
        "recognized_text": "\n".join(line.text for line in reading.lines),
        "lines": [
            {"text": line.text, "score": line.score, "box": [list(corner) for corner in line.box]}
            for line in reading.lines
        ],
        "structured_data": dict(structured),
        "processing_time_ms": round(milliseconds, 1),
        "model": model,
        "precision": precision,
    }


def printable(filename: str) -> str:
    """A file name that is not valid UTF-8 still has to go into JSON: what cannot is shown as `?`."""
    return filename.encode("utf-8", "replace").decode()
