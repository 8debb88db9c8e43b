"""On a CUDA GPU the engine is several times as fast as the same models image by image, and reads as well."""

from pathlib import Path

import pytest

from inference import runner
from tests.benchmarks import gpu

LEAST_SPEED = 5.0
LEAST_CHARACTERS = 0.98


@pytest.mark.gpu
@pytest.mark.slow
def test_batches_in_bf16_against_image_by_image(real_images: Path) -> None:
    pytest.importorskip("torch")
    result = gpu.measured([path.read_bytes() for path in runner.images_in(real_images)])
    gpu.kept(result)
    assert result["characters_equal"] >= LEAST_CHARACTERS
    assert result["speed"] >= LEAST_SPEED
    assert 0 < result["share_of_peak"] < 1
