"""How much of each budget is spent, what that set off, and whether the month will stay within."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestrator.ledger.tallies import Rates
from orchestrator.reports.forecast import forecast
from orchestrator.reports.terms import Terms
from policies.budget import Brake
from policies.windows import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetLine:
    """A deployment's budget as its spec has it now, and the known part of what it spent."""

    deployment: str
    period: str  # the month or the day, as YYYY-MM or YYYY-MM-DD
    currency: str
    limit_micros: int
    spent_micros: int
    forecast_micros: int | None
    at: tuple[tuple[float, Brake], ...]

    @property
    def reached(self) -> Brake | None:
        """The last step whose share is spent."""
        return self._at(self.spent_micros)

    @property
    def ahead(self) -> Brake | None:
        """The last step that will be reached at this pace, if it is not reached yet."""
        ahead = None if self.forecast_micros is None else self._at(self.forecast_micros)
        return ahead if ahead is not self.reached else None

    def _at(self, micros: int) -> Brake | None:
        reached = (step for share, step in sorted(self.at, reverse=True) if micros >= share * self.limit_micros)
        return next(reached, None)


def budget_lines(
    terms: Sequence[Terms], spent: Mapping[str, int], month: Span, now: datetime, rates: Rates
) -> tuple[BudgetLine, ...]:
    """The monthly budgets of those deployments that have one; `spent` by deployment, in the report's currency.

    A budget in another currency is turned into the report's by `rates`; without a rate it is left out.
    """
    found = []
    for one in terms:
        limit = None if one.budget is None else one.budget.monthly_micros
        rate = rates.get(one.currency)
        if one.budget is None or limit is None or rate is None:
            continue
        mine = spent.get(one.name, 0)
        over = now >= month.closes_at
        found.append(
            BudgetLine(
                deployment=one.name,
                period=f"{month.opens_at + timedelta(days=15):%Y-%m}",  # in any zone
                currency=one.currency,
                limit_micros=int(limit * rate),
                spent_micros=mine,
                forecast_micros=None if over else forecast({one.name: mine}, [one], month, now),
                at=one.budget.at,
            )
        )
    return tuple(found)


def day_lines(
    terms: Sequence[Terms], spent: Mapping[str, int], midnight: datetime, rates: Rates
) -> tuple[BudgetLine, ...]:
    """The daily budgets: `spent` since `midnight`, in a zone that says which day it is."""
    found = []
    for one in terms:
        limit = None if one.budget is None else one.budget.daily_micros
        rate = rates.get(one.currency)
        if one.budget is None or limit is None or rate is None:
            continue
        found.append(
            BudgetLine(
                deployment=one.name,
                period=f"{midnight:%Y-%m-%d}",
                currency=one.currency,
                limit_micros=int(limit * rate),
                spent_micros=spent.get(one.name, 0),
                forecast_micros=None,
                at=one.budget.at,
            )
        )
    return tuple(found)
