"""`halve ledger check`: every check stays silent on a sound ledger and speaks when its one truth is broken."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.ledger import tables as t
from orchestrator.ledger.checks import CHECKS, check
from orchestrator.ledger.store import Ledger, open_ledger

NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """One rented machine that is ready and charged, one that has ended and is paid, one done job."""
    opened = open_ledger(tmp_path)
    with opened.write() as tx:
        row = {
            "name": "ocr",
            "spec": "",
            "source": "",
            "version": 1,
            "wanted": "up",
            "created_at": NOW,
            "updated_at": NOW,
        }
        tx.execute(t.deployments.insert().values(row))
        tick = {"id": 1, "deployment": "ocr", "at": NOW, "target": 1, "reason": "", "plan": {}}
        tx.execute(t.ticks.insert().values(tick))
        for number, status in ((1, "ready"), (2, "ended")):
            intent = {"id": number, "deployment": "ocr", "tick_id": 1, "kind": "launch", "instance_id": f"ocr-{number}"}
            tx.execute(t.intents.insert().values(**intent, payload={}, reason="", state="done", opened_at=NOW))
            machine = {"id": f"ocr-{number}", "deployment": "ocr", "intent_id": number, "token": f"token-{number}"}
            kind = {
                "provider": "simulated",
                "offer_id": "simulated/1",
                "zone": "sim-1",
                "instance_type": "t",
                "gpu": "GTX",
            }
            dates = {"requested_at": NOW, "launched_at": NOW, "ended_at": NOW + HOUR if status == "ended" else None}
            tx.execute(
                t.instances.insert().values(**machine, **kind, **dates, purchase="on_demand", digest="", status=status)
            )
            charge = {"instance_id": f"ocr-{number}", "deployment": "ocr", "kind": "compute", "gpu": "GTX"}
            terms = {"purchase": "on_demand", "currency": "CNY", "price_per_hour_micros": 1_000_000}
            tx.execute(t.charges.insert().values(**charge, **terms, started_at=NOW, ended_at=dates["ended_at"]))
        job = {"id": 1, "deployment": "ocr", "source": "a", "destination": "b", "fields": [], "state": "done"}
        tx.execute(t.jobs.insert().values(**job, submitted_at=NOW, total=1, done=1, failed=0))
        item = {"job_id": 1, "number": 1, "path": "a.png", "state": "done", "not_before": NOW}
        tx.execute(t.items.insert().values(item))
    return opened


def another_open_charge(tx: sa.Connection) -> None:
    charge = {"instance_id": "ocr-1", "deployment": "ocr", "kind": "compute", "gpu": "GTX", "purchase": "on_demand"}
    tx.execute(t.charges.insert().values(**charge, currency="CNY", started_at=NOW + HOUR))


def no_charge(tx: sa.Connection) -> None:
    tx.execute(t.charges.update().where(t.charges.c.instance_id == "ocr-1").values(ended_at=NOW))


def open_for_the_dead(tx: sa.Connection) -> None:
    tx.execute(t.charges.update().where(t.charges.c.instance_id == "ocr-2").values(ended_at=None))


def ends_before_it_starts(tx: sa.Connection) -> None:
    tx.execute(t.charges.update().where(t.charges.c.instance_id == "ocr-2").values(ended_at=NOW - HOUR))


def intent_for_the_dead(tx: sa.Connection) -> None:
    tx.execute(t.intents.update().where(t.intents.c.instance_id == "ocr-2").values(state="open"))


def item_without_result(tx: sa.Connection) -> None:
    tx.execute(t.items.update().values(state="leased"))


def two_intents_alike(tx: sa.Connection) -> None:
    tx.execute(t.intents.update().values(state="open", kind="terminate", instance_id="ocr-1"))


def charged_too_late(tx: sa.Connection) -> None:
    tx.execute(t.charges.update().where(t.charges.c.instance_id == "ocr-1").values(started_at=NOW + HOUR / 2))


def miscounted(tx: sa.Connection) -> None:
    tx.execute(t.jobs.update().values(done=t.jobs.c.done + 1))


BROKEN = {
    "one_intent_of_a_kind": two_intents_alike,
    "charges_cover_the_life": charged_too_late,
    "jobs_count_their_items": miscounted,
    "one_open_charge_at_most": another_open_charge,
    "what_costs_is_charged": no_charge,
    "what_is_over_costs_nothing": open_for_the_dead,
    "charges_do_not_overlap": ends_before_it_starts,
    "nothing_open_is_owed_to_the_dead": intent_for_the_dead,
    "every_item_once": item_without_result,
}


def test_a_sound_ledger(ledger: Ledger) -> None:
    with ledger.read() as tx:
        assert check(tx) == {one.__name__: [] for one in CHECKS}


@pytest.mark.parametrize("name", BROKEN)
def test_each_check_speaks(name: str, ledger: Ledger) -> None:
    with ledger.write() as tx:
        BROKEN[name](tx)
    with ledger.read() as tx:
        assert check(tx)[name], f"{name} must find it"


def on_one_box(tx: sa.Connection, *charged: int) -> None:
    """Both machines run on one box of ours, and these of them are charged."""
    tx.execute(t.instances.update().values(purchase="owned", status="ready", ended_at=None))
    paid = t.charges.c.instance_id.in_([f"ocr-{number}" for number in charged])
    tx.execute(t.charges.update().values(purchase="owned", ended_at=None))
    tx.execute(t.charges.delete().where(~paid))


@pytest.mark.parametrize(
    ("charged", "speaks"),
    [
        ((1,), set()),
        ((2,), set()),
        ((), {"what_costs_is_charged"}),
        ((1, 2), {"one_open_charge_at_most", "charges_do_not_overlap"}),
    ],
)
def test_a_box_of_ours_is_charged_once(charged: tuple[int, ...], speaks: set[str], ledger: Ledger) -> None:
    with ledger.write() as tx:
        on_one_box(tx, *charged)
    with ledger.read() as tx:
        assert {name for name, found in check(tx).items() if found} == speaks


def test_no_token_twice_is_the_schema_s_own_rule(ledger: Ledger) -> None:
    with pytest.raises(sa.exc.IntegrityError), ledger.write() as tx:
        tx.execute(t.instances.update().values(token="one"))


def test_the_command(ledger: Ledger, tmp_path: Path) -> None:
    file = str(tmp_path / "halve.db")
    sound = CliRunner().invoke(app, ["ledger", "check", "--ledger", file])
    assert sound.exit_code == 0, sound.output
    assert [line[:2] for line in sound.stdout.splitlines()] == ["ok"] * len(CHECKS)
    with ledger.write() as tx:
        no_charge(tx)
    broken = CliRunner().invoke(app, ["ledger", "check", "--ledger", file, "--json"])
    assert broken.exit_code == 1
    assert json.loads(broken.stdout)["what_costs_is_charged"] == ["ocr-1: ready, and nothing is charged for it"]
