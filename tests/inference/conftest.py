"""What the engine's tests share: the engine itself, the rendered pages, real images where they are at hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from inference import models
from inference.engine import Engine

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "tests" / "pages"
REAL_IMAGES = ROOT / ".." / "shared" / "data" / "images"


@pytest.fixture(scope="session")
def engine() -> Engine:
    return models.load(accelerator="cpu")


@pytest.fixture(scope="session")
def truth() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((PAGES / "truth.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture
def pages() -> Path:
    return PAGES


@pytest.fixture
def real_images() -> Path:
    if not REAL_IMAGES.is_dir():
        pytest.skip("the photographs of ../shared/data/images are not here")
    return REAL_IMAGES
