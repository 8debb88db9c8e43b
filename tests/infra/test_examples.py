"""Each example is read, planned, and lived through for a month in which no machine runs and no money is spent."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from pathlib import Path

import pytest

from orchestrator import deployment, prices, spec
from orchestrator.billing import accrued
from orchestrator.errors import Refused
from orchestrator.jobs.promise import must_be_possible
from orchestrator.ledger import deployments, offers, reporting
from orchestrator.ledger.store import open_file, open_ledger
from orchestrator.planning import plan
from orchestrator.simulation.month import STEP, Month, simulate
from policies.windows import spans

EXAMPLES = sorted((Path(__file__).parents[2] / "infra" / "examples").glob("*.yaml"))
NAMES = [path.stem for path in EXAMPLES]
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
#: what is asked before a plan can be made, and where nobody answers
ASKED = {"two-hosts": "halve hosts trust box1", "spot-on-aws": "credentials|aws"}
#: of the market there is no simulation but its own, on moto
NOT_SIMULATED = {"spot-on-aws"}


def of(name: str) -> Path:
    return next(path for path in EXAMPLES if path.stem == name)


def test_there_is_one_for_each_purpose() -> None:
    wanted = {"one-old-card", "spot-fleet", "nightly-batch", "two-hosts", "monthly-budget"}
    assert wanted <= {*NAMES}
    assert len({spec.load(path).name for path in EXAMPLES}) == len(EXAMPLES)
    listens = [spec.load(path).door.listen for path in EXAMPLES if "listen" in path.read_text()]
    assert len({*listens}) == len(listens)  # they may all be up at once


@pytest.mark.parametrize("name", NAMES)
def test_it_is_read_without_a_word(name: str) -> None:
    wanted = spec.load(of(name))
    assert wanted.calendar_notes(2026, 2026) == ()
    named = [line for line in of(name).read_text().splitlines() if "infra/examples/" in line]
    assert all(f"infra/examples/{name}.yaml" in line for line in named)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_planned(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    ledger = open_ledger(tmp_path)
    prices.seed(ledger)
    if name in ASKED:
        with pytest.raises(Refused, match=ASKED[name]):
            plan(spec.load(of(name)), tmp_path, ledger, NOW)
        return
    found = plan(spec.load(of(name)), tmp_path, ledger, NOW)
    assert found.choice is not None, found.reason
    assert found.hourly_micros
    assert found.reason


def lived(name: str, path: Path) -> Month:
    return simulate(spec.load(of(name)), of(name).read_text("utf-8"), str(of(name)), "2026-11", path, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in NOT_SIMULATED])
def test_it_is_lived_through(name: str, tmp_path: Path) -> None:
    wanted, path = spec.load(of(name)), tmp_path / "november.db"
    month = lived(name, path)
    assert month.images > 1000
    assert month.refused < month.images / 50
    assert month.meter_micros > 0
    first, last = date(2026, 11, 1), date(2026, 11, 30)
    opened = spans(wanted.schedule_over(first, last), first, last)
    with open_file(path).read() as tx:
        start, end = datetime(2026, 10, 31, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
        booked = reporting.charges(tx, start, end, wanted.name)
    assert booked
    slack = timedelta(minutes=30)  # to be ready when it opens, and to finish what is under way
    for one in booked:
        charge = one.charge
        assert any(span.opens_at - slack <= charge.started_at <= span.closes_at for span in opened), charge
        ended = charge.ended_at or end
        assert any(charge.started_at <= span.closes_at and ended <= span.closes_at + slack for span in opened), charge
    if wanted.budget and wanted.budget.monthly:
        limit, spent = wanted.budget.monthly.micros, paid(wanted, booked, end)
        assert spent <= limit + beyond(wanted, booked, limit)


def paid(wanted: spec.Spec, booked: Sequence[reporting.Booked], at: datetime) -> int:
    """What was due before a moment, in the spec's currency."""
    rates = {code: Fraction(rate.rate) for code, rate in wanted.rates.items()}
    return sum(accrued(one.charge, at, rate=rates.get(one.charge.currency, Fraction(1))) or 0 for one in booked)


def beyond(wanted: spec.Spec, booked: Sequence[reporting.Booked], limit: int) -> int:
    """By how much a hard budget may be passed: what runs in one tick and the drain. This market bills no minimum.

    A simulated month looks every `STEP`, a daemon every second.
    """
    patience = deployment.wishes(wanted, NOW, None, None, {}).patience
    time = STEP + timedelta(seconds=patience.drain_seconds)
    ends = sorted(one.charge.ended_at for one in booked if one.charge.ended_at is not None)
    over = next((at for at in ends if paid(wanted, booked, at) > limit), None)
    if over is None:
        return 0
    running = [one for one in booked if one.charge.started_at < over and (one.charge.ended_at or over) >= over]
    return paid(wanted, running, over) - paid(wanted, running, over - time)


def test_a_market_cannot_be_simulated_by_another(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="local, ssh and simulated can"):
        lived("spot-on-aws", tmp_path / "november.db")


def test_hosts_whose_card_nobody_named_cannot_be_simulated(tmp_path: Path) -> None:
    wanted = spec.load(of("two-hosts"))
    assert wanted.ssh is not None
    hosts = tuple(one.model_copy(update={"gpu": "auto"}) for one in wanted.ssh.hosts)
    unnamed = wanted.model_copy(update={"ssh": wanted.ssh.model_copy(update={"hosts": hosts})})
    with pytest.raises(Refused, match="gpu: auto cannot be simulated"):
        simulate(unnamed, of("two-hosts").read_text("utf-8"), "two-hosts", "2026-11", tmp_path / "november.db", 1)


def test_the_nightly_batch_promises_the_morning(tmp_path: Path) -> None:
    """8 hours at 2.5 images a second on each of 4 machines."""
    path = of("nightly-batch")
    ledger = open_ledger(tmp_path)
    evening = datetime(2026, 11, 20, 13, tzinfo=UTC)  # 21:00 in Shanghai
    wanted = spec.load(path)
    with ledger.write() as tx:
        deployments.put_up(tx, wanted.name, path.read_text("utf-8"), str(path), evening)
        offers.record(tx, deployment.simulated_offers(wanted), "provider", evening)
        row = deployments.get(tx, wanted.name)
    assert row is not None
    deployment.record_simulated_speed(ledger, wanted, [wanted.simulated.gpu], evening)
    must_be_possible(ledger, row, 10_000, evening + timedelta(hours=9), evening)
    for images, hours in ((10_000, 1), (1_000_000, 9)):
        with pytest.raises(Refused):
            must_be_possible(ledger, row, images, evening + timedelta(hours=hours), evening)
