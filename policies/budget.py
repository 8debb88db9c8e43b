"""Cap a target by the money spent. The cap wins, and says so."""

from dataclasses import dataclass
from enum import StrEnum

from policies.plan import Target
from policies.snapshot import Spend


class Brake(StrEnum):
    """What a share of the budget sets off."""

    WARN = "warn"
    SPOT_ONLY = "spot-only"
    MINIMUM = "minimum"
    STOP = "stop"


SEVERITY = {Brake.WARN: 0, Brake.SPOT_ONLY: 1, Brake.MINIMUM: 2, Brake.STOP: 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits in micro-units of the spec's currency; `at` maps a share of either to what it sets off."""

    monthly_micros: int | None = None
    daily_micros: int | None = None
    at: tuple[tuple[float, Brake], ...] = ((1.0, Brake.STOP),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capped:
    """The target after the budget, what may still be bought, and a word for the payer."""

    target: Target
    spot_only: bool = False
    stopped: bool = False
    note: str | None = None


def cap(target: Target, minimum: int, spend: Spend, budget: Budget | None) -> Capped:
    """Apply the most severe step that the month's or the day's spending has reached."""
    if budget is None:
        return Capped(target=target)
    shares = [
        (spent / limit, f"{name} budget {100 * spent / limit:.0f} % spent")
        for name, spent, limit in (
            ("monthly", spend.month_micros, budget.monthly_micros),
            ("daily", spend.day_micros, budget.daily_micros),
        )
        if limit
    ]
    reached = [(SEVERITY[step], step, words) for share, words in shares for bound, step in budget.at if share >= bound]
    unknown = spend.unknown_hours
    if not reached:
        return Capped(
            target=target, note=f"the budget cannot count {unknown:.1f} h of unknown price" if unknown else None
        )
    _, step, words = max(reached)
    note = f"{words}: {step}"
    if step is Brake.STOP:
        return Capped(target=Target(replicas=0, reason=note), stopped=True, note=note)
    if step is Brake.MINIMUM:
        return Capped(target=Target(replicas=min(target.replicas, minimum), reason=note), spot_only=True, note=note)
    return Capped(target=target, spot_only=step is Brake.SPOT_ONLY, note=note)
