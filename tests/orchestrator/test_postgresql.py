"""The ledger and its reports on a real PostgreSQL, a cluster of our own: the same money as on SQLite."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy as sa

from orchestrator import prices
from orchestrator.ledger import quotes, sums
from orchestrator.ledger import tables as t
from orchestrator.ledger.checks import check
from orchestrator.ledger.store import Ledger, open_ledger, upgrade
from orchestrator.ledger.tallies import tallies
from orchestrator.reports import focus, formats
from orchestrator.reports.month import of_ledger
from policies.windows import Span
from tests.orchestrator.report_ledger import Rows, utc
from tests.orchestrator.test_tallies import MONTH, RATES, book, by_charge, by_sum

BIN = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
pytestmark = [
    pytest.mark.pg,
    pytest.mark.xdist_group("pg"),
    pytest.mark.skipif(BIN is None, reason="no PostgreSQL here: apt-get install postgresql"),
]
psycopg = pytest.importorskip("psycopg", reason="no driver: pip install 'halve[postgresql]'")

SPEC = """
name: {name}
model: cv_resnet18_ocr-detection
provider: simulated
currency: CNY
rates: {{USD: {{rate: 7.10, as_of: 2026-10-01, source: "my bank"}}}}
schedule: {{timezone: Asia/Shanghai, windows: ["Mon-Fri 08:00-20:00"]}}
budget: {{monthly: 900, at: {{80%: warn, 100%: stop}}}}
baseline: {{gpu: RTX 3090, purchase: on_demand, replicas: 1, always_on: true}}
"""


def ours(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run as somebody who is not root: PostgreSQL wants it so."""
    first = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    done = subprocess.run([*first, *map(str, command)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster in a folder of its own, reached by a socket there: the URL of a database, its name left out.

    Not in pytest's folder: into that each run that starts lets nobody but its own user.
    """
    assert BIN is not None
    with TemporaryDirectory(prefix="halve-pg-") as made:
        folder = Path(made)
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        data = folder / "data"
        ours(BIN / "initdb", "-D", data, "-U", "halve", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses= -k {folder} -c fsync=off"
        ours(BIN / "pg_ctl", "-D", data, "-l", folder / "log", "-w", "-o", options, "start")
        yield f"postgresql+psycopg://halve@/{{}}?host={folder}"
        ours(BIN / "pg_ctl", "-D", data, "-m", "immediate", "stop")


def empty(cluster: str) -> str:
    """An empty database, by its URL."""
    engine = sa.create_engine(cluster.format("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as tx:
        tx.execute(sa.text("DROP DATABASE IF EXISTS halve"))
        tx.execute(sa.text("CREATE DATABASE halve"))
    engine.dispose()
    return cluster.format("halve")


@pytest.fixture
def both(cluster: str, tmp_path: Path) -> Iterator[tuple[Ledger, Ledger]]:
    """Two ledgers with the same rows: on SQLite, and on PostgreSQL."""
    pair = open_ledger(tmp_path / "sqlite"), open_ledger(tmp_path / "pg", empty(cluster))
    for one in pair:
        fill(Rows(one))
    yield pair
    for one in pair:
        one.close()


def fill(rows: Rows) -> None:
    """Two deployments over two months: spot that moves and is lost, dollars, a correction, a disk, unknown prices."""
    at = utc("2026-10-01")
    prices.seed(rows.ledger, at)
    for name in ("a", "b"):
        rows.deployment(name, SPEC.format(name=name), at=utc("2026-09-01"))
    spot = rows.machine("a", "T4", "spot", ready=(utc("2026-09-20"), utc("2026-10-20")))
    stand_in = rows.machine("a", "T4", "spot", ready=(utc("2026-10-20 00:10"), utc("2026-10-21")))
    other = rows.machine("b", "RTX 3060", "on_demand", ready=(utc("2026-10-20 00:10"), None))
    for hour in range(0, 30 * 24, 5):
        start = utc("2026-09-20") + timedelta(hours=hour)
        price = None if hour == 400 else 700_001 + hour
        rows.charge(spot, start, start + timedelta(hours=5, microseconds=hour), price, "USD" if hour % 2 else "CNY")
    rows.charge(spot, utc("2026-10-20"), None, None, "CNY", amount=-123_456)
    rows.charge(spot, utc("2026-10-02"), utc("2026-10-19"), 11_111, "EUR", kind="disk")
    rows.charge(stand_in, utc("2026-10-20 00:02"), utc("2026-10-21"), 800_000, "CNY")
    rows.charge(other, utc("2026-10-20"), None, 95_000_000_000, "CNY")
    for minute in range(0, 600, 7):
        rows.images(other, utc("2026-10-20 01:00") + timedelta(minutes=minute), minute)
    rows.ticks("b", utc("2026-10-20"), utc("2026-10-21"), timedelta(hours=1))
    with rows.ledger.write() as tx:
        c = t.instances.c
        tx.execute(t.instances.update().values(launched_at=c.requested_at))
        tx.execute(t.instances.update().where(c.id == spot).values(status="preempted"))
        tx.execute(t.instances.update().where(c.id == stand_in).values(requested_at=utc("2026-10-20 00:02")))


def test_a_new_ledger_is_what_all_migrations_come_to(cluster: str, tmp_path: Path) -> None:
    """Here too."""
    engine = sa.create_engine(empty(cluster))
    with engine.begin() as tx:
        upgrade(tx)
    migrated = reflected(engine)
    engine.dispose()
    ledger = open_ledger(tmp_path, empty(cluster))
    assert reflected(ledger.engine) == migrated
    ledger.close()


def reflected(engine: sa.Engine) -> dict[str, list[str]]:
    """What PostgreSQL says of the columns, constraints and indexes of each table."""
    asked = (
        "SELECT table_name, concat_ws(' ', column_name, data_type, character_maximum_length, is_nullable, "
        "column_default) FROM information_schema.columns WHERE table_schema = 'public'",
        "SELECT conrelid::regclass::text, conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE connamespace = 'public'::regnamespace",
        "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    )
    found: dict[str, list[str]] = {}
    with engine.connect() as tx:
        for query in asked:
            for table, part in tx.execute(sa.text(query)):
                found.setdefault(table, []).append(part)
    return {table: sorted(parts) for table, parts in found.items()}


def test_a_month_is_the_same(both: tuple[Ledger, Ledger]) -> None:
    now = utc("2026-10-28 12:34")
    lite, full = (formats.to_json(of_ledger(one, "2026-10", now)) for one in both)
    assert full == lite
    assert full["rows"] and full["interruptions"][0]["replaced"] == 1 and full["gaps_minutes"] and full["last_month"]
    assert full["unknown_hours"] and full["unconverted"] and full["budgets"][0]["spent_micros"]


def test_what_a_budget_is_held_against_is_the_same(both: tuple[Ledger, Ledger]) -> None:
    now = utc("2026-10-28 12:34")
    found = []
    for ledger in both:
        with ledger.read() as tx:
            found.append((sums.closed(tx, "a", utc("2026-10-01"), now), quotes.in_force(tx, now), check(tx)))
    assert found[0] == found[1]
    assert found[1][0]["CNY"][0] > 0


def test_an_export_is_the_same(both: tuple[Ledger, Ledger]) -> None:
    lite, full = (focus.export(one, "2026-10", utc("2026-11-02")) for one in both)
    names = focus.COLUMNS
    own = {"BillingAccountId"}
    assert [[line[name] for name in names if name not in own] for line in full.lines] == [
        [line[name] for name in names if name not in own] for line in lite.lines
    ]
    assert full.lines


@pytest.mark.parametrize("rates", list(RATES))
def test_every_sum_is_that_of_its_charges(both: tuple[Ledger, Ledger], rates: str) -> None:
    _, full = both
    drawn = random.Random(rates)
    edges = sorted({MONTH + timedelta(hours=drawn.randrange(31 * 24)) for _ in range(6)})
    book(Rows(full, first=100), drawn, edges, 60)
    with full.read() as tx:
        found = tallies(tx, edges, RATES[rates])
        assert by_sum(found) == by_charge(tx, Span(opens_at=edges[0], closes_at=edges[-1]), RATES[rates])
