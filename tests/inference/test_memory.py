"""Memory does not grow with the requests answered, and a waiting request costs what it sent."""

from pathlib import Path

import pytest

from tests.benchmarks import memory
from tests.inference.replica import replica


@pytest.mark.slow
def test_memory_stays_flat(tmp_path: Path) -> None:
    with replica(tmp_path, "--workers", "1") as running:
        running.until("ready")
        before, after, _ = memory.flat(running, 2000)
    assert after < before * 1.15


@pytest.mark.slow
def test_a_waiting_request_holds_what_it_sent(tmp_path: Path) -> None:
    with replica(tmp_path, "--workers", "1") as running:
        running.until("ready")
        resident, held = memory.waiting(running)
        assert running.client.get("/metrics").text.count("halve_held_bytes 0\n") == 1
    assert held == memory.FILE_BYTES
    assert resident < 3 * memory.FILE_BYTES
