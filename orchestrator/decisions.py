"""Why: what was decided about a deployment, with its inputs and what was second best. As `halve why` and the dashboard
show it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

from orchestrator import control, replay, spec
from orchestrator.deployment import wishes_of
from orchestrator.errors import Refused
from orchestrator.ledger import beliefs, history
from orchestrator.ledger.store import Ledger
from orchestrator.reports.terms import rates_said
from orchestrator.status import iso
from policies import candidates, spot
from policies.lifecycle import OVER
from policies.policy import Policy
from policies.selection import Ranked, price_in
from policies.snapshot import Snapshot


def newest(
    home: Path, ledger: Ledger, name: str, until: datetime, last: int, *, again: bool = True
) -> list[dict[str, Any]]:
    """The decision that held at a time, and the `last` ones up to it that did something, as JSON values, newest first.

    With `again` each of those is made again from its snapshot; where today's spec decides otherwise, it says so.
    Raises Refused.
    """
    row = control.find(ledger, name)
    wishes = wishes_of(spec.parse(row.spec, row.source), row, home)
    with ledger.read() as tx:
        latest = history.standing(tx, name, until)
        acted = history.acted(tx, name, until, last)
        pools = spot.story(beliefs.known(tx, name).get("placement"), until)
    quiet = [] if latest is None or latest.plan["actions"] else [latest]
    shown = [_told(one, wishes if again else None) for one in [*quiet, *acted]]
    if shown:
        shown[0]["pools"] = list(pools)
    return shown


def one(home: Path, ledger: Ledger, name: str, tick_id: int) -> dict[str, Any]:
    """One decision, as `newest` gives it. Raises Refused where there is none of that number."""
    row = control.find(ledger, name)
    return _told(_found(ledger, name, tick_id), wishes_of(spec.parse(row.spec, row.source), row, home))


def moment(ledger: Ledger, name: str, text: str, now: datetime) -> datetime:
    """A time as people write it, in the zone of the deployment's schedule. Raises Refused."""
    row = control.find(ledger, name)
    zone = spec.parse(row.spec, row.source).schedule_for(now).zone
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Refused(f'why: --at {text}: want "YYYY-MM-DD HH:MM"') from None


def _told(row: Any, wishes: Callable[[datetime, float | None], Policy] | None) -> dict[str, Any]:
    differs = None
    if wishes is not None and row.plan["actions"]:  # of a quiet one no snapshot is kept
        differs = list(replay.differences(replay.again(row.snapshot, wishes), row.plan))
    told = {"tick": row.id, "at": iso(row.at), "target": row.target, "reason": row.reason}
    return {**told, **row.plan, "again": differs}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounds:
    """What a decision was taken by: the world as it was seen, and the offers from the best on, each with its verdict.

    `ranked` and `again` are by today's spec. `again` is what it would do otherwise.
    """

    snapshot: Snapshot
    ranked: Sequence[Ranked]
    runner_up: Ranked | None  # the best one of another GPU, or on other terms
    again: Sequence[str]
    currency: str  # of `ranked`'s costs
    rates: Mapping[str, Fraction]  # into it
    converted: Mapping[str, str]  # the same for people, with date and source

    def hourly_micros(self, row: Ranked) -> float | None:
        """What an hour of it costs in `currency`; None where its price or a rate is not known."""
        price = price_in(row.offer, self.currency, self.rates)
        return None if price is None else float(price)


def grounds(home: Path, ledger: Ledger, name: str, tick_id: int) -> Grounds | None:
    """Of a decision that did something; None for a quiet one, whose snapshot is not kept. Raises Refused."""
    row = control.find(ledger, name)
    found = _found(ledger, name, tick_id)
    if found.snapshot is None:
        return None
    values: Mapping[str, Any] = found.snapshot
    snapshot = replay.from_json(values)
    said = spec.parse(row.spec, row.source)
    wishes = wishes_of(said, row, home)
    policy = wishes(snapshot.now, snapshot.start_seconds)
    ranked = candidates.eligible(snapshot, policy)
    others = (one for one in ranked if _terms(one) != _terms(ranked[0]))
    return Grounds(
        snapshot=snapshot,
        ranked=ranked,
        runner_up=next(others, None),
        again=replay.differences(replay.again(values, wishes), found.plan),
        currency=policy.currency or next((one.offer.currency for one in ranked if one.offer.currency), ""),
        rates=policy.rates,
        converted=rates_said(said),
    )


def compared(found: Grounds) -> tuple[str, dict[str, Any] | None, dict[str, Any] | None]:
    """What was seen in a sentence, and the best machine and the next best as JSON values; None: there was none."""
    seen = found.snapshot
    live = sum(one.status not in OVER for one in seen.instances)
    load = seen.load.images_per_second
    asked = "a load that nobody watched" if load is None else f"{load:.3g} images/s asked for"
    spent = f"{seen.spend.month_micros / 1e6:,.2f} {seen.spend.currency} spent this month".replace("  ", " ")
    best = found.ranked[0] if found.ranked else None
    return f"{live} machines, {asked}, {spent}", _priced(best), _priced(found.runner_up)


def _priced(row: Ranked | None) -> dict[str, Any] | None:
    if row is None:
        return None
    offer = row.offer
    return {
        "gpu": offer.gpu,
        "provider": offer.provider,
        "purchase": offer.purchase.value,
        "price_per_hour_micros": offer.price_per_hour_micros,
        "currency": offer.currency or None,
        "cost_per_1000_micros": row.cost_per_1000_micros,
        "reason": row.reason,
    }


def _found(ledger: Ledger, name: str, tick_id: int) -> Any:
    with ledger.read() as tx:
        found = history.decision(tx, name, tick_id)
    if found is None:
        raise Refused(f"{name}: there is no decision {tick_id}; `halve why {name}` lists the last ones")
    return found


def _terms(row: Ranked) -> tuple[str, str]:
    return row.offer.gpu, row.offer.purchase
