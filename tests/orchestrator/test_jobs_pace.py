"""How many items of a batch are under way at once: enough to leave no replica idle, and no more."""

import threading
from pathlib import Path

import pytest

from orchestrator.executors import Executor, Outcome, Task, Verdict
from orchestrator.jobs import submit
from orchestrator.jobs.lane import FEWER_AFTER, MORE_AFTER, Lane, Pace
from orchestrator.ledger.jobs import State
from tests.orchestrator.batch import NOW, find, folder, generation, numbered, opened, runner, until

PACES = {
    # under way, at most, of each item's time so much is reading -> under way next
    "alone, too many wait": (4, 4, 1 / 4, 2),
    "alone, one is read and one waits": (2, 4, 1 / 2, 2),
    "alone, and the replica idles in between": (1, 4, 1.0, 2),
    "others came": (2, 4, 1 / 3, 1),
    "others are still there": (1, 4, 0.7, 1),
    "others have gone": (1, 4, 0.9, 2),
    "four workers, nothing waits": (4, 64, 1.0, 7),
    "four workers, as many wait": (8, 64, 4 / 8, 7),
    "no more than allowed": (4, 4, 1.0, 4),
    "no less than one": (2, 4, 0.01, 1),
}


@pytest.mark.parametrize(("under_way", "most", "share", "then"), PACES.values(), ids=PACES.keys())
def test_pace(under_way: int, most: int, share: float, then: int) -> None:
    pace = Pace(way_seconds=0.0)
    enough = max(FEWER_AFTER if then < under_way else MORE_AFTER, under_way)
    found = [pace.after(under_way, most, 1.0, share) for _ in range(enough)]
    assert set(found[: FEWER_AFTER - 1]) == {under_way}  # one item says little
    assert found[-1] == then


def test_one_engine_alone_is_kept_busy_with_two() -> None:
    """What one engine makes of n items under way, until nothing changes; the first one finds it idle."""
    pace, under_way = Pace(), 4
    under_way = pace.after(under_way, 4, 0.05, 0.05)
    for _ in range(200):
        under_way = pace.after(under_way, 4, 0.05 * under_way, 0.05)
    assert under_way == 2


@pytest.mark.parametrize("start", [1, 16])
def test_an_engine_far_away_is_kept_busy_with_as_many_as_are_on_the_way(start: int) -> None:
    """A fifth of a second there and back, a twentieth of reading: five under way keep it busy, and one waits."""
    pace, under_way = Pace(), start
    under_way = pace.after(under_way, 64, 0.25, 0.05)
    for _ in range(400):
        under_way = pace.after(under_way, 64, max(0.25, 0.05 * under_way), 0.05)
    assert under_way in (5, 6)


def test_the_next_one_goes_while_a_result_is_written(tmp_path: Path) -> None:
    """With one under way at once: a replica does not wait for our disk."""
    taken: list[object] = []
    lane = Lane(lambda lane: None)
    ledger = generation(opened(tmp_path / "home"))
    job = submit(ledger, None, folder(tmp_path / "in", numbered(2)), tmp_path / "out", [], NOW)
    from orchestrator.jobs.lane import Errand
    from orchestrator.ledger import items

    with ledger.write() as tx:
        errands = [Errand(job=job, item=item) for item in items.lease(tx, job.id, "me", 2, NOW, NOW)]
    lane.open(Idle(), 1)
    lane.put(errands)
    assert lane.take() is not None
    second = threading.Thread(target=lambda: taken.append(lane.take()), daemon=True)
    second.start()
    second.join(0.2)
    assert not taken and lane.busy == 1
    lane.answered(errands[0], 1.0, None)
    second.join(5)
    assert len(taken) == 1 and lane.busy == 2
    lane.ended(errands[0])
    assert lane.busy == 1


class Idle(Executor):
    def read(self, task: Task) -> Outcome:
        return Outcome(verdict=Verdict.UNAVAILABLE)


class Queue(Executor):
    """An engine that reads one image at a time and says how long that took; notes how many stood there at once."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.count = threading.Lock()
        self.there = 0
        self.most: list[int] = []

    def read(self, task: Task) -> Outcome:
        with self.count:
            self.there += 1
            self.most.append(self.there)
        with self.turn:
            threading.Event().wait(0.02)
        with self.count:
            self.there -= 1
        return Outcome(verdict=Verdict.READ, result={"recognized_text": "", "processing_time_ms": 20.0})


def test_a_batch_does_not_crowd_an_engine_that_others_ask_too(tmp_path: Path) -> None:
    ledger = generation(opened(tmp_path / "home"))
    engine = Queue()
    job = submit(ledger, None, folder(tmp_path / "in", numbered(100)), tmp_path / "out", [], NOW)
    running = runner(ledger, engine, in_flight=8)
    running.start()
    until(lambda: find(ledger, job.id).state is State.DONE)
    running.stop(5.0)
    assert max(engine.most[:10]) == 8  # as many as allowed, before anything is known
    assert max(engine.most[50:]) <= 3
