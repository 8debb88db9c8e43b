"""`halve why`: a decision by its time or its number, what it saw, and what the next best would have cost."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator import spec
from orchestrator.cli import app
from orchestrator.errors import Refused
from orchestrator.simulation.month import simulate

SPEC = """
name: shop
model: ppocr
provider: simulated
currency: CNY
simulated: {price_per_hour: 1.80, spot_price_per_hour: 0.60, boot: 90s}
schedule: {timezone: Asia/Shanghai, windows: ["Mon 09:00-12:00"]}
replicas: {min: 2, max: 2}
spot: {policy: hazard}
"""


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose ledger is that of a simulated March."""
    home = tmp_path_factory.mktemp("home")
    simulate(spec.parse(SPEC, "shop.yaml"), SPEC, "shop.yaml", "2024-03", home / "halve.db", 1)
    return home


@pytest.fixture
def home(lived: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HALVE_HOME", str(lived))
    monkeypatch.setenv("COLUMNS", "200")
    return lived


def why(*arguments: str) -> str:
    found = CliRunner().invoke(app, ["why", "shop", *arguments])
    if isinstance(found.exception, Refused):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found.stdout


def told(*arguments: str) -> list[dict[str, Any]]:
    return list(json.loads(why(*arguments, "--json")))


def test_the_next_best_and_what_it_would_have_cost(home: Path) -> None:
    one = next(one for one in told("--at", "2024-03-04 09:00:30") if one["actions"])
    assert one["choice"]["purchase"] == "spot" and one["choice"]["price_per_hour_micros"] == 600_000
    assert one["runner_up"]["purchase"] == "on_demand" and one["runner_up"]["price_per_hour_micros"] == 1_800_000
    page = why("--at", "2024-03-04 09:00:30")
    assert "next best: RTX 3060 (simulated, on-demand): 1.8000 CNY an hour" in page
    assert "for 2, 3.60 instead of 1.20 CNY an hour" in page
    assert "seen: 0 machines" in page


def test_what_was_converted_says_at_which_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prices in dollars, the spec in yuan: each figure bears its currency, and the rate its day and source."""
    text = SPEC.replace("{price_per_hour: 1.80, spot_price_per_hour: 0.60,", "{price_per_hour: 1.80 USD,")
    text = text.replace("spot: {policy: hazard}", "rates: {USD: {rate: 7.10, as_of: 2024-02-01, source: my bank}}")
    simulate(spec.parse(text, "shop.yaml"), text, "shop.yaml", "2024-03", tmp_path / "halve.db", 1)
    monkeypatch.setenv("HALVE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    page = why("--at", "2024-03-04 09:00:30")
    assert "1.8000 USD an hour, " in page and "CNY per 1,000 images" in page
    assert "converted at 1 USD = 7.1 CNY (2024-02-01, my bank)" in page


def test_a_time_is_the_schedules_own(home: Path) -> None:
    """Nine in the morning in Shanghai; the same moment with its zone; and before it nothing was decided."""
    local, absolute = told("--at", "2024-03-04 09:00:30"), told("--at", "2024-03-04T01:00:30Z")
    assert local == absolute and local[0]["at"].startswith("2024-03-04T0")
    assert "nothing was decided by then" in why("--at", "2024-02-01 09:00")


def test_one_decision_by_its_number(home: Path) -> None:
    acted = next(one for one in told("--at", "2024-03-04 09:00:30") if one["actions"])
    (found,) = told("--tick", str(acted["tick"]))
    assert (found["tick"], found["actions"], found["runner_up"]) == (
        acted["tick"],
        acted["actions"],
        acted["runner_up"],
    )
    assert found["again"] is not None, "it was made again"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tick", "999999"), "no decision 999999"),
        (("--at", "noon"), "YYYY-MM-DD HH:MM"),
        (("--at", "0001-01-01 00:00"), "--at 0001-01-01 00:00: want"),
    ],
)
def test_refusals(home: Path, arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(Refused, match=words):
        why(*arguments)
