"""A measurement says what ran and how fast, of pages that can be read."""

from pathlib import Path

from inference import bench, images
from inference.engine import Engine


def test_a_measurement_is_complete(engine: Engine, pages: Path) -> None:
    files = [(pages / name).read_bytes() for name in ("packaging.png", "nameplate.png")]
    measured = bench.measure(engine, files, workers=2, threads=1, least_seconds=0, least_samples=4)
    assert measured.images == 4
    assert measured.images_per_second > 0
    assert 0 < measured.p95_ms <= measured.seconds * 1000
    assert measured.memory_bytes > 50 * 2**20
    assert (measured.model, measured.precision, measured.batch) == ("ppocr", "fp32", 1)
    assert measured.provider == engine.provider
    assert measured.gpu == bench.cpu_name() != ""
    assert "onnxruntime" in measured.versions or "onnxruntime-gpu" in measured.versions


def test_drawn_pages_are_one_of_each_size_and_full_of_text(engine: Engine) -> None:
    drawn = bench.drawn_pages()
    sides = [images.header(page).longest_side for page in drawn]
    assert sides[0] < 640 <= sides[1] <= 1280 < sides[2]
    assert len(engine.read([images.decode(drawn[0])])[0].lines) == 10
