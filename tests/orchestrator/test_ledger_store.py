"""Where the ledger lives: one key, whole transactions, plain words for a disk that is full."""

import hashlib
import hmac
import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from orchestrator.billing import accrued
from orchestrator.errors import Refused
from orchestrator.ledger import charges, deployments, history, leases, ticks
from orchestrator.ledger.fleet import token_of
from orchestrator.ledger.store import (
    Ledger,
    LedgerUnwritable,
    Stale,
    installation_key,
    open_file,
    open_ledger,
    tune_sqlite,
)
from tests.orchestrator.batch import opened
from tests.orchestrator.scene import Scene, booked, rows
from tests.orchestrator.test_providers import no_room

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def test_a_token_is_a_function_of_the_installation_and_the_intent() -> None:
    key = b"k" * 32
    assert (
        token_of(key, 7, NOW) == hmac.new(key, f"launch:7:{NOW.isoformat()}".encode(), hashlib.sha256).hexdigest()[:40]
    )
    restored = token_of(key, 7, NOW + timedelta(days=1))  # the same number, counted again after a restore
    assert len({token_of(key, 7, NOW), token_of(key, 8, NOW), token_of(b"l" * 32, 7, NOW), restored}) == 4


def test_the_key_is_made_once_whoever_comes_first_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        keys = set(threads.map(lambda _: installation_key(tmp_path), range(64)))
    assert len(keys) == 1
    assert len(keys.pop()) == 32
    assert [path.name for path in tmp_path.iterdir()] == ["installation.key"]
    assert (tmp_path / "installation.key").stat().st_mode & 0o777 == 0o600


def test_a_key_that_is_cut_short_is_refused_and_not_replaced(tmp_path: Path) -> None:
    """With an empty one, everybody could work out the tokens."""
    path = tmp_path / "installation.key"
    for content in (b"", b"k" * 31):
        path.write_bytes(content)
        with pytest.raises(Refused, match=f"installation.key: {len(content)} bytes are no key"):
            open_ledger(tmp_path)
        assert path.read_bytes() == content


def test_without_room_no_key_is_better_than_half_a_key(tmp_path: Path) -> None:
    with no_room(), pytest.raises(OSError, match="File too large"):
        installation_key(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_processes_that_meet_on_a_fresh_home_open_one_ledger(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from orchestrator.ledger.store import open_ledger as o; "
    code += "print(o(Path(sys.argv[1])).installation_id())"
    command = [sys.executable, "-c", code, str(tmp_path / "home")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=250) for process in started]
    assert len({out for out, _ in said}) == 1, said
    assert said[0][0].strip()


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    with pytest.raises(RuntimeError), ledger.write() as tx:
        deployments.put_up(tx, "other", "spec", "s.yaml", NOW)
        raise RuntimeError
    assert [row.name for row in rows(ledger, "deployments")] == ["ocr"]


def test_a_reader_sees_one_moment_whoever_writes_meanwhile(tmp_path: Path) -> None:
    ledger, other = opened(tmp_path), open_ledger(tmp_path)
    with ledger.read() as reading:
        assert len(deployments.known(reading)) == 1
        with other.write() as tx:
            deployments.put_up(tx, "other", "spec", "s.yaml", NOW)
        assert len(deployments.known(reading)) == 1
    with ledger.read() as reading:
        assert len(deployments.known(reading)) == 2


def test_a_writer_has_its_lock_before_it_has_written(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    other = sqlite3.connect(tmp_path / "halve.db", timeout=0, isolation_level=None)
    with ledger.write(), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.execute("BEGIN IMMEDIATE")
    other.close()


def test_a_full_disk_is_said_plainly_and_nothing_is_lost(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    before = rows(ledger, "deployments")
    with no_room(), pytest.raises(LedgerUnwritable, match="nothing was lost"), ledger.write() as tx:
        deployments.put_up(tx, "other", "spec" * 10_000, "s.yaml", NOW)
    assert rows(ledger, "deployments") == before
    with ledger.write() as tx:
        deployments.put_up(tx, "other", "spec" * 10_000, "s.yaml", NOW)
    assert len(rows(ledger, "deployments")) == 2


def test_a_stale_generation_writes_nothing(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    with ledger.write() as tx:
        ledger.generation = leases.take(tx, "a", 1, NOW)
    successor = Ledger(ledger.engine, ledger.key)
    with successor.write() as tx:
        assert leases.take(tx, "b", 2, NOW) == ledger.generation + 1
    with pytest.raises(Stale), ledger.write() as tx:
        deployments.put_up(tx, "other", "spec", "s.yaml", NOW)
    assert len(rows(ledger, "deployments")) == 1
    with ledger.read() as tx:  # looking is free
        assert leases.held(tx) is not None


def test_real_and_simulated_ledgers_are_told_apart(tmp_path: Path) -> None:
    assert not opened(tmp_path).simulated()
    assert open_file(tmp_path / "s.db", simulated=True, create=True).simulated()
    assert open_file(tmp_path / "s.db").simulated()
    with pytest.raises(Refused, match="no such file"):
        open_file(tmp_path / "nowhere.db")
    assert not (tmp_path / "nowhere.db").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file, no ledger of halve"),
        (b"hello, world" * 1000, "file is not a database"),
        (None, "a database of something else, no ledger of halve"),
    ],
    ids=["empty", "text", "foreign"],
)
def test_what_is_no_ledger_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "theirs.db"
    if content is None:
        with closing(sqlite3.connect(file)) as theirs:
            theirs.execute("CREATE TABLE alembic_version (version_num TEXT)")
            theirs.execute("CREATE TABLE albums (title TEXT)")
    else:
        file.write_bytes(content)
    before = file.read_bytes()
    with pytest.raises(Refused, match=words):
        open_file(file)
    assert file.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == ["theirs.db"]


def test_a_folder_is_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="a folder; name the ledger in it"):
        open_file(tmp_path)


def test_a_ledger_that_is_damaged_says_so_and_how_to_go_back(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    with ledger.write() as tx:
        for number in range(400):
            deployments.put_up(tx, f"d{number}", "spec " * 100, "s.yaml", NOW)
    ledger.close()
    file = tmp_path / "halve.db"
    whole = file.read_bytes()
    with closing(sqlite3.connect(file)) as found:
        (page,) = found.execute("SELECT rootpage FROM sqlite_master WHERE name = 'deployments'").fetchone()
        (size,) = found.execute("PRAGMA page_size").fetchone()
    torn = whole[: (page - 1) * size] + b"\xff" * size + whole[page * size :]
    for content in (torn, whole[: len(whole) // 3], b"no database" * 1000):
        for beside in tmp_path.glob("halve.db-*"):
            beside.unlink()
        file.write_bytes(content)
        with pytest.raises(Refused, match="it is damaged: `halve ledger restore FILE` goes back to a copy"):
            rows(open_ledger(tmp_path), "deployments")
        assert file.read_bytes() == content


def test_a_naive_time_does_not_reach_the_ledger(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    with pytest.raises(sa.exc.StatementError, match="naive"), ledger.write() as tx:
        deployments.take_down(tx, "ocr", datetime(2026, 1, 1))  # noqa: DTZ001


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_home_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(Refused, match="HALVE_HOME"):
        open_ledger(tmp_path)


# charges


def test_a_machine_has_one_open_charge_and_its_parts_add_up(tmp_path: Path) -> None:
    """Cut by price changes at any moment, a machine's charges cover its life without a gap."""
    scene = Scene(tmp_path / "home")
    scene.run(30)
    (machine,) = scene.ready()
    moments = [NOW + timedelta(seconds=seconds, microseconds=7) for seconds in (40, 41, 100, 100)]
    with scene.ledger.write() as tx:
        for number, at in enumerate(moments):
            charges.reprice(tx, machine.id, (1000 + number, "CNY"), at)
            charges.reprice(tx, machine.id, (1000 + number, "CNY"), at)  # it has moved already
        charges.start(tx, machine, price_per_hour_micros=1, currency="CNY", started_at=NOW)  # it has one
    found = booked(scene.ledger)[machine.id]
    assert [charge.ended_at for charge in found] == [*moments, None]
    assert [charge.started_at for charge in found] == [machine.launched_at, *moments]
    with scene.ledger.write() as tx:
        charges.close(tx, machine, NOW)  # before it started: nothing, not less than nothing
    last = booked(scene.ledger)[machine.id][-1]
    assert (last.ended_at, accrued(last, NOW + timedelta(days=1))) == (last.started_at, 0)
    with scene.ledger.write() as tx:
        charges.close(tx, machine, NOW + timedelta(hours=1))
    assert booked(scene.ledger)[machine.id][-1] == last  # closed rows never change


def test_a_tick_does_not_read_the_snapshot_of_the_last_one(tmp_path: Path) -> None:
    """Of ten thousand machines it is megabytes, and at rest it would be read once a second."""
    scene = Scene(tmp_path / "home")
    scene.tick()
    with scene.ledger.read() as tx:
        last = ticks.last(tx, "ocr")
        assert last is not None
        whole = history.decision(tx, "ocr", last.id)
    assert whole is not None
    assert whole.snapshot is not None
    assert last._fields == tuple(name for name in whole._fields if name != "snapshot")


class Contended(sqlite3.Connection):
    """Others are changing the same new file: SQLite refuses at once, and asks no busy handler."""

    refusals = 3

    def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
        if "journal_mode" in sql and self.refusals:
            self.refusals -= 1
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY_RECOVERY
            raise error
        return super().execute(sql, *more)


def test_a_new_file_that_others_are_changing_is_waited_for(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'halve.db'}", connect_args={"factory": Contended})
    sa.event.listen(engine, "connect", tune_sqlite)
    with engine.connect() as tx:
        assert tx.scalar(sa.text("PRAGMA journal_mode")) == "wal"
