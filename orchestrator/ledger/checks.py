"""What must be true of every ledger, whatever happened: small named checks, each a question with an empty answer.

The statements are built once: a simulation asks them after every tick.
"""

from collections.abc import Callable
from datetime import datetime

import sqlalchemy as sa

from orchestrator.ledger import tables as t
from orchestrator.ledger.fleet import BILLABLE, OVER_VALUES

c, i, n, j, k = t.charges.c, t.instances.c, t.intents.c, t.jobs.c, t.items.c
SEVERAL = sa.func.count() > 1
#: what is paid for: a rented machine, or a deployment's box of ours however many engines run on it
PAID_FOR = sa.case((i.purchase == "owned", i.deployment + " on " + i.offer_id), else_=i.id).label("paid_for")
#: what is paid for, of every stretch of time that is charged
CHARGED = (
    sa.select(PAID_FOR).select_from(t.charges).join(t.instances, c.instance_id == i.id).where(c.amount_micros.is_(None))
)

TOKENS_TWICE = sa.select(i.token).group_by(i.token).having(SEVERAL)


def one_machine_per_token(tx: sa.Connection) -> list[str]:
    """Two machines never share a token."""
    return [f"token {token}: more than one machine" for token in tx.scalars(TOKENS_TWICE)]


OPEN_TWICE = CHARGED.where(c.ended_at.is_(None)).group_by(PAID_FOR, c.kind).having(SEVERAL)


def one_open_charge_at_most(tx: sa.Connection) -> list[str]:
    """A machine, or a box of ours, has at most one open charge of a kind."""
    return [f"{paid_for}: more than one open charge" for paid_for in tx.scalars(OPEN_TWICE)]


CHARGED_NOW = CHARGED.where(c.ended_at.is_(None), c.kind == "compute")
LISTED = sa.select(i.id, i.status, PAID_FOR).where(
    i.status.in_(BILLABLE), i.launched_at.is_not(None), i.missing_since.is_(None)
)


def what_costs_is_charged(tx: sa.Connection) -> list[str]:
    """A machine that the provider has listed and that is not over has an open charge, or its box of ours has."""
    charged = set(tx.scalars(CHARGED_NOW))
    return [
        f"{row.id}: {row.status}, and nothing is charged for it"
        for row in tx.execute(LISTED)
        if row.paid_for not in charged
    ]


OVER_AND_OPEN = (
    sa.select(i.id, i.status)
    .join(t.charges, c.instance_id == i.id)
    .where(i.status.in_([*OVER_VALUES, "lost"]), c.ended_at.is_(None), c.amount_micros.is_(None))
)


def what_is_over_costs_nothing(tx: sa.Connection) -> list[str]:
    """A machine that is over has no open charge."""
    return [f"{row.id}: {row.status}, and its charge is still open" for row in tx.execute(OVER_AND_OPEN)]


STRETCHES = CHARGED.add_columns(c.instance_id, c.kind, c.started_at, c.ended_at).order_by(
    PAID_FOR, c.kind, c.started_at, c.id
)


def charges_do_not_overlap(tx: sa.Connection) -> list[str]:
    """The stretches of a machine's charges, or of a box's, follow one another, and none ends before it starts."""
    found: list[str] = []
    ends: dict[tuple[str, str], datetime | None] = {}
    for paid_for, machine, kind, started_at, ended_at in tx.execute(STRETCHES):
        end = ends.get((paid_for, kind), started_at)
        if ended_at is not None and ended_at < started_at:
            found.append(f"{machine}: a charge ends before it starts")
        if end is None or end > started_at:
            found.append(f"{machine}: two {kind} charges overlap at {started_at:%Y-%m-%d %H:%M:%S} UTC")
        ends[paid_for, kind] = ended_at
    return found


FIRST = sa.func.min(c.started_at, type_=t.Moment).label("first")
CHARGED_LATE = (
    sa.select(i.id, i.launched_at, FIRST)
    .join(t.instances, c.instance_id == i.id)
    .where(i.purchase != "owned", c.amount_micros.is_(None), c.kind == "compute")
    .group_by(i.id, i.launched_at)
    .having(i.launched_at != FIRST)
)


def charges_cover_the_life(tx: sa.Connection) -> list[str]:
    """The charges of a rented machine's time are back-dated to its launch."""
    return [
        f"{row.id}: launched at {row.launched_at:%Y-%m-%d %H:%M:%S}, charged since {row.first:%Y-%m-%d %H:%M:%S} UTC"
        for row in tx.execute(CHARGED_LATE)
    ]


OWED_TO_THE_DEAD = (
    sa.select(n.id, n.kind, i.id.label("machine"))
    .join(t.instances, n.instance_id == i.id)
    .where(n.state == "open", i.status.in_(OVER_VALUES))
)


def nothing_open_is_owed_to_the_dead(tx: sa.Connection) -> list[str]:
    """A machine that is over has no open intent."""
    return [
        f"{row.machine}: is over, and its {row.kind} (intent {row.id}) is still open"
        for row in tx.execute(OWED_TO_THE_DEAD)
    ]


DECIDED_TWICE = (
    sa.select(n.kind, n.instance_id).where(n.state == "open").group_by(n.kind, n.instance_id).having(SEVERAL)
)


def one_intent_of_a_kind(tx: sa.Connection) -> list[str]:
    """Nothing is decided twice while it is still under way."""
    return [f"{row.instance_id}: two open intents to {row.kind} it" for row in tx.execute(DECIDED_TWICE)]


DONE_WITH_ITEMS_LEFT = (
    sa.select(j.id, sa.func.count())
    .join(t.items, k.job_id == j.id)
    .where(j.state == "done", k.state.not_in(["done", "failed"]))
    .group_by(j.id)
)


def every_item_once(tx: sa.Connection) -> list[str]:
    """A job that is done has no item left that is neither read nor failed."""
    return [f"job {row[0]}: done, and {row[1]} items have no result" for row in tx.execute(DONE_WITH_ITEMS_LEFT)]


def _counted(state: str) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(sa.case((k.state == state, 1), else_=0)), 0)


MISCOUNTED = (
    sa.select(j.id, j.done, j.failed)
    .outerjoin(t.items, k.job_id == j.id)
    .group_by(j.id, j.done, j.failed)
    .having(sa.or_(_counted("done") != j.done, _counted("failed") != j.failed))
)


def jobs_count_their_items(tx: sa.Connection) -> list[str]:
    """What a job says of its items is what its items say."""
    return [
        f"job {row.id}: counts {row.done} done and {row.failed} failed items, and has others"
        for row in tx.execute(MISCOUNTED)
    ]


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
