"""Why: what was decided about a deployment, with its inputs and what was second best. As `halve why` and the dashboard
show it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator import control, replay, spec
from orchestrator.deployment import wishes_of
from orchestrator.errors import Refused
from orchestrator.ledger import beliefs, history, ticks
from orchestrator.ledger.store import Ledger
from orchestrator.status import iso
from policies import candidates, spot
from policies.selection import Ranked
from policies.snapshot import Snapshot


def newest(
    home: Path, ledger: Ledger, name: str, now: datetime, last: int, *, again: bool = True
) -> list[dict[str, Any]]:
    """The last decision about a deployment, and the `last` ones that did something, as JSON values, the latest first.

    With `again` each of those is made again from its snapshot; where today's spec decides otherwise, it says so.
    Raises Refused.
    """
    row = control.find(ledger, name)
    wishes = wishes_of(spec.parse(row.spec, row.source), row, home)
    with ledger.read() as tx:
        latest = ticks.newest(tx, name, until=now, acted=False, limit=1)
        acted = history.acted(tx, name, now, last)
        pools = spot.story(beliefs.known(tx, name).get("placement"), now)
    quiet = [one for one in latest if not one.plan["actions"]]
    shown: list[dict[str, Any]] = [
        {
            "tick": one.id,
            "at": iso(one.at),
            "target": one.target,
            "reason": one.reason,
            **one.plan,
            "again": list(replay.differences(replay.again(one.snapshot, wishes), one.plan))
            if again and one.snapshot is not None
            else None,
        }
        for one in [*quiet, *acted]
    ]
    if shown:
        shown[0]["pools"] = list(pools)
    return shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounds:
    """What a decision was taken by: the world as it was seen, and the offers from the best on, each with its verdict.

    `ranked` and `again` are by today's spec. `again` is what it would do otherwise.
    """

    snapshot: Snapshot
    ranked: Sequence[Ranked]
    runner_up: Ranked | None  # the best one of another GPU, or on other terms
    again: Sequence[str]


def grounds(home: Path, ledger: Ledger, name: str, tick_id: int) -> Grounds | None:
    """Of a decision that did something; None for a quiet one, whose snapshot is not kept. Raises Refused."""
    row = control.find(ledger, name)
    with ledger.read() as tx:
        found = history.decision(tx, name, tick_id)
    if found is None:
        raise Refused(f"{name}: there is no decision {tick_id}; `halve why {name}` lists the last ones")
    if found.snapshot is None:
        return None
    values: Mapping[str, Any] = found.snapshot
    snapshot = replay.from_json(values)
    wishes = wishes_of(spec.parse(row.spec, row.source), row, home)
    policy = wishes(snapshot.now, snapshot.start_seconds)
    ranked = candidates.eligible(snapshot, policy)
    others = (one for one in ranked if _terms(one) != _terms(ranked[0]))
    return Grounds(
        snapshot=snapshot,
        ranked=ranked,
        runner_up=next(others, None),
        again=replay.differences(replay.again(values, wishes), found.plan),
    )


def _terms(row: Ranked) -> tuple[str, str]:
    return row.offer.gpu, row.offer.purchase
