"""Bytes of an image file -> pixels, with limits. Whatever the bytes are, the outcome is pixels or a BadImage."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = NDArray[np.uint8]
"""Height x width x 3, blue-green-red, 0-255: the order the networks were trained on."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
MAX_BYTES = 20 * 2**20
MAX_PIXELS = 50_000_000
BAND_ROWS = 256

# It warns of large images, which have our own limit, and of odd tags, which are the sender's business. Once for the
# process, because catching warnings around each call is not safe among threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class BadImage(Exception):
    """These bytes are not an image we read. `status` is the HTTP status that says so: 400, 413 or 415."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason, status)  # both, or it could not be sent from one process to another
        self.reason = reason
        self.status = status

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, slots=True)
class File:
    """An image file as it came: its name and its bytes."""

    name: str
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What an image file says of itself before any pixel is decoded."""

    format: str
    width: int
    height: int

    @property
    def longest_side(self) -> int:
        """In pixels: what buckets go by."""
        return max(self.width, self.height)


def header(content: bytes, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS) -> Header:
    """Check the limits from the header alone, so that a small file that unpacks to gigabytes costs nothing.

    Raises BadImage: 400 empty or damaged, 413 too large, 415 not one of FORMATS.
    """
    with _opened(content, max_bytes, max_pixels) as image:
        return Header(format=image.format or "", width=image.width, height=image.height)


def size_of(path: Path) -> tuple[int, int]:
    """Width and height as the file's header claims, read from the header alone; 0, 0 when it is no image we read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.size
    except Exception:  # noqa: BLE001  decoders raise anything on hostile bytes
        return 0, 0


def decode(content: bytes, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS) -> Pixels:
    """The first frame, turned as its EXIF tag says, transparency laid on the background that contrasts with it.

    Raises BadImage as `header` does, and 400 when the pixels cannot be decoded.
    """
    with _opened(content, max_bytes, max_pixels) as image:
        try:
            image.load()
            return _blue_green_red(_turned(image))
        except Exception as error:  # noqa: BLE001  decoders raise anything on hostile bytes
            raise BadImage(f"damaged {image.format} image: {_line(error)}", 400) from None


def _opened(content: bytes, max_bytes: int, max_pixels: int) -> Image.Image:
    if not content:
        raise BadImage("empty file", 400)
    if len(content) > max_bytes:
        raise BadImage(f"{len(content):,} bytes; at most {max_bytes:,}", 413)
    try:
        image = Image.open(BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        raise BadImage(f"more pixels than the {max_pixels:,} that are read", 413) from None
    except UnidentifiedImageError:
        raise BadImage("not an image: PNG, JPEG, WebP, BMP, GIF, TIFF and PNM are read", 415) from None
    except Exception as error:  # noqa: BLE001  decoders raise anything on hostile bytes
        raise BadImage(f"damaged image: {_line(error)}", 400) from None
    if image.width * image.height > max_pixels:
        raise BadImage(f"{image.width} x {image.height} pixels; at most {max_pixels:,} in all", 413)
    if min(image.size) < 1:
        raise BadImage("an image without pixels", 400)
    return image


def _turned(image: Image.Image) -> Image.Image:
    with contextlib.suppress(Exception):  # a garbled tag does not spoil the pixels
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _blue_green_red(image: Image.Image) -> Pixels:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _eight_bits(np.asarray(image))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _on_contrast(image)
    plain = image if image.mode == "RGB" else image.convert("RGB")
    return np.ascontiguousarray(np.asarray(plain)[:, :, ::-1])


def _eight_bits(values: NDArray[Any]) -> Pixels:
    """16-bit and float greys to 0-255. Integers keep their scale (65535 is white); floats fill the range they use."""
    scale = _spread if values.dtype.kind == "f" else _shortened
    grey = np.empty((*values.shape, 3), np.uint8)
    low, high = _range(values)
    for rows in _bands(len(values)):
        grey[rows] = scale(values[rows], low, high)[:, :, None]
    return grey


def _range(values: NDArray[Any]) -> tuple[float, float]:
    bounds = [(finite.min(), finite.max()) for rows in _bands(len(values)) for finite in [_finite(values[rows])]]
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    finite: NDArray[np.float64] = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    return finite


def _spread(values: NDArray[Any], low: float, high: float) -> NDArray[Any]:
    return np.rint((_finite(values) - low) * (255 / (high - low) if high > low else 0))


def _shortened(values: NDArray[Any], _: float, high: float) -> NDArray[Any]:
    top = 255 if high <= 255 else 65535
    scaled: NDArray[Any] = np.clip(values, 0, top).astype(np.uint32) * 255 // top
    return scaled


def _on_contrast(image: Image.Image) -> Pixels:
    """Dark writing on white, light writing on black: by the mean luminance (ITU-R BT.601) of what is not transparent,
    as rapidocr does."""

    def band(rows: slice) -> NDArray[np.uint8]:
        return np.asarray(image.crop((0, rows.start, image.width, rows.stop)).convert("RGBA"))

    total, count = np.zeros(3), 0
    for rows in _bands(image.height):
        seen = (rgba := band(rows))[rgba[:, :, 3] > 0]
        total += seen[:, :3].sum(axis=0, dtype=np.float64)
        count += len(seen)
    dark = count == 0 or float(total / count @ (0.299, 0.587, 0.114)) < 128
    laid = np.empty((image.height, image.width, 3), np.uint8)
    for rows in _bands(image.height):
        rgba = band(rows)
        share = rgba[:, :, 3:].astype(np.float32) / 255
        laid[rows] = (rgba[:, :, :3] * share + (255 if dark else 0) * (1 - share))[:, :, ::-1]
    return laid


def _bands(height: int) -> Iterator[slice]:
    """Some rows at a time: wider copies of a whole large page would take a gigabyte."""
    return (slice(top, min(top + BAND_ROWS, height)) for top in range(0, height, BAND_ROWS))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
