"""Bytes of an image file -> pixels, with limits. Whatever the bytes are, the outcome is pixels or a BadImage."""

import warnings
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

# It warns of large images, which have our own limit, and of odd tags, which are the sender's business. Once for the
# process, because catching warnings around each call is not safe among threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class BadImage(Exception):
    """These bytes are not an image we read. `status` is the HTTP status that says so: 400, 413 or 415."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


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
        return max(self.width, self.height)


def header(content: bytes, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS) -> Header:
    """Check the limits from the header alone, so that a small file that unpacks to gigabytes costs nothing.

    Raises BadImage: 400 empty or damaged, 413 too large, 415 not one of FORMATS.
    """
    with _opened(content, max_bytes, max_pixels) as image:
        return Header(format=image.format or "", width=image.width, height=image.height)


def pixels_in(path: Path) -> int:
    """Width times height as the file's header claims, read from the header alone; 0 when it is no image we read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.width * image.height
    except Exception:  # noqa: BLE001  decoders raise anything on hostile bytes
        return 0


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
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001  a garbled tag does not spoil the pixels
        return image


def _blue_green_red(image: Image.Image) -> Pixels:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        grey = _eight_bits(np.asarray(image))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _on_contrast(np.asarray(image.convert("RGBA")))
    return np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])


def _eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """16-bit and float greys to 0-255. Integers keep their scale (65535 is white); floats fill the range they use."""
    if values.dtype.kind != "f":
        top = 255 if values.max(initial=0) <= 255 else 65535
        scaled: NDArray[np.uint8] = (np.clip(values, 0, top).astype(np.uint32) * 255 // top).astype(np.uint8)
        return scaled
    finite = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = finite.min(), finite.max()
    spread: NDArray[np.uint8] = np.rint((finite - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)
    return spread


def _on_contrast(rgba: NDArray[np.uint8]) -> Pixels:
    """Dark writing on white, light writing on black: by the mean luminance (ITU-R BT.601) of what is not transparent,
    as rapidocr does."""
    seen = rgba[rgba[:, :, 3] > 0]
    dark = seen.size == 0 or float(seen[:, :3].mean(axis=0) @ (0.299, 0.587, 0.114)) < 128
    share = rgba[:, :, 3].astype(np.float32) / 255
    background = (255 if dark else 0) * (1 - share)
    laid = np.empty((*share.shape, 3), np.uint8)
    for channel in range(3):  # one at a time: float copies of a large page are heavy
        laid[:, :, 2 - channel] = rgba[:, :, channel] * share + background
    return laid


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
