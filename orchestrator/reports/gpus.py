"""The comparison that `halve gpus` prints: every GPU with a price or a speed, and which one is chosen and why."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.ledger import offers
from orchestrator.ledger.quotes import OF_PROVIDER
from orchestrator.ledger.store import Ledger, is_simulated
from orchestrator.reports.figures import UNKNOWN, money
from policies.selection import Ranked, rank
from policies.snapshot import Offer, Profile, Purchase
from policies.throughput import gpu_key, of_size

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One row a GPU, its best offer; the first is the chosen one if it is eligible."""

    model: str
    latency_seconds: float | None
    rows: tuple[Ranked, ...]
    sources: dict[str, str]  # offer id -> where its price is from
    measured_models: tuple[str, ...]

    @property
    def chosen(self) -> Ranked | None:
        return self.rows[0] if self.rows and self.rows[0].eligible else None


def compare(
    ledger: Ledger, model: str, latency_seconds: float | None = None, *, spot: bool = False, size: str = ""
) -> Comparison:
    """Rank all GPUs of the ledger for `model`: published lists, providers' offers, and what was measured here.

    With a `size` (small, middle, large) the speed on such images counts, where it was measured.
    """
    with ledger.read() as tx:
        simulated = is_simulated(tx)
        found = tuple(one for one in offers.profiles(tx, model) if simulated or one.source != "simulated")
        profiles = of_size(found, size)
        known = offers.known(tx, [offers.MARKET]) + offers.known(tx)
        listed = [offer for offer in known if simulated or offer.provider != "simulated"]
        sources = offers.sources(tx, [offer.id for offer in listed])
        measured_models = offers.models(tx)
    comparable = [offer for offer in listed if spot or offer.purchase is not Purchase.SPOT]
    candidates = comparable + _here(profiles, comparable)
    bound = None if latency_seconds is None else latency_seconds * 1000
    best: dict[str, Ranked] = {}
    for row in rank(candidates, profiles, model, bound, currency=_currency(candidates, profiles)):
        best.setdefault(gpu_key(row.offer.gpu), row)
    return Comparison(
        model=model,
        latency_seconds=latency_seconds,
        rows=tuple(best.values()),
        sources=sources,
        measured_models=measured_models,
    )


def to_json(comparison: Comparison) -> list[dict[str, Any]]:
    """The rows of `halve gpus --json`; null is unknown."""
    return [
        {
            "gpu": row.offer.gpu,
            "provider": row.offer.provider,
            "purchase": str(row.offer.purchase),
            "price_per_hour_micros": row.offer.price_per_hour_micros,
            "currency": row.offer.currency or None,
            "images_per_second": row.profile.images_per_second if row.profile else None,
            "p95_ms": row.profile.p95_ms if row.profile else None,
            "cost_per_1000_micros": row.cost_per_1000_micros,
            "source": _source(comparison, row),
            "chosen": row is comparison.chosen,
            "reason": row.reason,
        }
        for row in comparison.rows
    ]


def show(comparison: Comparison, console: "Console") -> None:
    """Print the table and, below it, the choice in a sentence."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    currencies = {row.offer.currency for row in comparison.rows if row.offer.currency}
    only = currencies.pop() if len(currencies) == 1 else ""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("")
    table.add_column("GPU", min_width=10, max_width=20)
    for heading in (f"{only}/h" if only else "per hour", "images/s", "p95", "per 1,000"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("source", no_wrap=True)
    table.add_column("why", min_width=19)
    for row in comparison.rows:
        speed, p95 = (row.profile.images_per_second, row.profile.p95_ms) if row.profile else (None, None)
        currency = "" if only else row.offer.currency
        table.add_row(
            "→" if row is comparison.chosen else "",
            Text(row.offer.gpu),
            f"{money(row.offer.price_per_hour_micros)} {currency}".strip(),
            UNKNOWN if speed is None else f"{speed:.2f}",
            UNKNOWN if p95 is None else f"{p95 / 1000:.3g} s",
            money(row.cost_per_1000_micros, 4),
            _source(comparison, row) or "",
            Text(row.reason),
            style="bold" if row is comparison.chosen else "",
        )
    console.print(table)
    console.print(_sentence(comparison), soft_wrap=False, highlight=False, markup=False)


def _here(profiles: tuple[Profile, ...], listed: list[Offer]) -> list[Offer]:
    """A GPU that was measured here, and that nobody lists, is this machine's own; what it costs is not known."""
    known = {gpu_key(offer.gpu) for offer in listed}
    found = {gpu_key(p.gpu): p.gpu for p in profiles if p.source == "bench" and gpu_key(p.gpu) not in known}
    return [
        Offer(id=f"here/{gpu}", provider="local", zone="", instance_type="", gpu=gpu, purchase=Purchase.OWNED)
        for gpu in found.values()
    ]


def _currency(candidates: list[Offer], profiles: tuple[Profile, ...]) -> str:
    """What most prices are in, of those GPUs whose speed is known if there are any; "" when no price is known."""
    fast = {gpu_key(one.gpu) for one in profiles}
    priced = [offer for offer in candidates if offer.price_per_hour_micros is not None]
    counted = [offer for offer in priced if gpu_key(offer.gpu) in fast] or priced
    return next((code for code, _ in Counter(offer.currency for offer in counted).most_common(1)), "")


def _source(comparison: Comparison, row: Ranked) -> str | None:
    """Where the row's speed is from; for want of one, where its price is from."""
    if row.profile:
        return row.profile.source
    source = comparison.sources.get(row.offer.id)
    return row.offer.provider if source == OF_PROVIDER else source


def _sentence(comparison: Comparison) -> str:
    promise = "" if comparison.latency_seconds is None else f" within {comparison.latency_seconds:g} s"
    if comparison.chosen is not None:
        return f"{comparison.model}{promise}: {comparison.chosen.offer.gpu}, {comparison.chosen.reason}."
    if comparison.model not in comparison.measured_models:
        known = ", ".join(comparison.measured_models)
        return (
            f"{comparison.model}: no speed is known, so nothing is chosen. Measured models: {known}. "
            "`halve bench --record` measures this machine."
        )
    return f"{comparison.model}{promise}: no GPU of known price and speed keeps this, so nothing is chosen."
