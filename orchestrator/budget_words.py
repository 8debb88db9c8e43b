"""A budget as `halve status` shows it: how much of it is spent, and what happens at which share."""

from typing import Any

from orchestrator.reports.figures import money, percent
from policies.budget import Budget
from policies.snapshot import Spend


def standing(limit: Budget | None, spent: Spend) -> list[dict[str, Any]]:
    """The month's and the day's, each with its steps; `reached` is the last step whose share is spent."""
    if limit is None:
        return []
    steps = sorted(limit.at)
    return [
        {
            "period": period,
            "limit_micros": bound,
            "spent_micros": micros,
            "at": [{"share": share, "step": step.value} for share, step in steps],
            "reached": next((step.value for share, step in reversed(steps) if micros >= share * bound), None),
        }
        for period, bound, micros in (
            ("month", limit.monthly_micros, spent.month_micros),
            ("day", limit.daily_micros, spent.day_micros),
        )
        if bound
    ]


def line(one: dict[str, Any], currency: str) -> str:
    """One of them in words."""
    share = percent(one["spent_micros"], one["limit_micros"])
    steps = ", ".join(f"{step['share']:.0%} {step['step']}" for step in one["at"])
    reached = f", reached: {one['reached']}" if one["reached"] else ""
    return f"budget of the {one['period']} {money(one['limit_micros'])} {currency}: {share} spent ({steps}){reached}"
