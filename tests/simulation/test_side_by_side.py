"""`halve simulate --compare`: several specs, one month, one market, one load; what was recorded instead of drawn."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.errors import Refused
from orchestrator.simulation import recorded
from tests.simulation.test_month import SPOT

MONTH = "2026-11"
OCTOBER = datetime(2026, 10, 1, tzinfo=UTC)

pytestmark = pytest.mark.xdist_group("month")


@pytest.fixture
def specs(tmp_path: Path) -> list[str]:
    """The same deployment: on demand, on spot, and on spot with a longer window."""
    on_demand = SPOT.replace("spot: {policy: hazard}\n", "").replace("spot_price_per_hour: 0.77, ", "")
    texts = {"on-demand": on_demand, "spot": SPOT, "longer": SPOT.replace("09:00-12:00", "09:00-14:00")}
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return [str(tmp_path / f"{name}.yaml") for name in texts]


def said(*arguments: str) -> str:
    found = CliRunner().invoke(app, ["simulate", *arguments], env={"COLUMNS": "80"})
    assert found.exit_code == 0, found.output
    return found.stdout


def test_side_by_side(specs: list[str], tmp_path: Path) -> None:
    """Spot is cheaper for the same images, and the table is what the report of each month says."""
    day, spot, longer = json.loads(said("--compare", *specs, "--month", MONTH, "--json"))
    assert day["cost_micros"] > spot["cost_micros"] > 0 and day["preemptions"] == 0 < spot["preemptions"]
    assert day["images"] + day["refused"] == spot["images"] + spot["refused"], "they were asked the same"
    assert longer["hours"] > spot["hours"] and longer["images"] > spot["images"]
    file = tmp_path / "month.db"
    said(specs[1], "--month", MONTH, "--ledger", str(file))
    report = CliRunner().invoke(app, ["report", "--month", MONTH, "--ledger", str(file), "--json"])
    assert json.loads(report.stdout)["total_micros"] == spot["cost_micros"]


def test_the_table_says_by_how_much(specs: list[str], tmp_path: Path) -> None:
    page = said("--compare", *specs[:2], "--month", MONTH)
    _, _, day, spot, *_ = page.splitlines()
    assert day.startswith("on-demand ") and spot.startswith("spot "), page
    assert re.search(r" -\d\d% ", spot) and "SIMULATED" in page
    assert max(map(len, page.splitlines())) <= 80
    assert not list(tmp_path.glob("*.db")), "nothing is written"


@pytest.mark.parametrize(
    "arguments",
    [
        ("a.yaml", "b.yaml", "--month", MONTH, "--ledger", "x.db"),
        ("--compare", "--month", MONTH),
        ("--compare", "a.yaml", "--month", MONTH, "--ledger", "x.db"),
    ],
)
def test_what_is_meant_has_to_be_said(arguments: tuple[str, ...]) -> None:
    found = CliRunner().invoke(app, ["simulate", *arguments])
    assert isinstance(found.exception, Refused) and "--compare SPEC..." in str(found.exception)


def test_a_recorded_load_is_what_is_asked_for(specs: list[str], tmp_path: Path) -> None:
    file = tmp_path / "load.csv"
    file.write_text(
        "at,images\n2026-11-02T09:30:00+08:00,7\n2026-11-02T09:30:20+08:00,2\n2026-11-02T20:00:00+08:00,99\n"
    )
    (found,) = json.loads(said("--compare", specs[0], "--month", MONTH, "--load", str(file), "--json"))
    assert (found["images"], found["refused"]) == (9, 0), "and nothing while it is closed"


def test_a_recorded_market_is_what_takes_machines_back(specs: list[str], tmp_path: Path) -> None:
    for name, data in {"never": [0], "always": [9]}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"metadata": {"gap_seconds": 3600}, "data": data * 24}))

    def month(*names: str) -> dict[str, int]:
        traces = [part for name in names for part in ("--trace", str(tmp_path / f"{name}.json"))]
        (found,) = json.loads(said("--compare", specs[1], "--month", MONTH, *traces, "--json"))
        return dict(found)

    quiet, gone = month("always", "always"), month("never", "never")
    assert quiet["preemptions"] == 0 == gone["preemptions"]
    assert quiet["cost_micros"] < gone["cost_micros"], "where there is no spot, it is had on demand"


def test_a_trace_becomes_outages(tmp_path: Path) -> None:
    file = tmp_path / "zone.json"
    file.write_text(json.dumps({"metadata": {"gap_seconds": 3600}, "data": [1, 0, 0, 3]}))
    found = recorded.outages([file], ["z"], OCTOBER, OCTOBER + timedelta(hours=7))
    hours = [((one.start - OCTOBER) // timedelta(hours=1), (one.end - OCTOBER) // timedelta(hours=1)) for one in found]
    assert hours == [(1, 3), (5, 7)], "it begins anew, and ends with the month"
    with pytest.raises(Refused, match="2 zones"):
        recorded.outages([file], ["y", "z"], OCTOBER, OCTOBER + timedelta(hours=7))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("time,images\n", "line 1"),
        ("at,images\n2026-10-01T08:00:00,1\n", "line 2: want the time's zone"),
        ("at,images\n2026-10-01T08:00:00Z,some\n", "line 2: want a time"),
        ("at,images\n2026-10-01T08:00:00Z\n", "line 2: want a time"),
        ("at,images\n2026-10-01T08:00:00Z,-1\n", "no fewer than 0"),
        ("at,images\n0001-01-01T00:00:00+14:00,1\n", "line 2: want a time from 1970 to 2199"),
        (f"at,images\n{'x' * 200_000},1\n", "is it CSV?"),
        ("at,images\n", "nothing is in it, and the month is 2026-10"),
        ("at,images\n2025-10-01T08:00:00Z,1\n", "it tells of 2025-10-01 to 2025-10-01, and the month is 2026-10"),
    ],
)
def test_a_load_that_is_none(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "load.csv"
    file.write_text(text)
    with pytest.raises(Refused, match=words):
        recorded.load(file, "2026-10")


def test_a_load_that_cannot_be_read_is_refused_in_a_line(tmp_path: Path) -> None:
    file = tmp_path / "load.csv"
    for content, words in ((None, "No such file"), ("at,images\n".encode("utf-16"), "not UTF-8 text .at byte 1.")):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(Refused, match=words):
            recorded.load(file, "2026-10")


def test_a_months_last_evening_elsewhere_is_of_it(tmp_path: Path) -> None:
    file = tmp_path / "load.csv"
    file.write_text("at,images\n2026-09-30T17:00:00Z,7\n")  # the 1st of October in Shanghai
    assert recorded.load(file, "2026-10")(datetime(2026, 9, 30, 17, tzinfo=UTC)) == 7
