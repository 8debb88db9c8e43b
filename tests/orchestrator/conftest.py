"""What the tests of the orchestrator share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.orchestrator.tiny import end_all


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A HALVE_HOME whose processes end with the test."""
    path = tmp_path / "home"
    path.mkdir()
    yield path
    end_all(path)
