"""Copies of the ledger: whole, of one moment, while others write; and the way back from one."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from orchestrator.backups import EVERY, RETRY, Backups
from orchestrator.clock import VirtualClock
from orchestrator.errors import Refused
from orchestrator.holder import identity
from orchestrator.invariants import broken, nothing_runs, the_ledger_equals_the_meter
from orchestrator.ledger import backup, deployments, leases
from orchestrator.ledger.store import MIGRATIONS, Ledger, Stale, open_ledger
from orchestrator.recovery import restore
from orchestrator.scheduler import tick
from tests.orchestrator.driven import daemon, put_up, ready, take_down
from tests.orchestrator.scene import Scene, always, rows
from tests.orchestrator.test_control import done, halve, refused
from tests.orchestrator.test_providers import no_room
from tests.orchestrator.tiny import fill, small_disk, until

NOW = datetime(2026, 11, 20, 3, tzinfo=UTC)
BULK = 40_000


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    opened = open_ledger(home)
    yield opened
    opened.close()


def files(home: Path) -> list[str]:
    """What is in the folder of copies, drafts included."""
    return sorted(path.name for path in (home / "backups").iterdir() if path.name != ".lock")


def names(file: Path) -> list[str]:
    """The deployments of a copy, opened as what it is: a file on its own."""
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro&immutable=1", uri=True)) as found:
        assert found.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [name for (name,) in found.execute("SELECT name FROM deployments ORDER BY name")]


def name_one(ledger: Ledger, name: str, size: int = 10) -> None:
    with ledger.write() as tx:
        deployments.put_up(tx, name, "x" * size, "s.yaml", NOW)


def ended(backups: Backups) -> None:
    """Wait for the copy under way."""
    until(lambda: backups._thread is None or not backups._thread.is_alive())


# one copy


def test_a_copy_is_of_one_moment_while_others_write_and_makes_nobody_wait(home: Path, ledger: Ledger) -> None:
    """Two rows are written in every transaction, between any two stretches of pages: a copy has both or none."""
    for number in range(40):
        name_one(ledger, f"bulk-{number:02}", BULK)
    written = 0

    def write() -> None:
        nonlocal written
        with ledger.write() as tx:
            for side in ("left", "right"):
                deployments.put_up(tx, f"{side}-{written:04}", "y" * BULK, "s.yaml", NOW)
        written += 1

    copied = home / "copy.db"
    backup.copy(backup.place(home), copied, write)
    assert written >= 2
    assert names(copied) == [f"bulk-{number:02}" for number in range(40)]  # none that came after its beginning
    assert len(rows(ledger, "deployments")) == 40 + 2 * written
    assert sorted(path.name for path in home.iterdir() if "copy" in path.name) == ["copy.db"]
    assert copied.stat().st_mode & 0o777 == 0o600


def test_what_is_not_yet_in_the_main_file_is_copied_too(home: Path, ledger: Ledger) -> None:
    name_one(ledger, "fresh")
    assert (home / "halve.db-wal").stat().st_size > 0
    backup.copy(backup.place(home), home / "copy.db")
    assert names(home / "copy.db") == ["fresh"]


def test_no_room_is_one_line_and_leaves_no_part_of_a_copy(home: Path, ledger: Ledger) -> None:
    name_one(ledger, "large", 2_000_000)
    with no_room(), pytest.raises(Refused, match="nothing else is affected") as said:
        backup.copy(backup.place(home), home / "copy.db")
    assert "\n" not in str(said.value)
    assert [path.name for path in home.iterdir() if "copy" in path.name] == []
    name_one(ledger, "goes-on")


def test_a_damaged_ledger_is_not_copied_over_a_good_one(home: Path, ledger: Ledger) -> None:
    for number in range(40):
        name_one(ledger, f"bulk-{number:02}", BULK)
    ledger.close()
    with (home / "halve.db").open("r+b") as file:
        file.seek((home / "halve.db").stat().st_size // 8192 * 4096)  # in the middle of what was written last
        file.write(b"\x17" * 4096 * 3)
    with pytest.raises(Refused, match="backup of"):
        backup.copy(home / "halve.db", home / "copy.db")
    assert not (home / "copy.db").exists()


COPY = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from orchestrator.ledger import backup
def between():
    print("under way", flush=True)
    time.sleep(600)
home = Path(sys.argv[1])
backup.keep(backup.place(home), home, datetime.now(UTC), between)
"""


def test_killed_in_the_middle_it_leaves_a_draft_that_the_next_one_removes(home: Path, ledger: Ledger) -> None:
    name_one(ledger, "large", 10_000_000)
    with subprocess.Popen([sys.executable, "-c", COPY, str(home)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.kill()
    assert process.returncode == -signal.SIGKILL
    (left,) = [name for name in files(home) if name.endswith(".draft")]
    assert backup.copies(home) == {}
    path = backup.keep(backup.place(home), home, NOW)
    assert files(home) == [path.name] == ["halve-2026-11-20T030000Z.db"]
    assert left not in files(home)


# one a day


def test_the_last_seven_days_are_kept(home: Path, ledger: Ledger) -> None:
    backups, clock = Backups(home), VirtualClock(NOW)
    for day in range(10):
        name_one(ledger, f"day-{day}")
        for _ in range(3):  # several ticks a day
            assert backups.keep(clock.now()) is None
            ended(backups)
            clock.sleep(EVERY.total_seconds() / 3)
    assert [at.day for at in backup.copies(home)] == [23, 24, 25, 26, 27, 28, 29]
    assert names(backup.copies(home)[NOW + timedelta(days=5)])[-1] == "day-5"
    assert backup.newest_at(home, clock.now()) == NOW + timedelta(days=9)


def test_a_clock_that_was_wrong_for_a_while_neither_stops_the_copies_nor_multiplies_them(
    home: Path, ledger: Ledger
) -> None:
    backups = Backups(home)
    later = [NOW + timedelta(days=400 + day) for day in range(8)]
    for at in (*later, NOW, NOW + timedelta(hours=1), NOW + timedelta(hours=2)):
        backups.keep(at)
        ended(backups)
    found = list(backup.copies(home))
    assert (len(found), found[0], found[-1]) == (7, NOW, later[-1])


def test_what_fails_is_said_once_and_tried_again_in_an_hour(home: Path, ledger: Ledger) -> None:
    (home / "backups").write_text("in the way")
    backups = Backups(home)
    assert backups.keep(NOW) is None
    ended(backups)
    said = backups.keep(NOW + timedelta(seconds=1))
    assert said is not None and said.startswith(f"backups in {home / 'backups'}: ")
    assert backups.keep(NOW + timedelta(seconds=2)) is None
    (home / "backups").unlink()
    backups.keep(NOW + RETRY - timedelta(seconds=1))
    ended(backups)
    assert backup.copies(home) == {}
    backups.keep(NOW + RETRY)
    ended(backups)
    assert len(backup.copies(home)) == 1


def test_a_daemon_that_leaves_does_not_wait_for_a_long_copy(home: Path, ledger: Ledger) -> None:
    name_one(ledger, "large", 10_000_000)
    backups = Backups(home, pause_seconds=60.0)
    backups.keep(NOW)
    until(lambda: any(name.endswith(".draft") for name in files(home)) if (home / "backups").exists() else False)
    threading.Timer(0.1, backups.stop).start()
    ended(backups)
    assert files(home) == []


def test_a_database_that_is_no_file_has_tools_of_its_own(home: Path) -> None:
    os.environ["HALVE_DATABASE_URL"] = "postgresql://someone@nowhere/halve"
    try:
        with pytest.raises(Refused, match="pg_dump"):
            backup.place(home)
        backups = Backups(home)
        assert backups.keep(NOW) is None
        assert not (home / "backups").exists()
    finally:
        del os.environ["HALVE_DATABASE_URL"]


@pytest.mark.slow
def test_a_daemon_copies_at_its_start_and_a_full_disk_does_not_end_it(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "32m") as disk:
        home = disk / "home"
        home.mkdir()
        (home / "daemon.log").symlink_to(tmp_path / "daemon.log")
        ledger = put_up(home, "simulated")
        name_one(ledger, "large", 2_500_000)
        with ledger.write() as tx:
            deployments.take_down(tx, "large", NOW)
        filler = fill(disk)
        with filler.open("r+b") as file:
            file.truncate(filler.stat().st_size - 1_500_000)  # room for the ledger's writing, not for a copy of it
        with daemon(home) as process:
            until(lambda: "it is tried again in an hour" in (tmp_path / "daemon.log").read_text())
            until(lambda: ready(ledger))
            assert "backup of" in until(lambda: leased(ledger).last_error)
            assert not list((home / "backups").glob("*.db"))
            filler.unlink()
            take_down(ledger)
            assert process.wait(120) == 0
        with daemon(home) as process:  # the next one tries at once
            until(lambda: list((home / "backups").glob("*.db")))
        ledger.close()


def leased(ledger: Ledger) -> leases.Lease:
    with ledger.read() as tx:
        held = leases.held(tx)
    assert held is not None
    return held


# before the schema changes


def test_a_ledger_of_an_older_schema_is_kept_as_it_was(home: Path, ledger: Ledger) -> None:
    name_one(ledger, "older")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with ledger.engine.begin() as tx:
        config.attributes["connection"] = tx
        command.downgrade(config, "0001")
    ledger.close()
    open_ledger(home).close()
    (kept,) = backup.copies(home).values()
    with closing(sqlite3.connect(kept)) as raw:
        assert raw.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)
    assert names(kept) == ["older"]


def test_a_new_ledger_has_nothing_to_keep(home: Path) -> None:
    open_ledger(home).close()
    assert not (home / "backups").exists()


# the way back


def test_there_and_back_again(home: Path, ledger: Ledger) -> None:
    name_one(ledger, "before")
    file = backup.keep(backup.place(home), home, NOW)
    name_one(ledger, "after")
    kept = restore(home, file, NOW)
    assert [row.name for row in rows(ledger, "deployments")] == ["before"]  # also for who had it open
    assert kept is not None
    assert kept.parent == home
    assert names(kept) == ["after", "before"]
    restore(home, kept, NOW + timedelta(hours=1))
    assert sorted(row.name for row in rows(ledger, "deployments")) == ["after", "before"]


def test_while_a_daemon_is_alive_nothing_is_restored(home: Path, ledger: Ledger) -> None:
    file = backup.keep(backup.place(home), home, NOW)
    name_one(ledger, "after")
    now = datetime.now(UTC)
    with ledger.write() as tx:
        leases.take(tx, identity(), os.getpid(), now + timedelta(seconds=15))
    with pytest.raises(Refused, match="is alive: stop it first"):
        restore(home, file, now)
    assert [row.name for row in rows(ledger, "deployments")] == ["after"]
    restore(home, file, now + timedelta(seconds=20))  # its lease has run out: it acts no more
    assert rows(ledger, "deployments") == []


def test_a_daemon_of_before_stays_fenced(home: Path, ledger: Ledger) -> None:
    """It was stopped for long; the restored ledger must not come to its generation again."""
    file = backup.keep(backup.place(home), home, NOW)  # nobody has had the lease yet
    for number in range(3):
        with ledger.write() as tx:
            ledger.generation = leases.take(tx, f"host:{4_000_000 + number}:1", 1, NOW)
            ledger.generation, stale = None, ledger.generation
    assert stale == 3
    restore(home, file, NOW + timedelta(hours=1))
    for number in range(3):
        with ledger.write() as tx:
            leases.take(tx, f"next:{number}:1", 1, NOW)
        with pytest.raises(Stale):
            asleep = Ledger(ledger.engine, ledger.key)
            asleep.generation = stale
            with asleep.write() as tx:
                leases.renew(tx, NOW)


def test_what_is_no_ledger_of_ours_is_not_restored(home: Path, ledger: Ledger, tmp_path: Path) -> None:
    name_one(ledger, "ours")
    other = open_ledger(tmp_path / "other")
    theirs = backup.keep(backup.place(tmp_path / "other"), tmp_path / "other", NOW)
    other.close()
    text = tmp_path / "text.db"
    text.write_text("no database at all, but long enough to be looked at" * 100)
    newer = backup.keep(backup.place(home), home, NOW)
    with closing(sqlite3.connect(newer)) as raw, raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    cases = {
        theirs: "another installation",
        text: "not a sound ledger",
        newer: "newer halve",
        tmp_path / "nowhere.db": "no such file",
        home / "halve.db": "is the ledger itself",
    }
    for file, words in cases.items():
        with pytest.raises(Refused, match=words):
            restore(home, file, NOW)
        assert [row.name for row in rows(ledger, "deployments")] == ["ours"]
    assert [path.name for path in home.iterdir() if ".before-" in path.name or path.suffix == ".draft"] == []


def test_a_ledger_that_is_none_any_more_is_moved_aside(home: Path, ledger: Ledger) -> None:
    name_one(ledger, "good")
    file = backup.keep(backup.place(home), home, NOW)
    ledger.close()
    (home / "halve.db").write_bytes(b"something else" * 1000)
    kept = restore(home, file, NOW)
    assert kept is not None
    assert kept.read_bytes() == b"something else" * 1000
    assert [row.name for row in rows(open_ledger(home), "deployments")] == ["good"]


def test_a_lost_ledger_comes_back(home: Path, ledger: Ledger) -> None:
    name_one(ledger, "good")
    file = backup.keep(backup.place(home), home, NOW)
    ledger.close()
    for path in home.glob("halve.db*"):
        path.unlink()
    assert restore(home, file, NOW) is None
    assert [row.name for row in rows(open_ledger(home), "deployments")] == ["good"]


def test_machines_launched_since_are_adopted_and_charged_from_their_launch(home: Path) -> None:
    """Yesterday's ledger knows nothing of today's machine: its tags do."""
    scene = Scene(home)
    scene.run(30)
    file = backup.keep(backup.place(home), home, scene.clock.now())
    scene.market.lose(scene.ready()[0].token)
    scene.run(60)
    (later,) = scene.ready()
    restore(home, file, scene.clock.now())
    assert later.token not in {machine.token for machine in scene.machines(over=True)}

    def go_on() -> None:
        for _ in range(12):
            tick(scene.world)
            scene.clock.sleep(5)

    go_on()
    assert [machine.token for machine in scene.ready()] == [later.token]
    scene.policy = replace(scene.policy, wanted=False)
    go_on()
    assert broken(scene.sight(), (nothing_runs, the_ledger_equals_the_meter)) == []


def test_a_launch_of_the_same_number_at_the_same_time_after_the_clock_was_set_back_has_a_token_of_its_own(
    home: Path,
) -> None:
    scene = Scene(home, policy={"schedule": always(2, 2)})
    file = backup.keep(backup.place(home), home, scene.clock.now())
    scene.run(30)
    lost, kept = sorted(scene.ready(), key=lambda machine: machine.intent_id)
    scene.market.lose(lost.token)
    scene.clock.sleep(24 * 3600)  # it is listed no more
    restore(home, file, scene.clock.now())
    scene.clock.set((kept.requested_at - scene.clock.now()) / timedelta(hours=1))
    assert scene.clock.now() == kept.requested_at
    tick(scene.world)
    adopted, launched = sorted(scene.machines(), key=lambda machine: machine.intent_id)
    assert adopted.token == kept.token
    assert (launched.intent_id, launched.requested_at) == (kept.intent_id, kept.requested_at)
    assert launched.token not in (kept.token, lost.token)


def test_the_commands(home: Path, ledger: Ledger, tmp_path: Path) -> None:
    name_one(ledger, "before")
    file = tmp_path / "safe.db"
    assert done(halve(home, "ledger", "backup", str(file))).startswith(f"copied to {file}")
    assert "is there already" in refused(halve(home, "ledger", "backup", str(file)))
    name_one(ledger, "after")
    said = done(halve(home, "ledger", "restore", str(file)))
    assert "adopted by their tags" in said
    assert f"kept as {home / 'halve.db.before-'}" in said
    assert [row.name for row in rows(ledger, "deployments")] == ["before"]
    assert done(halve(home, "ledger", "backup")).startswith(f"copied to {home / 'backups' / 'halve-'}")
    nothing = refused(halve(tmp_path / "empty", "ledger", "backup"))
    assert nothing == f"halve: there is no ledger in {tmp_path / 'empty'} yet"
    url = "postgresql://someone@nowhere/halve"
    for asked in (("backup",), ("restore", str(file))):
        assert "pg_dump" in refused(halve(home, "ledger", *asked, HALVE_DATABASE_URL=url))
