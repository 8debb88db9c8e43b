"""What an invariant says of a sight that was made up for it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from orchestrator.billing import Charge
from orchestrator.invariants import Sight, one_token_one_machine, the_ledger_equals_the_meter
from orchestrator.ledger.fleet import Machine
from policies.decide import Policy
from policies.lifecycle import Status
from policies.snapshot import Purchase
from policies.windows import Schedule

START = datetime(2026, 3, 2, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)
PRICE = 1_000_000
MACHINE = Machine(
    id="ocr-1",
    deployment="ocr",
    intent_id=1,
    token="t",
    provider="simulated",
    provider_id="m-t",
    offer_id="one",
    zone="sim-1",
    instance_type="t4",
    gpu="T4",
    purchase=Purchase.ON_DEMAND,
    digest="d",
    status=Status.ENDED,
    reason="surplus",
    url=None,
    requested_at=START,
    launched_at=START,
    ready_at=START,
    draining_at=None,
    ended_at=START + HOUR,
    reclaim_at=None,
    silent_since=None,
    missing_since=None,
    rebalance_at=None,
)
SIGHT = Sight(
    now=START + 2 * HOUR,
    local_now=START + 2 * HOUR,
    tick_seconds=20.0,
    listing_seconds=10.0,
    machines=[MACHINE],
    charges={},
    intents=[],
    launched={"t": START},
    ended={"t": START + HOUR},
    meter={"t": PRICE},
    serving=None,
    policy=Policy(model="m", schedule=Schedule(zone=ZoneInfo("UTC")), providers=("simulated",)),
    digest="d",
)


def charge(start: datetime, end: datetime) -> Charge:
    return Charge(started_at=start, ended_at=end, price_per_hour_micros=PRICE, currency="USD")


def correction(at: datetime, micros: int) -> Charge:
    return Charge(started_at=at, amount_micros=micros, currency="USD")


def met(*rows: Charge) -> bool:
    return not list(the_ledger_equals_the_meter(replace(SIGHT, charges={"ocr-1": rows})))


def test_the_meter_is_met_to_the_micro_unit() -> None:
    assert met(charge(START, START + HOUR))
    assert not met(charge(START, START + HOUR), correction(START + HOUR, 1))
    assert not met()


def test_what_a_clock_that_was_ahead_has_dated_too_late_is_booked_all_the_same() -> None:
    ahead = START + 20 * HOUR
    assert met(charge(START, ahead), correction(ahead, -19 * PRICE))
    assert not met(charge(START, ahead))


def test_whose_end_a_restored_ledger_was_told_it_must_know() -> None:
    forgotten = replace(SIGHT, machines=[], restored_at=START)
    assert list(one_token_one_machine(forgotten)) == ["t was listed as over, and a restored ledger has not taken it in"]
    assert not list(one_token_one_machine(replace(forgotten, unseen=frozenset({"t"}))))
