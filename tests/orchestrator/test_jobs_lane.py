"""Where the workers of a deployment take items from."""

import threading
from pathlib import Path

from orchestrator.executors import Executor, Outcome, Task, Verdict
from orchestrator.jobs import submit
from orchestrator.jobs.lane import Errand, Lane
from orchestrator.ledger import items
from tests.orchestrator.batch import NOW, folder, generation, numbered, opened


def test_the_next_one_goes_while_a_result_is_written(tmp_path: Path) -> None:
    """With one under way at once: a replica does not wait for our disk."""
    taken: list[object] = []
    lane = Lane(lambda lane: None)
    ledger = generation(opened(tmp_path / "home"))
    job = submit(ledger, None, folder(tmp_path / "in", numbered(2)), tmp_path / "out", [], NOW)
    with ledger.write() as tx:
        errands = [Errand(job=job, item=item) for item in items.lease(tx, job.id, "me", 2, NOW, NOW)]
    lane.open(Idle(), 1)
    lane.put(errands)
    assert lane.take() is not None
    second = threading.Thread(target=lambda: taken.append(lane.take()), daemon=True)
    second.start()
    second.join(0.2)
    assert not taken and lane.busy == 1
    lane.answered(errands[0])
    second.join(5)
    assert len(taken) == 1 and lane.busy == 2
    lane.ended(errands[0])
    assert lane.busy == 1


class Idle(Executor):
    def read(self, task: Task) -> Outcome:
        return Outcome(verdict=Verdict.UNAVAILABLE)
