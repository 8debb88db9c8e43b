"""Several specs lived through the same month, side by side: a schedule, a GPU or spot, compared before it is bought."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import prices, spec
from orchestrator.ledger.store import open_file
from orchestrator.reports.month import of_ledger
from orchestrator.simulation.month import NOTHING, Recorded, calendar_month, local_month, simulate, working_day

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Lived:
    """What a month under one spec came to."""

    spec: str
    cost_micros: int | None  # None: a price is unknown
    currency: str
    hours: float  # of machines
    images: int
    refused: int
    preemptions: int
    cost_per_1000_micros: int | None


def compare(
    paths: Sequence[Path],
    month: str,
    seed: int,
    recorded: Recorded = NOTHING,
    each: Callable[[timedelta], object] = lambda lived: None,
) -> tuple[Lived, ...]:
    """Live through the month under each spec, in their order, with the same market and the same load.

    Without a recorded load it is that of the first spec's working day. `each` is told again and again how much time was
    lived through, under all specs together. Raises Refused for a spec or a month that is none.
    """
    first = spec.load(paths[0])
    if recorded.images is None:
        recorded = replace(recorded, images=working_day(first, local_month(first, month)[0], seed))
    first_day, following = calendar_month(month)
    whole = following - first_day
    return tuple(_lived(path, month, seed, recorded, _after(place * whole, each)) for place, path in enumerate(paths))


def _after(before: timedelta, each: Callable[[timedelta], object]) -> Callable[[timedelta], object]:
    return lambda lived: each(before + lived)


def to_json(compared: Sequence[Lived]) -> list[dict[str, Any]]:
    """The objects of `halve simulate --compare --json`."""
    return [asdict(one) for one in compared]


def table(compared: Sequence[Lived]) -> "Table":
    """A row for each spec; by how much each is dearer than the first, where they speak one currency."""
    from orchestrator.reports import figures

    currencies = {one.currency for one in compared}
    only = currencies.pop() if len(currencies) == 1 else ""
    found = figures.table(
        *("spec", f"cost {only}".strip(), "", "hours", "images", "refused", "lost", "per 1,000"), title=""
    )
    names = [Path(one.spec).stem for one in compared]
    for name, one in zip(names, compared, strict=True):
        asked = one.images + one.refused
        code = "" if only else f" {one.currency}"
        found.add_row(
            name if names.count(name) == 1 else one.spec,
            figures.money(one.cost_micros) + code,
            _beside(one, compared[0]) if one is not compared[0] else "",
            f"{one.hours:,.1f}",
            figures.count(one.images),
            f"{one.refused / asked:.2%}" if asked else "-",
            figures.count(one.preemptions),
            figures.money(one.cost_per_1000_micros, 4),
        )
    return found


def _beside(one: Lived, first: Lived) -> str:
    if one.cost_micros is None or not first.cost_micros or one.currency != first.currency:
        return ""
    return f"{round(Fraction(100 * (one.cost_micros - first.cost_micros), first.cost_micros)):+d}%"


def _lived(path: Path, month: str, seed: int, recorded: Recorded, each: Callable[[timedelta], object]) -> Lived:
    wanted = spec.load(path)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "month.db"
        found = simulate(wanted, path.read_text(encoding="utf-8"), str(path), month, file, seed, recorded, each)
        ledger = open_file(file)
        try:
            prices.seed(ledger)
            report = of_ledger(ledger, month, local_month(wanted, month)[1])
        finally:
            ledger.close()
    unknown = report.unknown_hours or report.unconverted or report.total_micros is None
    cost = None if unknown else report.total_micros
    return Lived(
        spec=str(path),
        cost_micros=cost,
        currency=report.currency,
        hours=float(sum((row.hours for row in report.rows), Fraction(0))),
        images=found.images,
        refused=found.refused,
        preemptions=found.preemptions,
        cost_per_1000_micros=round(Fraction(cost * 1000, found.images)) if cost is not None and found.images else None,
    )
