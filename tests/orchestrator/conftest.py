"""What the tests of the orchestrator share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.orchestrator.sshd import Server, server
from tests.orchestrator.tiny import end_all


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A HALVE_HOME whose processes end with the test."""
    path = tmp_path / "home"
    path.mkdir()
    yield path
    end_all(path)


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One host reached by ssh, for as long as the tests last: what is installed there stays."""
    with server(tmp_path_factory.mktemp("box")) as one:
        yield one
