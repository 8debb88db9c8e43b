"""A simulated month: the production loop on a virtual clock, its ledger equal to the market's meter."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator import billing, spec
from orchestrator.cli import app
from orchestrator.errors import Refused
from orchestrator.ledger import fleet, reporting
from orchestrator.ledger.checks import check
from orchestrator.ledger.store import open_file, open_ledger
from orchestrator.simulation.market import outages, working_day
from orchestrator.simulation.month import Month, local_month, simulate
from policies.lifecycle import OVER
from policies.snapshot import Purchase

SPOT = """
name: night
model: ppocr
provider: simulated
currency: CNY
simulated: {price_per_hour: 1.80, spot_price_per_hour: 0.77, boot: 90s, zones: 2, preemptions_per_day: 12}
schedule: {timezone: Asia/Shanghai, windows: ["Mon 09:00-12:00"], prewarm: 3m}
replicas: {min: 2, max: 3}
spot: {policy: hazard}
baseline: {gpu: RTX 3060, price_per_hour: 1.80}
"""
OWN = """
name: own
model: ppocr
provider: local
currency: CNY
local: {price_per_hour: 1.80, gpu: RTX 3060}
schedule: {timezone: Europe/Berlin, windows: ["Sun,Mon 08:00-10:00"], prewarm: 2m}
"""

#: the fixtures are shared within a worker
pytestmark = pytest.mark.xdist_group("month")


def run(text: str, month: str, path: Path, seed: int = 1) -> Month:
    return simulate(spec.parse(text, "test.yaml"), text, "test.yaml", month, path, seed)


@pytest.fixture(scope="module")
def spot(tmp_path_factory: pytest.TempPathFactory) -> tuple[Month, Path]:
    path = tmp_path_factory.mktemp("spot") / "month.db"
    return run(SPOT, "2026-11", path), path


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Month, Path]:
    path = tmp_path_factory.mktemp("own") / "month.db"
    return run(OWN, "2026-03", path), path  # the clocks change on a Sunday that is open


@pytest.mark.parametrize(("name", "month"), [("spot", "2026-11"), ("own", "2026-03")])
def test_ledger_equals_the_meter(name: str, month: str, request: pytest.FixtureRequest) -> None:
    lived, path = request.getfixturevalue(name)
    text = {"spot": SPOT, "own": OWN}[name]
    ledger = open_file(path)
    with ledger.read() as tx:
        machines = fleet.machines(tx, over=True)
        booked = reporting.charges(tx, *local_month(spec.parse(text, "test.yaml"), month))
        troubles = check(tx)
    assert ledger.simulated()
    assert lived.launches == len(machines) > 0
    assert all(machine.status in OVER for machine in machines)
    ended = [one.charge.ended_at for one in booked]
    assert None not in ended
    total = sum(billing.accrued(one.charge, end) or 0 for one, end in zip(booked, ended, strict=True) if end)
    assert total == lived.meter_micros > 0
    assert not any(troubles.values()), troubles


def test_spot_machines_are_lost_and_replaced(spot: tuple[Month, Path]) -> None:
    lived, path = spot
    ledger = open_file(path)
    with ledger.read() as tx:
        machines = fleet.machines(tx, over=True)
    assert any(machine.reclaim_at is not None for machine in machines), "a notice was seen"
    assert {machine.purchase for machine in machines} == {Purchase.SPOT, Purchase.ON_DEMAND}
    assert lived.refused < 0.02 * lived.images, "people hardly noticed"


def test_one_seed_is_one_month(tmp_path: Path) -> None:
    first, again, other = (run(OWN, "2026-02", tmp_path / f"{n}.db", seed) for n, seed in enumerate((7, 7, 8)))
    assert first == again
    assert first.images != other.images


def test_nothing_runs_outside_the_windows(own: tuple[Month, Path]) -> None:
    with open_file(own[1]).read() as tx:
        machines = fleet.machines(tx, over=True)
    for machine in machines:
        assert machine.launched_at is not None
        assert machine.ended_at is not None
        assert (machine.ended_at - machine.launched_at).total_seconds() < 2 * 3600 + 2 * 60 + 30


def test_real_money_is_never_overwritten(tmp_path: Path) -> None:
    open_ledger(tmp_path).close()
    before = (tmp_path / "halve.db").read_bytes()
    with pytest.raises(Refused, match="real money"):
        run(OWN, "2026-02", tmp_path / "halve.db")
    assert (tmp_path / "halve.db").read_bytes() == before


def test_an_interrupted_month_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "month.db"
    run(OWN, "2026-02", path)
    before = path.read_bytes()
    no_price = OWN.replace("provider: local", "provider: simulated")
    with pytest.raises(Refused, match=r"simulated\.price_per_hour"):
        run(no_price, "2026-02", path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["month.db"]


@pytest.mark.parametrize("month", ["2026-13", "2026", "x", "2026-1-1"])
def test_a_month_that_is_none(month: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="want YYYY-MM"):
        run(OWN, month, tmp_path / "month.db")


@pytest.mark.parametrize(
    ("provider", "more", "words"),
    [
        ("ssh", "ssh: {hosts: [{address: box}]}", "name the GPU of each host"),
        (
            "aws",
            "aws: {region: us-east-1, instance_types: [g4dn.xlarge], bucket: b}",
            "provider aws cannot be simulated",
        ),
    ],
)
def test_what_cannot_be_simulated(provider: str, more: str, words: str, tmp_path: Path) -> None:
    text = OWN.replace("provider: local", f"provider: {provider}") + f"{more}\n"
    with pytest.raises(Refused, match=words):
        run(text, "2026-02", tmp_path / "month.db")


def test_the_command_and_its_report(tmp_path: Path) -> None:
    file, path = tmp_path / "own.yaml", tmp_path / "month.db"
    file.write_text(OWN, encoding="utf-8")
    arguments = ["simulate", str(file), "--month", "2027-02", "--ledger", str(path), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["images"] > 0
    shown = CliRunner().invoke(app, ["report", "--month", "2027-02", "--ledger", str(path), "--json"])
    report = json.loads(shown.stdout)
    assert report["simulated"] is True
    assert report["total_micros"] == json.loads(done.stdout)["meter_micros"], "a month to come is reported whole"
    assert report["gaps_minutes"] == 0


def test_the_synthetic_market_follows_from_its_seed() -> None:
    start, end = local_month(spec.parse(OWN, "test.yaml"), "2026-02")
    once = outages(["a", "b"], 4.0, start, end, seed=3)
    assert once == outages(["a", "b"], 4.0, start, end, seed=3)
    assert once != outages(["a", "b"], 4.0, start, end, seed=4)
    assert {outage.zone for outage in once} == {"a", "b"}
    for zone in ("a", "b"):
        mine = [outage for outage in once if outage.zone == zone]
        assert all(before.end <= after.start for before, after in pairwise(mine))
    zone = spec.parse(OWN, "test.yaml").schedule_for(start).zone
    asked = working_day(2.0, zone, seed=3)
    assert asked(start) == asked(start)
