"""Image files -> pages: decoded, read together, their values found, drawn where that was wished. The one way on which
the service, the batch runner and the command line read."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inference import drawing, fields, images, schema
from inference.engine import Engine, Reading
from inference.images import BadImage, File


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One file, the names of the values wanted from it (None: all pairs), and whether to draw what was found."""

    file: File
    wanted: tuple[str, ...] | None = None
    visualize: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One image read: its JSON-ready values, its drawing (a PNG) where one was wished, and what it took."""

    content: dict[str, Any]
    drawn: bytes | None
    worked_seconds: float  # of its batch
    waited_seconds: float = 0.0


def read(
    engine: Engine, asked: Sequence[Asked], *, max_bytes: int = images.MAX_BYTES, max_pixels: int = images.MAX_PIXELS
) -> list[Page | BadImage]:
    """The files in one batch; a page each, in order, or why it is none."""
    started = time.monotonic()
    outcomes: dict[int, Page | BadImage] = {}
    pixels: dict[int, images.Pixels] = {}
    for i, one in enumerate(asked):
        try:
            pixels[i] = images.decode(one.file.content, max_bytes=max_bytes, max_pixels=max_pixels)
        except BadImage as bad:
            outcomes[i] = bad
    readings = engine.read(list(pixels.values())) if pixels else []
    for (i, page), reading in zip(pixels.items(), readings, strict=True):
        outcomes[i] = _page(engine, asked[i], page, reading, started)
    return [outcomes[i] for i in range(len(asked))]


def _page(engine: Engine, asked: Asked, pixels: images.Pixels, reading: Reading, started: float) -> Page:
    structured = fields.extract(reading.lines, asked.wanted)
    drawn = drawing.drawn(pixels, reading.lines) if asked.visualize else None
    worked = time.monotonic() - started
    content = schema.page(
        asked.file.name,
        reading,
        structured,
        milliseconds=worked * 1000,
        model=engine.model,
        precision=engine.precision,
    )
    return Page(content=content, drawn=drawn, worked_seconds=worked)
