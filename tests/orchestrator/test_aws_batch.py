"""A batch on AWS whose machine goes without a word, in the middle of it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from orchestrator.executors.http import HttpExecutor
from orchestrator.jobs import JobRunner, submit
from orchestrator.ledger import tables as t
from policies.lifecycle import Status
from tests.orchestrator.aws_service import Service, begun
from tests.orchestrator.batch import begin, folder, generation, is_done, lines, numbered, runner
from tests.orchestrator.tiny import until

pytest.importorskip("flask", reason="moto's server needs Flask")

IMAGES = 200
AT_ONCE = 4


@pytest.fixture
def service(home: Path, tmp_path: Path) -> Iterator[Service]:
    with begun(home, tmp_path, replicas=1) as one:
        generation(one.ledger)
        yield one


@pytest.mark.slow
def test_what_a_lost_machine_was_reading_is_leased_again_and_read_once(
    service: Service, tmp_path: Path, running: list[JobRunner]
) -> None:
    (machine,) = service.serving(1)
    images = numbered(IMAGES)
    texts = sorted(content.decode() for content in images.values())
    job = submit(service.ledger, None, folder(tmp_path / "in", images), tmp_path / "out", [], service.clock.now())
    begin(running, runner(service.ledger, HttpExecutor(f"{service.url}/v1/ocr"), in_flight=AT_ONCE))
    lost = service.park.standing[machine.token]
    until(lambda: len(lost.begun()) >= 20)
    lost.hold()
    service.park.take_back(machine.token)  # nobody was told
    assert not is_done(service.ledger, job)

    def done() -> bool:
        service.tick()
        return is_done(service.ledger, job)

    until(done, 120)
    assert service.over(machine).status is Status.PREEMPTED
    (other,) = service.serving(1)
    assert other.id != machine.id

    results = lines(job.destination / "results.jsonl")
    assert sorted(one["recognized_text"] for one in results) == texts  # every item has one result
    assert {one["original_filename"]: one["recognized_text"].encode() for one in results} == images
    assert lines(job.destination / "errors.jsonl") == []
    with service.ledger.read() as tx:
        attempts = tx.execute(sa.select(t.items.c.path, t.items.c.attempt)).all()
    again = {row.path for row in attempts if row.attempt > 1}
    assert len(attempts) == IMAGES
    assert 1 <= len(again) < IMAGES  # those alone that were in its hands, or that nobody took meanwhile
    taken_over = service.park.standing[other.token].begun()
    twice = sorted(set(lost.begun()) & set(taken_over))
    assert 1 <= len(twice) <= AT_ONCE  # begun there, and not finished
    assert {f"{int(text.split()[1]):05d}.png" for text in twice} <= {json.loads(path) for path in again}
    assert sorted({*lost.begun(), *taken_over}) == texts
    assert len(lost.begun()) + len(taken_over) == IMAGES + len(twice)  # nothing else was read twice
