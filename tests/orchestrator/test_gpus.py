"""halve gpus, as a user types it."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from orchestrator import prices
from orchestrator.cli import app
from orchestrator.errors import Refused
from orchestrator.ledger import offers
from orchestrator.ledger.store import open_ledger
from policies.snapshot import Offer, Profile, Purchase
from tests.orchestrator.report_ledger import utc

KEYS = {
    "gpu", "price_per_hour_micros", "currency", "images_per_second", "p95_ms", "cost_per_1000_micros", "source",
    "chosen", "reason",
}  # fmt: skip


def halve(home: Path, *words: str) -> Result:
    env = {"HALVE_HOME": str(home), "COLUMNS": "80", "HALVE_DATABASE_URL": None}
    return CliRunner().invoke(app, words, env=env)


def rows(home: Path, *words: str) -> list[dict[str, Any]]:
    found = halve(home, "gpus", "--json", *words)
    assert found.exit_code == 0, found.output
    answer: list[dict[str, Any]] = json.loads(found.stdout)
    return answer


def chosen(found: list[dict[str, Any]]) -> str | None:
    names = [row["gpu"] for row in found if row["chosen"]]
    assert len(names) <= 1
    return names[0] if names else None


def test_the_published_table_by_arithmetic(tmp_path: Path) -> None:
    found = rows(tmp_path)
    by_gpu = {row["gpu"]: row for row in found}
    assert all(set(row) >= KEYS for row in found)
    assert {gpu: row["cost_per_1000_micros"] for gpu, row in by_gpu.items()} == {
        "RTX 3060": 200_000,
        "GTX 1060": 225_000,
        "RTX 3090": 233_333,
        "V100": None,
        "A100": None,
        "i7-10700K": None,
    }
    assert chosen(found) == "RTX 3060"
    assert by_gpu["A100"]["images_per_second"] is None and by_gpu["A100"]["price_per_hour_micros"] == 12_000_000
    assert by_gpu["i7-10700K"]["price_per_hour_micros"] is None and by_gpu["i7-10700K"]["currency"] is None
    assert {row["source"] for row in found} == {"seed"}


@pytest.mark.parametrize(("latency", "gpu"), [("0.3", "RTX 3090"), ("0.4", "RTX 3060"), ("0.1", None)])
def test_latency(tmp_path: Path, latency: str, gpu: str | None) -> None:
    assert chosen(rows(tmp_path, "--latency", latency)) == gpu


def test_this_machine_is_compared_once_it_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(rows(tmp_path, "--model", "ppocr")) is None
    monkeypatch.setenv("HALVE_HOME", str(tmp_path))
    prices.record_bench(model="ppocr", gpu="Some CPU", precision="fp32", batch=1, images_per_second=3.0, p95_ms=400.0)
    found = rows(tmp_path, "--model", "ppocr")
    (mine,) = [row for row in found if row["gpu"] == "Some CPU"]
    assert mine["chosen"] and mine["source"] == "bench"
    assert mine["price_per_hour_micros"] is None and mine["cost_per_1000_micros"] is None
    assert mine["reason"] == "own machine, price unknown"
    assert chosen(rows(tmp_path)) == "RTX 3060", "it was not measured for the published model"


def test_spot_is_compared_only_when_asked_for(tmp_path: Path) -> None:
    spot = Offer(
        id="x", provider="elsewhere", zone="", instance_type="", gpu="RTX 3090", purchase=Purchase.SPOT,
        price_per_hour_micros=1_000_000, currency="CNY",
    )  # fmt: skip
    with closing(open_ledger(tmp_path)) as ledger, ledger.write() as tx:
        offers.record(tx, [spot, replace(spot, id="y", gpu="L4")], "test", utc("2026-10-01"))
    assert chosen(rows(tmp_path)) == "RTX 3060"
    found = rows(tmp_path, "--spot")
    assert chosen(found) == "RTX 3090"
    assert [row["gpu"] for row in found].count("RTX 3090") == 1


def test_a_simulated_offer_is_compared_in_a_simulated_ledger_alone(tmp_path: Path) -> None:
    market = Offer(
        id="s", provider="simulated", zone="", instance_type="", gpu="Sim", purchase=Purchase.ON_DEMAND,
        price_per_hour_micros=1, currency="EUR",
    )  # fmt: skip
    speed = Profile(
        model="ppocr", gpu="Sim", precision="simulated", batch=1, images_per_second=9.0, p95_ms=1, source="simulated"
    )
    for home, simulated in ((tmp_path / "real", False), (tmp_path / "simulated", True)):
        with closing(open_ledger(home, simulated=simulated)) as ledger, ledger.write() as tx:
            offers.record(tx, [market], "test", utc("2026-10-01"))
            offers.add_profile(tx, speed, utc("2026-10-01"))
    assert "Sim" not in {row["gpu"] for row in rows(tmp_path / "real", "--model", "ppocr")}
    assert chosen(rows(tmp_path / "simulated", "--model", "ppocr")) == "Sim"


def test_prices_are_compared_in_the_currency_of_most(tmp_path: Path) -> None:
    dear = Offer(
        id="a", provider="elsewhere", zone="", instance_type="", gpu="RTX 3090", purchase=Purchase.ON_DEMAND,
        price_per_hour_micros=1, currency="EUR",
    )  # fmt: skip
    with closing(open_ledger(tmp_path)) as ledger, ledger.write() as tx:
        offers.record(tx, [dear], "test", utc("2026-10-01"))
    found = rows(tmp_path)
    assert (chosen(found), found[0]["currency"]) == ("RTX 3060", "CNY")


def test_the_table_fits_80_columns_and_says_unknown(tmp_path: Path) -> None:
    found = halve(tmp_path, "gpus", "--latency", "0.3")
    assert found.exit_code == 0
    assert max(map(len, found.stdout.splitlines())) <= 80
    lines = {line.split()[0]: line for line in found.stdout.splitlines() if line.strip()}
    assert "unknown" in lines["A100"] and "not measured" in lines["A100"]
    assert "RTX 3090" in lines["→"]
    assert " 0.00 " not in found.stdout


def test_wrong_usage(tmp_path: Path) -> None:
    assert halve(tmp_path, "gpus", "--latency", "0").exit_code == 2
    assert halve(tmp_path, "gpus", "--latency", "fast").exit_code == 2
    (tmp_path / "file").write_text("")
    refused = halve(tmp_path / "file", "gpus").exception
    assert isinstance(refused, Refused) and "HALVE_HOME" in str(refused)
