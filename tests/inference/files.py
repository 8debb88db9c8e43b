"""Image files of every kind, and files that only look like one."""

import functools
import struct
import zlib
from io import BytesIO

from hypothesis import strategies as st
from PIL import Image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


RED = Image.new("RGB", (40, 20), (200, 10, 30))


@functools.cache
def encoded_kinds() -> dict[str, bytes]:
    """A blank page of 40 x 20 in every way it may come."""
    white = Image.new("RGB", (40, 20), "white")
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "png": encoded(white),
        "interlaced-palette": encoded(white.quantize(4), "PNG", interlace=1),
        "1-bit": encoded(Image.new("1", (40, 20), 1)),
        "16-bit": encoded(Image.new("I;16", (40, 20), 65535)),
        "32-bit-tiff": encoded(Image.new("I", (40, 20), 65535), "TIFF"),
        "float-tiff": encoded(Image.new("F", (40, 20), 1.0), "TIFF"),
        "lab-tiff": encoded(Image.new("LAB", (40, 20), (255, 128, 128)), "TIFF"),
        "cmyk-jpeg": encoded(Image.new("CMYK", (40, 20)), "JPEG"),
        "cmyk-tiff": encoded(Image.new("CMYK", (40, 20)), "TIFF", compression="tiff_lzw"),
        "ycbcr-jpeg-turned": encoded(white, "JPEG", exif=turned, progressive=True),
        "transparent": encoded(Image.new("RGBA", (40, 20), (0, 0, 0, 0))),
        "webp": encoded(white, "WEBP", lossless=True),
        "animated-gif": encoded(white, "GIF", save_all=True, append_images=[RED, white]),
        "animated-webp": encoded(white, "WEBP", save_all=True, append_images=[RED]),
        "animated-png": encoded(white, "PNG", save_all=True, append_images=[RED]),
        "many-page-tiff": encoded(white, "TIFF", save_all=True, append_images=[RED]),
        "bmp": encoded(white, "BMP"),
        "ppm": encoded(white, "PPM"),
        "png-then-html": encoded(white) + b"<html><script>alert(1)</script></html>",
        "gif-then-zip": encoded(white, "GIF") + b"PK\x03\x04" + b"\0" * 40,
        "jpeg-then-png": encoded(white, "JPEG") + encoded(RED),
    }


def png_claiming(width: int, height: int) -> bytes:
    """A well-formed PNG header of that size, and hardly any data behind it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def _mutated(content: bytes, places: list[tuple[int, int]], cut: float) -> bytes:
    changed = bytearray(content)
    for place, value in places:
        changed[place % len(changed)] = value
    return bytes(changed[: int(len(changed) * cut)])


#: files that look like images: cut, with changed bytes, of claimed sizes, of two kinds at once
FAULTY = st.one_of(
    st.builds(
        _mutated,
        st.sampled_from(sorted(encoded_kinds().values())),
        st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=8),
        st.floats(0, 1) | st.just(1.0),
    ),
    st.builds(png_claiming, st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1)),
    st.builds(lambda a, b: a[:30] + b, *[st.sampled_from(sorted(encoded_kinds().values()))] * 2),
    st.binary(max_size=60).map(lambda tail: b"\xff\xd8\xff\xe0" + tail),
)
