"""The process that runs the jobs is killed at any moment, and so is the engine: one result per item, every time."""

import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.jobs import submit
from orchestrator.ledger import jobs
from orchestrator.ledger.jobs import State
from orchestrator.ledger.store import Ledger
from tests.orchestrator.batch import NOW, find, folder, lines, numbered, opened, until
from tests.orchestrator.fake_engine import Replica
from tests.orchestrator.forked import Forked

ROUNDS = 10
ITEMS = 300


def runner_process(home: Path, url: str) -> Forked:
    said = home / "runner.log"
    said.unlink(missing_ok=True)
    process = Forked("tests.orchestrator.batch", home, url, out=said)
    until(lambda: "running\n" in said.read_text() or process.poll() is not None)
    assert process.poll() is None, said.read_text()
    return process


def end(process: Forked) -> None:
    process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_moments_every_item_has_one_result(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    images = numbered(ITEMS)
    ledger = opened(tmp_path / "home")
    job = submit(ledger, None, folder(tmp_path / "in", images), tmp_path / "out", [], NOW)
    engine = Replica(tmp_path, 0.02).start()
    process = None
    settled: list[tuple[int, set[str]]] = []  # at each kill: how much the engine had seen, and what was done
    try:
        for _ in range(ROUNDS):
            process = runner_process(tmp_path / "home", engine.url)
            time.sleep(chance.uniform(0.0, 0.6))
            if chance.random() < 0.3:
                engine.kill()
                time.sleep(chance.uniform(0.0, 0.2))
                engine.start()
            end(process)
            settled.append((len(engine.seen()), done_by(ledger)))
            check_in_between(tmp_path / "out", images)
        process = runner_process(tmp_path / "home", engine.url)
        until(lambda: find(ledger, job.id).state is State.DONE, 120)
        process.wait(60)
    finally:
        if process is not None:
            end(process)
        engine.kill()
    done = find(ledger, job.id)
    assert (done.done, done.failed) == (ITEMS, 0)
    found = lines(job.destination / "results.jsonl")
    assert [line["original_filename"] for line in found] == sorted(map(str, images))
    assert [line["recognized_text"] for line in found] == [images[name].decode() for name in sorted(map(str, images))]
    assert (job.destination / "errors.jsonl").read_bytes() == b""
    assert not list(job.destination.glob(".halve*"))
    with ledger.read() as tx:
        assert Counter(state for (state,) in tx.exec_driver_sql("SELECT state FROM items")) == {"done": ITEMS}
        assert jobs.demand(tx, "ocr", NOW) == ()
    seen = [one["name"] for one in engine.seen()]
    for before, names in settled:  # a kill costs what was under way or not yet acknowledged, never what was done
        assert names.isdisjoint(seen[before:])


def done_by(ledger: Ledger) -> set[str]:
    """The items that the ledger has as done."""
    with ledger.read() as tx:
        return {json.loads(path) for (path,) in tx.exec_driver_sql("SELECT path FROM items WHERE state = 'done'")}


def check_in_between(destination: Path, images: dict[str | bytes, bytes]) -> None:
    """What lies there at any moment is whole."""
    for path in destination.glob("*.json"):
        result = json.loads(path.read_bytes())
        assert result["recognized_text"].encode() == images[path.name.removesuffix(".json")]
