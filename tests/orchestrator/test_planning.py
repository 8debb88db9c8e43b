"""`halve plan`: the fleet for the load that was seen, the smallest one before, and what each would cost."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from orchestrator import spec
from orchestrator.cli import app
from orchestrator.clock import VirtualClock
from orchestrator.deployment import electricity, open_providers, simulated_profile, wishes
from orchestrator.ledger import deployments, offers
from orchestrator.ledger import tables as t
from orchestrator.ledger.store import Ledger, open_ledger
from orchestrator.planning import busy_rate, plan
from orchestrator.providers import Priced
from policies.forecast import DAYS_BACK
from policies.snapshot import Offer, Purchase
from policies.windows import bounds
from tests.orchestrator.report_ledger import rows_in
from tests.policies.at_rest import at_rest

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)  # a Friday
SPEC = """
name: ocr
model: ppocr
provider: simulated
currency: CNY
simulated: {price_per_hour: 1.80, spot_price_per_hour: 0.60, images_per_second: 2.5}
replicas: {min: 1, max: MAX}
schedule: {timezone: UTC, windows: ["Mon-Fri 08:00-20:00"]}
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return open_ledger(tmp_path)


def planned(ledger: Ledger, home: Path, text: str) -> dict[str, Any]:
    return plan(spec.parse(text, "ocr.yaml"), home, ledger, NOW).to_json()


def seen(ledger: Ledger, day: datetime, per_minute: int, hours: tuple[int, int] = (8, 20)) -> None:
    """So many images in each minute of these hours of a day."""
    rows = [
        {
            "deployment": "ocr",
            "instance_id": "",
            "at": day.replace(hour=0) + timedelta(minutes=minute),
            "requests": per_minute,
            "images": per_minute,
        }
        for minute in range(hours[0] * 60, hours[1] * 60)
    ]
    with ledger.write() as tx:
        deployments.record_loads(tx, rows)


def test_before_any_load_was_seen_it_is_the_smallest_fleet(ledger: Ledger, tmp_path: Path) -> None:
    found = planned(ledger, tmp_path, SPEC.replace("MAX", "4"))
    gpu = {"gpu": "RTX 3060", "provider": "simulated", "purchase": "on_demand"}
    assert found["choice"] == [{**gpu, "count": 1}]
    assert (found["hourly_micros"], found["monthly_micros"]) == (1_800_000, 1_800_000 * 22 * 12)
    assert found["runner_up"] is None, "spot was not asked for"


def test_the_load_of_open_minutes_decides_how_many(ledger: Ledger, tmp_path: Path) -> None:
    for back in range(1, 5):
        seen(ledger, NOW - timedelta(days=back), 300)
    seen(ledger, NOW - timedelta(days=5), 100_000, (0, 7))  # while it was closed
    found = planned(ledger, tmp_path, SPEC.replace("MAX", "4") + "spot: {base_on_demand: 1}\n")
    counts = {part["purchase"]: part["count"] for part in found["choice"]}
    assert counts == {"spot": 2, "on_demand": 1}, "5 a second over 1.75 a replica, one never spot"
    assert found["hourly_micros"] == 3_000_000
    assert "carries 5 images/s" in found["reason"]
    other = found["runner_up"]
    assert (other["purchase"], other["count"], other["hourly_micros"]) == ("on_demand", 3, 5_400_000)
    assert other["monthly_micros"] == 5_400_000 * 22 * 12
    assert other["reason"].startswith("+80% an hour")


def test_a_load_beyond_the_spec_is_said_and_planned_for_as_far_as_it_goes(ledger: Ledger, tmp_path: Path) -> None:
    seen(ledger, NOW - timedelta(days=1), 300)
    found = planned(ledger, tmp_path, SPEC.replace("MAX", "2"))
    assert found["choice"][0]["count"] == 2
    assert "1.5 images/s cannot be carried; at most 2 replicas" in found["reason"]


def test_less_than_an_hour_is_no_evidence(ledger: Ledger, tmp_path: Path) -> None:
    seen(ledger, NOW - timedelta(days=1), 100_000, (19, 20))
    assert "cannot be carried" in planned(ledger, tmp_path, SPEC.replace("MAX", "4"))["reason"]
    with ledger.write() as tx:
        known = deployments.load_minutes(tx, "ocr", NOW - timedelta(days=2))
    assert len(known) == 60
    late = SPEC.replace("MAX", "4").replace("08:00-20:00", "08:00-19:59")
    assert "cannot be carried" not in planned(ledger, tmp_path, late)["reason"]


def test_ones_own_machine_comes_first_where_its_electricity_is_known(ledger: Ledger, tmp_path: Path) -> None:
    seen(ledger, NOW - timedelta(days=1), 60)
    both = SPEC.replace("provider: simulated", "provider: [simulated, local]").replace("MAX", "4")
    mine = both + "local: {gpu: RTX 3060, price_per_hour: 3.00}\n"
    assert planned(ledger, tmp_path, mine)["choice"][0]["provider"] == "simulated", "as rent, it is dearer"
    powered = both + "local: {gpu: RTX 3060, price_per_hour: 3.00, power: {watts: 200, price_per_kwh: 0.60}}\n"
    found = planned(ledger, tmp_path, powered)
    assert found["choice"] == [{"gpu": "RTX 3060", "provider": "local", "purchase": "owned", "count": 1}]
    assert found["hourly_micros"] == 3_120_000, "the bill is the whole price"
    assert found["runner_up"]["provider"] == "simulated"


def test_rates_and_the_budget_stand_beside_the_figures(ledger: Ledger, tmp_path: Path) -> None:
    more = "rates: {USD: {rate: 7.10, as_of: 2026-11-01, source: my bank}}\nbudget: {monthly: 5000}\n"
    spec_text = SPEC.replace("1.80, spot_price_per_hour: 0.60", "1.80 USD").replace("MAX", "4") + more
    found = planned(ledger, tmp_path, spec_text)
    assert found["hourly_micros"] == 12_780_000 and found["budget_micros"] == 5_000_000_000
    assert found["converted"] == ["converted at 1 USD = 7.1 CNY (2026-11-01, my bank)"]
    (tmp_path / "spec.yaml").write_text(spec_text, encoding="utf-8")
    env = {"HALVE_HOME": str(tmp_path), "COLUMNS": "100", "HALVE_DATABASE_URL": None}
    page = CliRunner().invoke(app, ["plan", str(tmp_path / "spec.yaml")], env=env).stdout
    assert "5,000.00 CNY a month, of which this is " in page and found["converted"][0] in page


def move(ledger: Ledger, days_ago: float, micros: int | None, purchase: Purchase = Purchase.ON_DEMAND) -> None:
    """The price of the spec's machine since then, as its provider told it."""
    at = NOW - timedelta(days=days_ago)
    offer = Offer(
        id=f"simulated/ocr/sim-1/rtx-3060/{purchase}",
        provider="simulated",
        zone="sim-1",
        instance_type="rtx-3060",
        gpu="RTX 3060",
        purchase=purchase,
    )
    told = Priced(offer_id=offer.id, price_per_hour_micros=micros, currency="CNY" if micros else "", effective_at=at)
    with ledger.write() as tx:
        offers.describe(tx, [offer], at)
        offers.record_prices(tx, [told], "provider", at)


def test_what_it_usually_costs_is_by_the_time_that_prices_held(ledger: Ledger, tmp_path: Path) -> None:
    """Of 30 days: 1 at 9.00, 6 at 2.40, 21 at 1.80 and 2 at 1.20. Only the last month counts."""
    for days_ago, micros in ((90, 99_000_000), (30, 9_000_000), (29, 2_400_000), (23, 1_800_000), (2, 1_200_000)):
        move(ledger, days_ago, micros)
    found = planned(ledger, tmp_path, SPEC.replace("MAX", "4"))
    assert (found["hourly_p10_micros"], found["hourly_p90_micros"]) == (1_800_000, 2_400_000)
    assert found["monthly_p90_micros"] == 2_400_000 * 22 * 12


@pytest.mark.parametrize("moves", [[], [(3, 1_800_000)], [(40, 1_800_000), (28, None), (3, 1_800_000)]])
def test_of_a_few_days_nothing_is_usual(ledger: Ledger, tmp_path: Path, moves: list[tuple[float, int | None]]) -> None:
    for days_ago, micros in moves:
        move(ledger, days_ago, micros)
    assert planned(ledger, tmp_path, SPEC.replace("MAX", "4"))["hourly_p10_micros"] is None


def test_what_runs_now_is_the_other_side_of_the_scales(tmp_path: Path) -> None:
    rows = rows_in(tmp_path)
    machine = rows.machine("ocr", ready=(NOW, None))
    name = "simulated/ocr/sim-1/rtx-3060/on_demand"
    with rows.ledger.write() as tx:
        tx.execute(t.instances.update().where(t.instances.c.id == machine).values(offer_id=name, launched_at=NOW))
    assert planned(rows.ledger, tmp_path, SPEC.replace("MAX", "4"))["running_micros"] is None, "its price is not known"
    move(rows.ledger, 1, 2_500_000)
    found = planned(rows.ledger, tmp_path, SPEC.replace("MAX", "4"))
    assert (found["running_micros"], found["hourly_micros"]) == (2_500_000, 1_800_000)
    rows.ledger.close()


def test_a_window_has_replicas_of_its_own(ledger: Ledger, tmp_path: Path) -> None:
    friday = '"Mon-Fri 08:00-20:00"'
    text = SPEC.replace("MAX", "4").replace(friday, '{when: "Mon-Fri 08:00-20:00", min: 3, max: 3}')
    assert planned(ledger, tmp_path, text)["choice"][0]["count"] == 3


@given(
    st.sampled_from(["simulated", "[simulated, local]", "[local, simulated]"]),
    st.sampled_from(["", "spot: {}", "spot: {policy: on-demand}", "spot: {base_on_demand: 1}", "spot: {guard: false}"]),
    st.sampled_from(
        ['"Mon-Fri 08:00-20:00"', '{when: "Mon-Fri 08:00-20:00", min: 2, max: 3}', '{when: "Sun 10:00-12:00", max: 5}']
    ),
    st.sampled_from([(1, 1), (1, 4), (2, 6)]),
    st.sampled_from([0, 60, 240, 480]),
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_planned_is_where_the_daemon_comes_to_rest(
    tmp_path: Path, providers: str, terms: str, window: str, replicas: tuple[int, int], per_minute: int
) -> None:
    """Providers in any order, windows with replicas of their own, spot by any name."""
    text = SPEC.replace("provider: simulated", f"provider: {providers}").replace('"Mon-Fri 08:00-20:00"', window)
    text = text.replace("min: 1, max: MAX", f"min: {replicas[0]}, max: {replicas[1]}") + terms
    text += "\nlocal: {gpu: RTX 3060, price_per_hour: 3.00, power: {watts: 200, price_per_kwh: 0.60}}\n"
    wanted = spec.parse(text, "ocr.yaml")
    with TemporaryDirectory(dir=tmp_path) as home:
        ledger = open_ledger(Path(home))
        opens = bounds(wanted.schedule_for(NOW), NOW)
        at = NOW if opens.open or opens.opens_at is None else opens.opens_at
        for back in range(1, 4):
            if per_minute:
                seen(ledger, at - timedelta(days=back), per_minute)
        costs = plan(wanted, Path(home), ledger, NOW)
        providers_of = open_providers(wanted, Path(home), VirtualClock(NOW))
        offers = [one for each in providers_of.values() for one in each.offers()]
        policy = wishes(wanted, at, None, None, electricity(wanted))
        profile = simulated_profile(wanted, wanted.simulated.gpu)
        busy = busy_rate(wanted, load(ledger), NOW) or 0.0
        _, rest = at_rest(offers, [profile], policy, busy, at, steps=20)
    if costs.choice is None or "cannot be carried" in costs.reason:
        return
    planned = Counter({part.offer.id: part.count for part in costs.choice.parts})
    assert rest == planned


def load(ledger: Ledger) -> dict[datetime, int]:
    with ledger.read() as tx:
        return dict(deployments.load_minutes(tx, "ocr", NOW - timedelta(days=DAYS_BACK)))
