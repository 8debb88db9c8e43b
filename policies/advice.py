"""Fleets to choose from as values: what they are to carry, what they keep to, the one to have and the next best."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from policies.program import Limits
from policies.snapshot import Offer, Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """One class of requests, images of like size: how many a second, and how fast each GPU was measured on them."""

    name: str
    images_per_second: float
    profiles: tuple[Profile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a fleet has to keep to besides its demand. Money is compared in `currency`, as `selection.rank` does."""

    model: str
    p95_ms: float | None = None
    limits: Limits = field(default_factory=Limits)
    try_unmeasured: bool = False
    currency: str = ""
    rates: Mapping[str, Fraction] = field(default_factory=dict)
    #: by offer id: what one more hour costs of a machine that is paid for anyway, its electricity
    marginal_micros: Mapping[str, int] = field(default_factory=dict)
    start_seconds: float = 0.0  # a machine is paid for so long before it serves
    keep_seconds: float = 3600.0  # how long the answer will stand: what a start costs is spread over it


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """So many machines of one offer, and the images a second of each class that they are meant to read."""

    offer: Offer
    count: int
    images_per_second: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """A fleet. `hourly_micros` is what it is billed, None when a price is unknown; `cost_micros` what was minimised."""

    parts: tuple[Part, ...]
    hourly_micros: int | None
    cost_micros: int
    reason: str

    @property
    def main(self) -> Part | None:
        """The part that carries most; None for an empty fleet."""
        return max(self.parts, key=lambda part: (sum(part.images_per_second.values()), part.count), default=None)

    def __str__(self) -> str:
        named = [f"{p.count} x {p.offer.gpu} ({p.offer.provider}, {p.offer.purchase})" for p in self.parts]
        return " + ".join(named) or "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The fleet to have, the best one without its main GPU and terms, and why; without a winner, what is missing."""

    winner: Mix | None
    runner_up: Mix | None
    reason: str
