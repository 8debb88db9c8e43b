"""What must be true of every ledger, whatever happened: small named checks, each a question with an empty answer."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from orchestrator.ledger import tables as t
from orchestrator.ledger.fleet import BILLABLE, OVER_VALUES

#: what is paid for: a rented machine, or a deployment's box of ours however many engines run on it
PAID_FOR = sa.case(
    (t.instances.c.purchase == "owned", t.instances.c.deployment + " on " + t.instances.c.offer_id),
    else_=t.instances.c.id,
).label("paid_for")


def _charged() -> sa.Select[Any]:
    """What is paid for, of every charge."""
    return sa.select(PAID_FOR).select_from(t.charges).join(t.instances, t.charges.c.instance_id == t.instances.c.id)


def one_machine_per_token(tx: sa.Connection) -> list[str]:
    """Two machines never share a token."""
    c = t.instances.c
    query = sa.select(c.token).group_by(c.token).having(sa.func.count() > 1)
    return [f"token {token}: more than one machine" for token in tx.scalars(query)]


def one_open_charge_at_most(tx: sa.Connection) -> list[str]:
    """A machine, or a box of ours, has at most one open charge of a kind."""
    c = t.charges.c
    open_ones = _charged().where(c.ended_at.is_(None), c.amount_micros.is_(None))
    query = open_ones.group_by(PAID_FOR, c.kind).having(sa.func.count() > 1)
    return [f"{paid_for}: more than one open charge" for paid_for in tx.scalars(query)]


def what_costs_is_charged(tx: sa.Connection) -> list[str]:
    """A machine that the provider has listed and that is not over has an open charge, or its box of ours has."""
    i = t.instances.c
    compute = _charged().where(t.charges.c.ended_at.is_(None), t.charges.c.kind == "compute")
    charged = set(tx.scalars(compute))
    query = sa.select(i.id, i.status, PAID_FOR).where(
        i.status.in_(BILLABLE), i.launched_at.is_not(None), i.missing_since.is_(None)
    )
    return [
        f"{row.id}: {row.status}, and nothing is charged for it"
        for row in tx.execute(query)
        if row.paid_for not in charged
    ]


def what_is_over_costs_nothing(tx: sa.Connection) -> list[str]:
    """A machine that is over has no open charge."""
    c, i = t.charges.c, t.instances.c
    query = sa.select(i.id, i.status).join(t.charges, c.instance_id == i.id)
    query = query.where(i.status.in_([*OVER_VALUES, "lost"]), c.ended_at.is_(None), c.amount_micros.is_(None))
    return [f"{row.id}: {row.status}, and its charge is still open" for row in tx.execute(query)]


def charges_do_not_overlap(tx: sa.Connection) -> list[str]:
    """The stretches of a machine's charges, or of a box's, follow one another, and none ends before it starts."""
    c = t.charges.c
    query = _charged().add_columns(c.instance_id, c.kind, c.started_at, c.ended_at).where(c.amount_micros.is_(None))
    found: list[str] = []
    ends: dict[tuple[str, str], datetime | None] = {}
    for row in tx.execute(query.order_by(PAID_FOR, c.kind, c.started_at, c.id)):
        end = ends.get((row.paid_for, row.kind), row.started_at)
        if row.ended_at is not None and row.ended_at < row.started_at:
            found.append(f"{row.instance_id}: a charge ends before it starts")
        if end is None or end > row.started_at:
            found.append(f"{row.instance_id}: two {row.kind} charges overlap at {row.started_at:%Y-%m-%d %H:%M:%S} UTC")
        ends[row.paid_for, row.kind] = row.ended_at
    return found


def nothing_open_is_owed_to_the_dead(tx: sa.Connection) -> list[str]:
    """A machine that is over has no open intent."""
    i, n = t.instances.c, t.intents.c
    query = sa.select(n.id, n.kind, i.id.label("machine")).join(t.instances, n.instance_id == i.id)
    query = query.where(n.state == "open", i.status.in_(OVER_VALUES))
    return [f"{row.machine}: is over, and its {row.kind} (intent {row.id}) is still open" for row in tx.execute(query)]


def one_intent_of_a_kind(tx: sa.Connection) -> list[str]:
    """Nothing is decided twice while it is still under way."""
    n = t.intents.c
    twice = sa.select(n.kind, n.instance_id).where(n.state == "open").group_by(n.kind, n.instance_id)
    return [
        f"{row.instance_id}: two open intents to {row.kind} it" for row in tx.execute(twice.having(sa.func.count() > 1))
    ]


def charges_cover_the_life(tx: sa.Connection) -> list[str]:
    """The charges of a rented machine's time are back-dated to its launch."""
    c, i = t.charges.c, t.instances.c
    first = sa.func.min(c.started_at, type_=t.Moment).label("first")
    query = sa.select(i.id, i.launched_at, first).join(t.instances, c.instance_id == i.id)
    query = query.where(i.purchase != "owned", c.amount_micros.is_(None), c.kind == "compute").group_by(
        i.id, i.launched_at
    )
    return [
        f"{row.id}: launched at {row.launched_at:%Y-%m-%d %H:%M:%S}, charged since {row.first:%Y-%m-%d %H:%M:%S} UTC"
        for row in tx.execute(query.having(first != i.launched_at))
    ]


def jobs_count_their_items(tx: sa.Connection) -> list[str]:
    """What a job says of its items is what its items say."""
    j, k = t.jobs.c, t.items.c
    done = sa.func.coalesce(sa.func.sum(sa.case((k.state == "done", 1), else_=0)), 0)
    failed = sa.func.coalesce(sa.func.sum(sa.case((k.state == "failed", 1), else_=0)), 0)
    counted = sa.select(j.id, j.done, j.failed).outerjoin(t.items, k.job_id == j.id).group_by(j.id, j.done, j.failed)
    wrong = counted.having(sa.or_(done != j.done, failed != j.failed))
    return [
        f"job {row.id}: counts {row.done} done and {row.failed} failed items, and has others"
        for row in tx.execute(wrong)
    ]


def every_item_once(tx: sa.Connection) -> list[str]:
    """A job that is done has no item left that is neither read nor failed."""
    j, k = t.jobs.c, t.items.c
    query = sa.select(j.id, sa.func.count()).join(t.items, k.job_id == j.id)
    query = query.where(j.state == "done", k.state.not_in(["done", "failed"])).group_by(j.id)
    return [f"job {row[0]}: done, and {row[1]} items have no result" for row in tx.execute(query)]


CHECKS: tuple[Callable[[sa.Connection], list[str]], ...] = (
    one_machine_per_token,
    one_open_charge_at_most,
    what_costs_is_charged,
    what_is_over_costs_nothing,
    charges_do_not_overlap,
    charges_cover_the_life,
    nothing_open_is_owed_to_the_dead,
    one_intent_of_a_kind,
    every_item_once,
    jobs_count_their_items,
)


def check(tx: sa.Connection) -> dict[str, list[str]]:
    """Every check by its name, with what it found."""
    return {one.__name__: one(tx) for one in CHECKS}
