"""Every file is pixels or a BadImage with a reason; nothing else ever comes out."""

import pickle
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from inference import images
from inference.images import BadImage
from tests.inference.files import FAULTY, RED, encoded, encoded_kinds, png_claiming

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::RuntimeWarning:PIL")


@pytest.mark.parametrize(
    ("content", "status", "word"),
    [
        pytest.param(b"", 400, "empty", id="empty"),
        pytest.param(b"hello, this is text", 415, "not an image", id="text"),
        pytest.param(b"%PDF-1.7\n" + b"\0" * 100, 415, "not an image", id="pdf"),
        pytest.param(b"GIF89a" + b"\0" * 4, 415, "not an image", id="a-magic-number-alone"),
        pytest.param(png_claiming(60_000, 60_000), 413, "pixels", id="pixel-bomb"),
        pytest.param(png_claiming(10_000, 6_000), 413, "pixels", id="just-too-many-pixels"),
        pytest.param(b"\0" * (images.MAX_BYTES + 1), 413, "bytes", id="too-many-bytes"),
    ],
)
def test_what_is_refused_by_its_header(content: bytes, status: int, word: str) -> None:
    with pytest.raises(BadImage, match=word) as refused:
        images.header(content)
    assert refused.value.status == status


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
def test_cut_files_are_damaged_or_still_readable_but_never_a_crash(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8))
    content = encoded(noise, kind)
    for cut in range(0, len(content), max(1, len(content) // 40)):
        try:
            images.decode(content[:cut])
        except BadImage as bad:
            assert bad.status in (400, 415)
    half = content[: len(content) // 2]
    with pytest.raises(BadImage):
        images.decode(half)


@pytest.mark.parametrize(
    ("make", "pixel"),
    [
        pytest.param(lambda: encoded(RED), (30, 10, 200), id="rgb"),
        pytest.param(lambda: encoded(RED.convert("L").point(lambda _: 77)), (77, 77, 77), id="grey"),
        pytest.param(lambda: encoded(Image.new("1", (40, 20), 1)), (255, 255, 255), id="black-and-white"),
        pytest.param(lambda: encoded(Image.new("I;16", (40, 20), 32768)), (127, 127, 127), id="16-bit"),
        pytest.param(lambda: encoded(Image.new("I;16", (40, 20), 65535)), (255, 255, 255), id="16-bit-white"),
        pytest.param(lambda: encoded(Image.new("F", (40, 20), 3.0), "TIFF"), (0, 0, 0), id="float"),
        pytest.param(lambda: encoded(RED.quantize(4)), (30, 10, 200), id="palette"),
        pytest.param(lambda: encoded(Image.new("CMYK", (40, 20), (0, 0, 0, 0)), "JPEG"), (255, 255, 255), id="cmyk"),
        pytest.param(lambda: encoded(Image.new("RGBA", (40, 20), (0, 0, 0, 0))), (255, 255, 255), id="transparent"),
        pytest.param(lambda: encoded(Image.new("LA", (40, 20), (250, 255))), (250, 250, 250), id="grey-alpha"),
    ],
)
def test_every_colour_mode_becomes_blue_green_red(make: Callable[[], bytes], pixel: tuple[int, int, int]) -> None:
    decoded = images.decode(make())
    assert decoded.shape == (20, 40, 3)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    assert tuple(decoded[10, 10]) == pytest.approx(pixel, abs=3)


def test_light_writing_is_laid_on_black_and_dark_on_white() -> None:
    for ink, paper in ((250, 0), (5, 255)):
        page = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
        page.paste((ink, ink, ink, 255), (10, 5, 20, 15))
        decoded = images.decode(encoded(page))
        assert tuple(decoded[10, 15]) == (ink,) * 3
        assert tuple(decoded[0, 0]) == (paper,) * 3


def test_an_image_is_turned_as_its_exif_says() -> None:
    page = Image.new("RGB", (40, 20), "white")
    page.paste("black", (0, 0, 10, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    turned = images.decode(encoded(page, "PNG", exif=exif))
    assert turned.shape == (40, 20, 3)
    assert turned[2].max() == 0
    assert turned[-2].min() == 255


def test_a_garbled_exif_tag_does_not_spoil_the_pixels() -> None:
    content = encoded(RED, "JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x05" + b"\xff" * 30)
    assert images.decode(content).shape == (20, 40, 3)


def test_of_an_animation_the_first_frame_is_read() -> None:
    frames = [Image.new("RGB", (40, 20), colour) for colour in ("white", "black")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert images.decode(content).min() == 255


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_surprise(content: bytes) -> None:
    with pytest.raises(BadImage):
        images.decode(content)


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"]),
    places=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=20),
)
def test_images_with_changed_bytes_never_surprise(kind: str, places: list[tuple[int, int]]) -> None:
    content = bytearray(encoded(RED, kind))
    for place, value in places:
        content[place % len(content)] = value
    try:
        decoded = images.decode(bytes(content))
    except BadImage as bad:
        assert bad.status in (400, 413, 415)
        assert bad.reason
        assert "\n" not in bad.reason
    else:
        assert decoded.ndim == 3
        assert decoded.shape[2] == 3


@settings(max_examples=600, deadline=None)
@given(FAULTY)
def test_faulty_files_are_pixels_or_a_reason(content: bytes) -> None:
    try:
        decoded = images.decode(content)
    except BadImage as bad:
        assert bad.status in (400, 413, 415)
        assert bad.reason
        assert "\n" not in bad.reason
    else:
        assert decoded.shape[2:] == (3,)
        assert decoded.size > 0


@pytest.mark.parametrize("kind", sorted(encoded_kinds()))
def test_a_blank_page_is_white_whatever_its_kind(kind: str) -> None:
    decoded = images.decode(encoded_kinds()[kind])
    assert decoded.shape == ((40, 20, 3) if kind.endswith("turned") else (20, 40, 3))
    if kind != "float-tiff":  # floats have no white
        assert decoded.min() >= 250


def test_a_million_empty_chunks_cost_seconds_at_most() -> None:
    whole = png_claiming(20, 20)
    empty = struct.pack(">I", 0) + b"junk" + struct.pack(">I", zlib.crc32(b"junk"))
    started = time.process_time()
    with pytest.raises(BadImage):
        images.decode(whole[:33] + empty * (images.MAX_BYTES // len(empty) - 10) + whole[33:])
    assert time.process_time() - started < 20


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["RGBA", "RGB", "I;16", "F", "P", "CMYK", "1"])
def test_the_largest_page_takes_a_bounded_memory(mode: str) -> None:
    """Twelve bytes a pixel beside the file, whatever its kind: workers times that is what a replica may need."""
    most = 12
    script = f"""
import io
from PIL import Image
from inference import images, meters
file = io.BytesIO()
page = Image.new({mode!r}, (7000, 7000))
page.save(file, "TIFF", compression="tiff_deflate")
del page
before = meters.peak_memory_bytes()
images.decode(file.getvalue())
print((meters.peak_memory_bytes() - before) / 49e6)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert float(done.stdout) < most, done.stdout


def test_a_refusal_comes_whole_out_of_another_process() -> None:
    """Where `halve bench --ablate` reads; half of it would end in a traceback of the pool."""
    bad = pickle.loads(pickle.dumps(BadImage("a.png: empty file", 413)))
    assert (str(bad), bad.reason, bad.status) == ("a.png: empty file", "a.png: empty file", 413)
