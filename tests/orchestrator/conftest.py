"""What the tests of the orchestrator share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.jobs import JobRunner
from orchestrator.ledger.store import Ledger
from tests.orchestrator.batch import generation, opened
from tests.orchestrator.dashboard_ledger import filled
from tests.orchestrator.sshd import Server, server
from tests.orchestrator.tiny import end_all


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A HALVE_HOME whose processes end with the test."""
    path = tmp_path / "home"
    path.mkdir()
    yield path
    end_all(path)


@pytest.fixture(scope="module")
def filled_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose ledger is filled up to now, once for a module: who changes it takes a copy."""
    path = tmp_path_factory.mktemp("filled")
    filled(path).close()
    return path


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A ledger with the deployment `ocr`, under a daemon's lease."""
    return generation(opened(tmp_path / "home"))


@pytest.fixture
def running() -> Iterator[list[JobRunner]]:
    """Runners started by the test; stopped at its end."""
    started: list[JobRunner] = []
    yield started
    for one in started:
        one.stop(2.0)


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One host reached by ssh, for as long as the tests last: what is installed there stays."""
    with server(tmp_path_factory.mktemp("box")) as one:
        yield one
