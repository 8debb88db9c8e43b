"""Hosts reached by ssh under a real daemon and a real door."""

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from orchestrator.door import Door
from orchestrator.jobs import submit
from orchestrator.ledger import leases
from orchestrator.ledger.jobs import State
from orchestrator.ledger.store import Ledger
from orchestrator.providers.ssh import host as hosts
from orchestrator.providers.ssh.link import Link
from tests.orchestrator.batch import find, folder, held_in_the_middle, lines, numbered
from tests.orchestrator.driven import machines, put_up, ready, take_down
from tests.orchestrator.driven_ssh import SLOW, TINY, daemon, spec
from tests.orchestrator.forked import Forked
from tests.orchestrator.scene import booked
from tests.orchestrator.sshd import Server, reached, server, ssh
from tests.orchestrator.tiny import replicas, until

pytest.importorskip("asyncssh", reason="needs asyncssh: pip install 'halve[ssh]'")


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    with server(tmp_path / "one") as one, server(tmp_path / "other") as other:
        yield one, other


def trusted(home: Path, *servers: Server, replica: str = TINY) -> None:
    """Keys are confirmed and halve is installed, as `halve hosts add` does."""
    reached(ssh(home, *(one.host(replica=replica) for one in servers)), hosts=len(servers)).close()


def answers(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.post(f"{url}/v1/ocr", files={"file": b"x"}, trust_env=False, timeout=20).is_success
    return False


def ticked(ledger: Ledger, process: Forked, after: datetime) -> bool:
    """Whether this daemon has begun, and ended, a tick since then."""
    with ledger.read() as tx:
        held = leases.held(tx)
    return held is not None and held.pid == process.pid and held.last_tick_at is not None and held.last_tick_at > after


def address(home: Path) -> str:
    process = until(lambda: Door(home, "ocr").running())
    return str(process.url)


@pytest.mark.slow
def test_the_door_serves_on_while_the_daemon_is_away_and_the_next_one_adopts_all(
    home: Path, two: tuple[Server, Server]
) -> None:
    one, _ = two
    trusted(home, one)
    ledger = put_up(home, text=spec(one))
    with daemon(home) as first:
        until(lambda: ready(ledger))
        url = address(home)
        until(lambda: answers(url))
        link = Link(home, one.host().name).running()
        first.send_signal(signal.SIGKILL)
        first.wait()
        ends = time.monotonic() + 3
        while time.monotonic() < ends:
            assert answers(url)
    with daemon(home) as second:
        (machine,) = ready(ledger)
        (pid,) = [process.pid for process in replicas(one.far)]
        for _ in range(3):
            until(partial(ticked, ledger, second, datetime.now(UTC)))
        assert answers(url)
        assert [each.id for each in ready(ledger)] == [machine.id]
        assert [process.pid for process in replicas(one.far)] == [pid]
        assert Link(home, one.host().name).running() == link
        take_down(ledger)
        assert second.wait(120) == 0
    assert replicas(one.far) == []
    (over,) = machines(ledger, over=True)
    (charge,) = booked(ledger)[over.id]
    assert (charge.started_at, charge.ended_at) == (over.launched_at, over.ended_at)
    assert charge.price_per_hour_micros == 1_800_000


@pytest.mark.slow
def test_of_two_hosts_one_is_killed_in_the_middle_of_a_job(
    home: Path, tmp_path: Path, two: tuple[Server, Server]
) -> None:
    lost, left_over = two
    trusted(home, *two)
    ledger = put_up(home, text=spec(*two))
    images = held_in_the_middle(400, held := tmp_path / "held")
    with daemon(home):
        until(lambda: len(ready(ledger)) == 2)
        assert sorted(len(replicas(one.far)) for one in two) == [1, 1]  # one each
        job = submit(ledger, None, folder(tmp_path / "in", images), tmp_path / "out", [], datetime.now(UTC))
        until(lambda: find(ledger, job.id).done > 50)
        lost.lose()
        assert find(ledger, job.id).done < len(images)
        held.unlink()
        until(lambda: find(ledger, job.id).state is State.DONE, 120)
        end = find(ledger, job.id)
        assert (end.done, end.failed) == (len(images), 0)
        left = [f"ssh/{left_over.host().name}/ocr"]
        until(lambda: [machine.offer_id for machine in ready(ledger) if not machine.silent_since] == left)
        lost.start()  # and it is back: both serve again
        until(lambda: len([m for m in ready(ledger) if not m.silent_since]) == 2, 120)
        assert sorted(len(replicas(one.far)) for one in two) == [1, 1]
    found = lines(tmp_path / "out" / "results.jsonl")
    assert len(found) == len(images)
    assert len(list((tmp_path / "out").glob("*.png.json"))) == len(images)
    assert {json.loads(path.read_text())["recognized_text"] for path in (tmp_path / "out").glob("*.png.json")} == {
        "tiny"
    }
    assert {one.name for one in hosts.known(home)} == {one.host().name for one in two}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.soak), pytest.param(3, marks=pytest.mark.soak)])
def test_two_thousand_items_over_this_machine_and_two_hosts_with_kills_at_random(
    home: Path, tmp_path: Path, two: tuple[Server, Server], seed: int
) -> None:
    """Engines, hosts, connections and the daemon are killed while it runs; every item has one result."""
    chance = random.Random(seed)
    trusted(home, *two, replica=SLOW)
    ledger = put_up(home, text=spec(*two, here=1))
    images = numbered(2000)
    kinds = ["engine", "host", "connection", "daemon"]
    done: Counter[str] = Counter()
    with ExitStack() as stack:
        process = stack.enter_context(daemon(home, SLOW))
        until(lambda: len(ready(ledger)) == 3, 120)
        assert sorted(one.provider for one in ready(ledger)) == ["local", "ssh", "ssh"]
        job = submit(ledger, None, folder(tmp_path / "in", images), tmp_path / "out", [], datetime.now(UTC))
        ends = time.monotonic() + 900
        while find(ledger, job.id).state is not State.DONE:
            assert time.monotonic() < ends, f"{find(ledger, job.id)} after {done}"
            time.sleep(chance.uniform(0.5, 2.0))
            if sum(done.values()) >= 12:
                continue  # let it come to its end
            kind, host = chance.choice(kinds), chance.choice(two)
            done[kind] += 1
            if kind == "engine":
                for replica in chance.sample(found := [*replicas(home), *replicas(host.far)], min(1, len(found))):
                    with suppress(psutil.NoSuchProcess):
                        replica.kill()
            elif kind == "daemon":
                process.kill()
                process.wait()
                process = stack.enter_context(daemon(home, SLOW))
            else:
                host.lose() if kind == "host" else host.kill()
                time.sleep(chance.uniform(0.0, 1.0))
                host.start()
        end = find(ledger, job.id)
        assert (end.done, end.failed) == (len(images), 0), done
        found_lines = lines(tmp_path / "out" / "results.jsonl")
        assert sorted(line["original_filename"] for line in found_lines) == sorted(map(str, images))
        assert len(list((tmp_path / "out").glob("*.png.json"))) == len(images)
        assert len(done) >= 3, done
        take_down(ledger)
        until(lambda: not machines(ledger), 120)
    assert [len(replicas(one)) for one in (home, two[0].far, two[1].far)] == [0, 0, 0]
