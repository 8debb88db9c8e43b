"""What money that is spent does to a target."""

import pytest

from policies.budget import Brake, Budget, cap
from policies.plan import Target
from policies.snapshot import Spend

WANTED = Target(replicas=4, reason="4.00 images/s")
STEPS = ((0.5, Brake.WARN), (0.8, Brake.SPOT_ONLY), (0.9, Brake.MINIMUM), (1.0, Brake.STOP))


@pytest.mark.parametrize(
    ("month", "day", "replicas", "spot_only", "stopped", "note"),
    [
        (0, 0, 4, False, False, None),
        (499, 0, 4, False, False, None),
        (500, 0, 4, False, False, "monthly budget 50 % spent: warn"),
        (799, 0, 4, False, False, "monthly budget 80 % spent: warn"),
        (800, 0, 4, True, False, "monthly budget 80 % spent: spot-only"),
        (900, 0, 1, True, False, "monthly budget 90 % spent: minimum"),
        (1000, 0, 0, False, True, "monthly budget 100 % spent: stop"),
        (5000, 0, 0, False, True, "monthly budget 500 % spent: stop"),
        (0, 100, 0, False, True, "daily budget 100 % spent: stop"),
        (500, 100, 0, False, True, "daily budget 100 % spent: stop"),  # the severer of the two
        (1000, 50, 0, False, True, "monthly budget 100 % spent: stop"),
    ],
)
def test_the_severest_step_that_was_reached(
    month: int, day: int, replicas: int, spot_only: bool, stopped: bool, note: str | None
) -> None:
    limit = Budget(monthly_micros=1000, daily_micros=100, at=STEPS)
    capped = cap(WANTED, 1, Spend(month_micros=month, day_micros=day, currency="CNY"), limit)
    assert (capped.target.replicas, capped.spot_only, capped.stopped, capped.note) == (
        replicas,
        spot_only,
        stopped,
        note,
    )
    assert capped.target.reason == (note if replicas != 4 else WANTED.reason)


def test_without_a_budget_nothing_is_capped() -> None:
    assert cap(WANTED, 1, Spend(month_micros=10**12), None).target == WANTED
    assert cap(WANTED, 1, Spend(month_micros=10**12), Budget()).target == WANTED


def test_a_stop_says_so_even_where_nothing_was_wanted() -> None:
    """Scaled to zero, the door must not keep requests waiting for what will not come."""
    idle = Target(replicas=0, reason="no load")
    assert cap(idle, 0, Spend(day_micros=5), Budget(daily_micros=5)).stopped
