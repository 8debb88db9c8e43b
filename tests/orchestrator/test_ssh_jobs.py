"""A job over two hosts reached by ssh, one of which has trouble: the other one goes on, and no item is lost or doubled.

A host that is killed in the middle is in test_ssh_daemon.py.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator.jobs import submit
from orchestrator.ledger.jobs import Job, State
from orchestrator.ledger.store import Ledger
from orchestrator.providers.ssh.standing import noted
from tests.orchestrator.batch import find, folder, held_in_the_middle, lines, numbered
from tests.orchestrator.driven import machines, put_up, ready, take_down
from tests.orchestrator.driven_ssh import TINY, daemon, spec
from tests.orchestrator.scene import booked, rows
from tests.orchestrator.sshd import Server, reached, server, ssh
from tests.orchestrator.tiny import fill, small_disk, until

pytest.importorskip("asyncssh", reason="needs asyncssh: pip install 'halve[ssh]'")
from orchestrator.providers.ssh import keys

COUNT = 400


@contextmanager
def two(home: Path, one: Server, other: AbstractContextManager[Server]) -> Iterator[tuple[Server, Ledger]]:
    """The other host, and the ledger of a daemon that has a replica on each."""
    with other as troubled:
        hosts = (one, troubled)
        reached(ssh(home, *(host.host(replica=TINY) for host in hosts)), hosts=2).close()
        ledger = put_up(home, text=spec(*hosts))
        with daemon(home):
            until(lambda: len(serving(ledger)) == 2, 120)
            yield troubled, ledger


def serving(ledger: Ledger) -> list[str]:
    return [machine.offer_id for machine in ready(ledger) if not machine.silent_since]


def submitted(ledger: Ledger, place: Path) -> Job:
    """A job that has begun, and is not over before `check_whole` asks for it."""
    images = held_in_the_middle(COUNT, place / "held")
    job = submit(ledger, None, folder(place / "in", images), place / "out", [], datetime.now(UTC))
    until(lambda: find(ledger, job.id).done > 50)
    return job


def check_whole(ledger: Ledger, job: Job) -> None:
    """It comes to its end, with one result per image."""
    (job.destination.parent / "held").unlink()
    until(lambda: find(ledger, job.id).state is State.DONE, 120)
    end = find(ledger, job.id)
    assert (end.done, end.failed) == (COUNT, 0)
    found = [line["original_filename"] for line in lines(job.destination / "results.jsonl")]
    assert found == sorted(map(str, numbered(COUNT)))


def lost(troubled: Server, ledger: Ledger, job: Job, meanwhile: Callable[[], object]) -> None:
    """It goes away in the middle of the job, and comes back as another one."""
    troubled.lose()
    assert find(ledger, job.id).done < COUNT
    meanwhile()
    troubled.start()


@pytest.mark.slow
def test_a_host_whose_key_changes_in_the_middle_of_a_job_is_trusted_no_more(
    home: Path, tmp_path: Path, box: Server
) -> None:
    with two(home, box, server(tmp_path / "other")) as (other, ledger):
        name = other.host().name
        job = submitted(ledger, tmp_path)
        lost(other, ledger, job, other.new_host_key)
        check_whole(ledger, job)
        until(lambda: f"halve hosts trust {name}" in noted(home, name).why)
        until(lambda: serving(ledger) == [f"ssh/{box.host().name}/ocr"])
        assert not other.running(), "nothing is asked of somebody else"
        keys.trust(home, other.host(), keys.offered(other.host()))
        until(lambda: len(serving(ledger)) == 2, 120)


@pytest.mark.slow
def test_a_host_whose_disk_is_full_starts_nothing_and_the_job_goes_on(home: Path, tmp_path: Path, box: Server) -> None:
    with small_disk(tmp_path / "disk", "48m") as disk:
        with two(home, box, server(tmp_path / "other", home=disk / "home")) as (other, ledger):
            job = submitted(ledger, tmp_path)
            lost(other, ledger, job, lambda: fill(disk))
            check_whole(ledger, job)
            until(lambda: any("No space left" in str(row) for row in rows(ledger, "intents")))
            until(lambda: serving(ledger) == [f"ssh/{box.host().name}/ocr"])
            (disk / "filler").unlink()
            until(lambda: len(serving(ledger)) == 2, 120)
        other.close()


@pytest.mark.slow
def test_a_host_whose_clock_is_wrong_reads_its_part_and_is_paid_by_ours(
    home: Path, tmp_path: Path, box: Server
) -> None:
    faketime = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if faketime is None:
        pytest.skip("needs faketime: apt-get install faketime")
    environment = {"LD_PRELOAD": str(faketime), "FAKETIME": "-40d"}
    before = datetime.now(UTC)
    with two(home, box, server(tmp_path / "other", environment=environment)) as (other, ledger):
        job = submitted(ledger, tmp_path)
        check_whole(ledger, job)
        (wrong,) = [one for one in ready(ledger) if one.offer_id == f"ssh/{other.host().name}/ocr"]
        until(lambda: sum(row.images for row in rows(ledger, "loads") if row.instance_id == wrong.id) > 0)
        take_down(ledger)
        until(lambda: not machines(ledger), 120)
    for charge in booked(ledger)[wrong.id]:
        assert charge.ended_at is not None
        assert before <= charge.started_at <= charge.ended_at <= datetime.now(UTC)
