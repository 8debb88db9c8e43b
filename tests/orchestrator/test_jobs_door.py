"""A batch through the real door."""

import time
from pathlib import Path

from orchestrator.door import Door, ServingSet
from orchestrator.door import Replica as Published
from orchestrator.executors.http import HttpExecutor
from orchestrator.jobs import submit
from orchestrator.jobs.retry import FAILURES_MAX
from orchestrator.ledger.jobs import State
from tests.orchestrator.batch import NOW, HurriedClock, find, folder, generation, lines, numbered, opened, runner
from tests.orchestrator.fake_engine import Replica, replica

__all__ = ["replica"]


def test_a_poison_item_behind_the_door_ends_as_failed(tmp_path: Path, replica: Replica) -> None:
    """The door repeats what a replica died of, for anybody but a batch: that has to know, and repeats by itself."""
    ledger = generation(opened(tmp_path / "home"))
    door = Door(tmp_path / "home", "ocr")
    url = door.ensure("127.0.0.1:0").url
    running = runner(ledger, HttpExecutor(f"{url}/v1/ocr"), clock=HurriedClock())
    serving = (Published(id="ocr-1", url=f"http://127.0.0.1:{replica.start().port}"),)
    deaths = 0
    try:
        door.publish(ServingSet(deployment="ocr", open=True, replicas=serving))
        images = numbered(20) | {"00003.png": b"poison"}
        job = submit(ledger, None, folder(tmp_path / "in", images), tmp_path / "out", [], NOW)
        running.start()
        end = time.monotonic() + 60
        while find(ledger, job.id).state is not State.DONE:
            assert time.monotonic() < end, f"{deaths} deaths"
            if replica.dead():
                replica.kill()
                replica.start()
                deaths += 1
            time.sleep(0.02)
    finally:
        running.stop(5.0)
        door.stop()
        door.close()
    assert [line["original_filename"] for line in lines(tmp_path / "out/errors.jsonl")] == ["00003.png"]
    assert len(lines(tmp_path / "out/results.jsonl")) == 19
    assert deaths == FAILURES_MAX + 1
