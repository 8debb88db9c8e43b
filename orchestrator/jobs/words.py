"""A job in words for a terminal. `one` is a job as JSON values, as `asking.values` gives it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any


def going(one: Mapping[str, Any]) -> str:
    """How it goes, in a line beside its bar."""
    parts = [one["state"], f"{one['failed']} failed" if one["failed"] else "", one["reason"]]
    if one["items_per_second"]:
        left = one["waiting"] + one["leased"]
        parts += [f"{one['items_per_second']:.1f}/s", f"{duration(one['eta_seconds'])} left" if left else ""]
    if one["cost_micros"]:
        parts.append(costs(one))
    if one["margin_seconds"] is not None:
        parts.append(due(one))
    return ", ".join(part for part in parts if part)


def costs(one: Mapping[str, Any]) -> str:
    """What it has cost, will cost and may cost, in a line."""

    def money(micros: int) -> str:
        return f"{micros / 1e6:.2f} {one['currency']}".rstrip()

    parts = [
        "cost so far unknown: a price is" if one["cost_micros"] is None else f"cost so far {money(one['cost_micros'])}"
    ]
    if one["cost_to_go_micros"] is not None and one["state"] in ("running", "paused"):
        parts.append(f"about {money(one['cost_to_go_micros'])} to go")
    if one["budget_micros"] is not None:
        parts.append(f"budget {money(one['budget_micros'])}")
    return ", ".join(parts)


def due(one: Mapping[str, Any]) -> str:
    """When it is due, in this machine's zone, and how much time there is to spare."""
    when = f"due {datetime.fromisoformat(one['deadline_at']).astimezone():%Y-%m-%d %H:%M %Z}"
    margin = one["margin_seconds"]
    if margin is None:
        return when
    ends = "ended" if one["finished_at"] else "at this pace it ends"
    return f"{when}: {ends} {duration(abs(margin))} {'before that' if margin >= 0 else 'too late'}"


def duration(seconds: float | None) -> str:
    """`1h 05m`, `4m 07s`, `9s`; empty when unknown."""
    if seconds is None:
        return ""
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {left:02d}s" if minutes else f"{left}s"


def plain(path: object) -> str:
    """A path on one line of any terminal: what cannot be printed is escaped."""
    shown = str(path).encode("utf-8", "backslashreplace").decode()
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in shown)
