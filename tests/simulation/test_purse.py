"""By how much a hard budget is passed: only a limit that stood all the while counts."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from orchestrator.clock import VirtualClock
from orchestrator.invariants import Overspent
from orchestrator.providers import Request
from orchestrator.providers.simulated import Conditions
from orchestrator.simulation.purse import Purse
from orchestrator.simulation.shared_market import SharedMarket
from policies.budget import Brake, Budget
from policies.decide import Policy
from policies.snapshot import Offer, Purchase
from policies.windows import Schedule

START = datetime(2026, 3, 2, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)
PRICE = 1_000_000
OFFER = Offer(
    id="one",
    provider="simulated",
    zone="sim-1",
    instance_type="t4",
    gpu="T4",
    purchase=Purchase.ON_DEMAND,
    price_per_hour_micros=PRICE,
    currency="USD",
)
TWO_HOURS = Budget(daily_micros=2 * PRICE)


def policy(limit: Budget | None) -> Policy:
    return Policy(model="m", schedule=Schedule(zone=ZoneInfo("UTC")), providers=("simulated",), limit=limit)


@dataclass
class Spender:
    """One machine that runs from START on and costs a unit an hour, whatever the limit."""

    clock: VirtualClock = field(default_factory=lambda: VirtualClock(START))

    def __post_init__(self) -> None:
        self.market = SharedMarket(self.clock, Conditions(offers=(OFFER,)))
        self.market.launch(Request(token="t", offer=OFFER, payload={}))
        self.purse = Purse(self.market)

    def after(self, hours: float, limit: Budget | None, *, knowable: bool = True) -> tuple[Overspent, ...]:
        """What is passed so many hours after the start."""
        now = START + hours * HOUR
        self.clock.jump(now)
        machines = self.market.rented()
        return self.purse.passed(machines, policy(limit), now, local_now=now, unlisted=timedelta(0), knowable=knowable)


def test_what_is_spent_beyond_a_limit_is_told_with_what_a_tick_and_the_drain_may_cost() -> None:
    spender = Spender()
    assert not spender.after(1.5, TWO_HOURS)
    assert not spender.after(2.0, TWO_HOURS)
    (passed,) = spender.after(2.5, TWO_HOURS)
    assert passed.micros == PRICE // 2
    drain = timedelta(seconds=policy(None).patience.drain_seconds)
    assert passed.allowed_micros == 1 + PRICE * (HOUR / 2 + drain) // HOUR
    (passed,) = spender.after(3.5, TWO_HOURS)
    assert passed.micros == 1.5 * PRICE
    assert passed.micros > passed.allowed_micros


def test_a_limit_that_was_lifted_meanwhile_is_not_passed_by_what_was_spent_without_it() -> None:
    spender = Spender()
    assert not spender.after(1.0, TWO_HOURS)
    assert not spender.after(3.0, None)
    assert not spender.after(6.0, None)
    assert not spender.after(6.0, TWO_HOURS)  # passed long ago; from now on it can be kept
    (passed,) = spender.after(7.0, TWO_HOURS)
    assert passed.micros == PRICE


def test_a_limit_that_only_warns_is_none() -> None:
    spender = Spender()
    warning = Budget(daily_micros=2 * PRICE, at=((1.0, Brake.WARN),))
    assert not spender.after(1.0, warning)
    assert not spender.after(9.0, warning)


def test_what_nobody_could_know_is_held_against_nobody() -> None:
    spender = Spender()
    assert not spender.after(1.0, TWO_HOURS)
    assert not spender.after(4.0, TWO_HOURS, knowable=False)
    (passed,) = spender.after(5.0, TWO_HOURS)
    assert passed.micros == PRICE
