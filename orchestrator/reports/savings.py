"""What was saved against a stated baseline, split by cause. Each cause is counted once; the parts add up exactly."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor

from orchestrator.billing import MICROSECONDS_PER_HOUR
from orchestrator.ledger.tallies import Tally
from orchestrator.reports.prices import ListPrices, PriceLine, list_cost
from orchestrator.reports.words import Said
from policies.snapshot import Purchase
from policies.windows import Span

#: from this share of its machines' hours on, a deployment was busy: a faster GPU would have needed fewer hours
BUSY_SHARE = Fraction(1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What would have been paid otherwise: so many of these, always or while open."""

    gpu: str
    purchase: Purchase
    replicas: int
    always_on: bool
    price_per_hour_micros: int | None = None  # as the spec states it; None: the price table's
    currency: str = ""

    def said(self) -> Said:
        """In words."""
        hours = "always on" if self.always_on else "while open"
        terms = self.purchase.value.replace("_", "-")
        return Said(
            "{replicas} x {gpu} {terms}, {hours}", replicas=self.replicas, gpu=self.gpu, terms=terms, hours=hours
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """How busy the machines were: images, and the seconds that these take here and on the baseline's GPU."""

    images: int
    seconds: Fraction | None  # None: the speed of one of our GPUs is not known
    baseline_seconds: Fraction | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Savings:
    """baseline_micros - window - scaling - gpu - spot = actual_micros, to the micro-unit."""

    baseline_micros: int
    window_micros: int
    scaling_micros: int
    gpu_micros: int
    spot_micros: int
    actual_micros: int
    basis: str  # same hours | same images: what the GPU choice was measured by

    def __add__(self, other: "Savings") -> "Savings":
        return Savings(
            baseline_micros=self.baseline_micros + other.baseline_micros,
            window_micros=self.window_micros + other.window_micros,
            scaling_micros=self.scaling_micros + other.scaling_micros,
            gpu_micros=self.gpu_micros + other.gpu_micros,
            spot_micros=self.spot_micros + other.spot_micros,
            actual_micros=self.actual_micros + other.actual_micros,
            basis=self.basis if self.basis == other.basis else "mixed",
        )


def waterfall(
    charged: Sequence[Tally],
    period: Span,
    opening: Sequence[Span],
    baseline: Baseline,
    baseline_price: PriceLine,
    on_demand: ListPrices,
    work: Work,
) -> Savings | None:
    """Walk from the baseline's cost to what was paid, changing one thing at a time. None when a price paid is unknown.

    With p the baseline's hourly price, n its replicas:

    1. baseline   n x p over the whole period (over the open hours, if it is not always on)
    2. windows    n x p over the open hours
    3. scaling    p x the hours that our machines really ran (same hours); or, where they were busy for half of that
                  time or more, p x the hours that the baseline's GPU needs for the same images at its measured speed
                  (same images), for a busy fast GPU is paid for fewer hours
    4. GPU        our machines' own hours at their on-demand price
    5. spot       what was paid

    `window`, `scaling`, `gpu` and `spot` are the differences of neighbouring lines; one may be negative (pre-warming
    runs outside the open hours and so counts against scaling). Every line is rounded down once. What is no machine
    time (disks, addresses) is in every line alike, and saves nothing. `period` and `opening` are clipped to each other
    by the caller, and `charged` is cut wherever a price here moves; `on_demand` is by (provider, GPU), for spot
    machines: one that is missing makes spot's share 0 and leaves it with the GPU's.
    """
    amounts = [one.micros for one in charged if one.micros is not None]
    if len(amounts) < len(charged):
        return None
    beside = sum(one.micros or 0 for one in charged if one.kind != "compute")
    ran = [one for one in charged if one.is_machine_time]

    open_cost = baseline.replicas * sum((baseline_price.cost(s.opens_at, s.closes_at) for s in opening), Fraction(0))
    always_cost = baseline.replicas * baseline_price.cost(period.opens_at, period.closes_at)
    used_cost = baseline_price.fraction(sum(baseline_price.at(one.starts_at) * one.elapsed for one in ran))
    used_hours = Fraction(sum(one.elapsed for one in ran), MICROSECONDS_PER_HOUR)
    needed_cost, basis = _needed(used_cost, used_hours, work)

    lines = [always_cost if baseline.always_on else open_cost, open_cost, needed_cost]
    first, windowed, scaled = (floor(line) + beside for line in lines)
    listed = floor(list_cost(charged, on_demand))
    actual = sum(amounts)
    return Savings(
        baseline_micros=first,
        window_micros=first - windowed,
        scaling_micros=windowed - scaled,
        gpu_micros=scaled - listed,
        spot_micros=listed - actual,
        actual_micros=actual,
        basis=basis,
    )


def _needed(used_cost: Fraction, used_hours: Fraction, work: Work) -> tuple[Fraction, str]:
    if not used_hours or work.seconds is None or work.baseline_seconds is None:
        return used_cost, "same hours"
    if work.seconds < BUSY_SHARE * used_hours * 3600:
        return used_cost, "same hours"
    # at the mean of the baseline's price over the hours that we ran
    return used_cost / used_hours * work.baseline_seconds / 3600, "same images"
