"""What becomes of a bad day."""

from collections import Counter
from dataclasses import dataclass, field


class Broken(Exception):
    """An invariant does not hold."""

    def __init__(self, invariant: str, words: str) -> None:
        super().__init__(f"{invariant}: {words}")
        self.invariant = invariant


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """Where a day broke an invariant, and how it came to that."""

    seed: int
    tick: int
    invariant: str
    story: str


@dataclass(slots=True, kw_only=True)
class Outcome:
    """How a day went."""

    seed: int
    ticks: int = 0
    launches: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    effects: Counter[str] = field(default_factory=Counter)  # at which it crashed
    #: how often an invariant that is asked only under conditions found them: one that never did says nothing
    tried: Counter[str] = field(default_factory=Counter)
    violation: Violation | None = None
