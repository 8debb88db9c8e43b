"""What charges come to between moments, kind by kind. What begins and ends between two of them is summed where it
lies, for a month may hold a million charges; what lives through one is cut there, row by row.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from orchestrator.billing import MICROSECONDS_PER_HOUR
from orchestrator.ledger import reporting
from orchestrator.ledger import tables as t
from orchestrator.ledger.sums import accrued
from policies.snapshot import Purchase

#: price x numerator of its rate, up to which no product of `accrued` leaves 64 bits
MOST = 9 * 10**12
#: a rate with a larger numerator or denominator is reckoned with row by row
MOST_DETAIL = 10**6

#: what one unit of each currency is worth in the reader's
Rates = Mapping[str, Fraction | int]


class Tally(NamedTuple):
    """The charges of one kind between two neighbouring moments: what they came to, and for how long they ran."""

    deployment: str
    provider: str
    gpu: str
    purchase: Purchase
    kind: str  # compute | disk | address
    currency: str
    correction: bool  # booked at moments, and so without time
    starts_at: datetime  # the first moment at which one of them ran
    ends_at: datetime
    elapsed: int  # microseconds of all of them
    micros: int | None  # what is due, in the reader's currency; None: the price is unknown, or no rate converts it
    foreign_micros: int | None  # what is due in their own currency, where no rate converts it

    @property
    def is_machine_time(self) -> bool:
        """Whether its time counts as hours: disks and addresses cost beside a machine, a correction takes no time."""
        return self.kind == "compute" and not self.correction


#: deployment, provider, GPU, purchase, kind, currency, whether it is a correction, whether its price is unknown
_Kind = tuple[str, str, str, str, str, str, bool, bool]


class _Row(NamedTuple):
    """A charge as the ledger has it: moments in microseconds since EPOCH."""

    of: _Kind
    started_at: int
    ended_at: int | None
    amount: int | None  # of a correction, in the reader's currency
    price: int  # in the reader's currency, times what makes it whole
    hour: int  # microseconds, times the same

    def between(self, start: int, end: int) -> "_Sum":
        """The part of it in [start, end): what has accrued by its end, less what had by its start."""
        begun, amount, price, hour = self.started_at, self.amount, self.price, self.hour
        if amount is not None:
            return amount, 0, begun, begun
        last = end if self.ended_at is None or self.ended_at > end else self.ended_at
        due = price * (last - begun) // hour
        if begun >= start:
            return due, last - begun, begun, last
        return due - price * (start - begun) // hour, last - start, start, last


#: micro-units, microseconds, the first moment and the last
_Sum = tuple[int, int, int, int]


def tallies(
    tx: sa.Connection, moments: Iterable[datetime], rates: Rates, deployment: str | None = None
) -> tuple[Tally, ...]:
    """What was charged between neighbouring moments, in their order, of all deployments or of one.

    A charge that is still open runs until the last moment. Each is rounded down by its own start, however it is cut:
    the parts add up to the whole, and are what `billing.between` makes of them. Held in memory are the charges that run
    at one moment, and no more.
    """
    found: list[Tally] = []
    edges = sorted(set(moments))
    summed, apart = _summed(_detailed(rates), deployment is not None), _apart(_detailed(rates), deployment is not None)
    running = _running(tx, edges[0], rates, deployment) if edges else []
    sums: dict[_Kind, _Sum] = {}
    for start, end, following in zip(edges, edges[1:], [*edges[2:], *edges[-1:]], strict=False):
        asked = {"start": start, "end": end, "next": following, "deployment": deployment}
        since, until = reporting.microseconds(start), reporting.microseconds(end)
        later: dict[_Kind, _Sum] = {}
        for *named, unknown, whole_micros, whole, over_micros, over, first, last in tx.execute(summed, asked):
            of = *named, False, bool(unknown)
            figures = whole_micros, whole, over_micros, over  # PostgreSQL sums integers to decimals
            micros, elapsed, beyond, longer = (int(figure or 0) for figure in figures)
            _add(sums, of, (micros - beyond, elapsed - longer, first, min(last, until)))
            if last > until:
                later[of] = beyond, longer, until, last
        running += [_row(row, rates) for row in tx.execute(apart, asked)]
        for one in running:
            _add(sums, one.of, one.between(since, until))
        found += [_tally(of, total, rates) for of, total in sorted(sums.items())]
        running = [one for one in running if one.amount is None and (one.ended_at is None or one.ended_at > until)]
        sums = later
    return tuple(found)


def _add(sums: dict[_Kind, _Sum], of: _Kind, part: _Sum) -> None:
    known = sums.get(of)
    sums[of] = part if known is None else _added(known, part)


def _added(one: _Sum, other: _Sum) -> _Sum:
    return one[0] + other[0], one[1] + other[1], min(one[2], other[2]), max(one[3], other[3])


def _running(tx: sa.Connection, at: datetime, rates: Rates, deployment: str | None) -> list[_Row]:
    names = reporting.deployed(tx) if deployment is None else [deployment]
    statement = _before(reporting.is_early(tx, at))
    return [_row(row, rates) for row in tx.execute(statement, {"names": names, "start": at})]


def _row(row: sa.Row[*tuple[Any, ...]], rates: Rates) -> _Row:
    *of, started, ended, price, amount = row
    rate = rates.get(of[5], 1)
    if amount is not None:
        return _Row((*of, True, False), started, None, amount * rate.numerator // rate.denominator, 0, 1)
    kind = *of, False, price is None
    return _Row(kind, started, ended, None, (price or 0) * rate.numerator, rate.denominator * MICROSECONDS_PER_HOUR)


def _tally(of: _Kind, summed: _Sum, rates: Rates) -> Tally:
    deployment, provider, gpu, purchase, kind, currency, correction, unknown = of
    micros, elapsed, first, last = summed
    converts = not currency or currency in rates
    return Tally(
        deployment=deployment,
        provider=provider,
        gpu=gpu,
        purchase=Purchase(purchase),
        kind=kind,
        currency=currency,
        correction=correction,
        starts_at=t.EPOCH + timedelta(microseconds=first),
        ends_at=t.EPOCH + timedelta(microseconds=last),
        elapsed=elapsed,
        micros=micros if converts and not unknown else None,
        foreign_micros=micros if not converts and not unknown else None,
    )


#: (currency, numerator, denominator) of the rates that are not 1
Detailed = tuple[tuple[str, int, int], ...]


def _detailed(rates: Rates) -> Detailed:
    return tuple(sorted((code, rate.numerator, rate.denominator) for code, rate in rates.items() if rate != 1))


c, i = t.charges.c, t.instances.c
STARTED, ENDED = (sa.type_coerce(moment, sa.BigInteger) for moment in (c.started_at, c.ended_at))
START, END, NEXT = (sa.bindparam(name, type_=t.Moment) for name in ("start", "end", "next"))
ROWS = sa.select(
    *(i.deployment, i.provider, i.gpu, i.purchase, c.kind, c.currency),
    *(STARTED, ENDED, c.price_per_hour_micros, c.amount_micros),
).join(t.instances, c.instance_id == i.id)


@lru_cache
def _before(early: bool) -> sa.CompoundSelect[Any]:
    return sa.union_all(*reporting.running_at(ROWS, early))


@lru_cache
def _summed(rates: Detailed, of_one: bool) -> sa.Select[Any]:
    """The sums of what begins in [start, end) and ends before `next`; and of that, what lies beyond `end`.

    First by machine, and only then by kind: there are fewer machines than charges.
    """
    unknown = c.price_per_hour_micros.is_(None).label("unknown")

    def due(elapsed: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
        return accrued(c.price_per_hour_micros, elapsed, _by_currency(rates, 1), _by_currency(rates, 2))

    def beyond(amount: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
        return sa.case((ENDED > END, amount), else_=0)

    whole, here = ENDED - STARTED, sa.type_coerce(END, sa.BigInteger) - STARTED
    figures = due(whole), whole, beyond(due(whole) - due(here)), beyond(whole - here)
    sums = [sa.func.sum(figure, type_=sa.BigInteger).label(f"sum_{place}") for place, figure in enumerate(figures)]
    ends = sa.func.min(STARTED).label("first"), sa.func.max(ENDED).label("last")
    machine = c.instance_id, c.kind, c.currency, unknown
    by_machine = (
        sa.select(*machine, *sums, *ends).where(*_begun(of_one), _summable(rates)).group_by(*machine).subquery()
    )
    m = by_machine.c
    of = i.deployment, i.provider, i.gpu, i.purchase, m.kind, m.currency, m.unknown
    added = [sa.func.sum(m[one.name], type_=sa.BigInteger) for one in sums]
    query = sa.select(*of, *added, sa.func.min(m.first), sa.func.max(m.last))
    return query.join(t.instances, m.instance_id == i.id).group_by(*of)


@lru_cache
def _apart(rates: Detailed, of_one: bool) -> sa.Select[Any]:
    """The rest of what begins in [start, end): corrections, what runs for long, what the sum would be wrong of."""
    charged = sa.and_(c.amount_micros.is_(None), sa.or_(ENDED > STARTED, ENDED.is_(None)))
    rest = sa.and_(charged, sa.not_(sa.func.coalesce(_summable(rates), sa.false())))
    return ROWS.where(*_begun(of_one), sa.or_(c.amount_micros.is_not(None), rest))


def _begun(of_one: bool) -> tuple[sa.ColumnElement[bool], ...]:
    within = c.started_at >= START, c.started_at < END
    return (*within, c.deployment == sa.bindparam("deployment")) if of_one else within


def _summable(rates: Detailed) -> sa.ColumnElement[bool]:
    """Whether a charge ends before `next` and is within the bounds of the sum's arithmetic."""
    bounds = {
        code: MOST // numerator if max(numerator, denominator) <= MOST_DETAIL else -1
        for code, numerator, denominator in rates
    }
    most = sa.case(bounds, value=c.currency, else_=MOST) if bounds else MOST
    price = c.price_per_hour_micros
    ended = sa.and_(ENDED + 0 <= NEXT, ENDED > STARTED)  # by no index: that of the beginnings leaves fewer
    return sa.and_(c.amount_micros.is_(None), ended, sa.or_(price.is_(None), price <= most))


def _by_currency(rates: Detailed, place: int) -> sa.ColumnElement[int] | None:
    """A rate's numerator (1) or denominator (2); None where all are 1. One of too much detail is not summed by it."""
    parts = {one[0]: one[place] if max(one[1:]) <= MOST_DETAIL else 1 for one in rates}
    if all(part == 1 for part in parts.values()):
        return None
    return sa.case(parts, value=c.currency, else_=1)
