"""Many bad days, each from its own seed, on all cores; the answer does not depend on how many there are."""

import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import active_children
from typing import Any

from orchestrator.errors import Refused
from orchestrator.simulation.bad_day import Fault
from orchestrator.simulation.outcome import Outcome, Violation
from orchestrator.simulation.trial import live

#: seeds that a process is handed at once
PORTION = 4


@dataclass(slots=True, kw_only=True)
class Report:
    """What became of all of them."""

    seeds: int = 0
    ticks: int = 0
    launches: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    effects: Counter[str] = field(default_factory=Counter)  # before or after which a daemon died
    tried: Counter[str] = field(default_factory=Counter)  # how often what holds only under conditions was looked at
    violations: list[Violation] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.ticks += outcome.ticks
        self.launches += outcome.launches
        self.faults += outcome.faults
        self.effects += outcome.effects
        self.tried += outcome.tried
        if outcome.violation is not None:
            self.violations.append(outcome.violation)

    def to_json(self) -> dict[str, Any]:
        """The shape of DESIGN §7."""
        return {
            "seeds": self.seeds,
            "ticks": self.ticks,
            "launches": self.launches,
            "faults": dict(sorted(self.faults.items())),
            "violations": [
                {"seed": one.seed, "tick": one.tick, "invariant": one.invariant, "story": one.story}
                for one in self.violations
            ],
        }


def run(
    first: int,
    count: int,
    faults: frozenset[Fault],
    *,
    cores: int | None = None,
    each: Callable[[], object] = lambda: None,
) -> Report:
    """Live through the days of `count` seeds from `first` on; `each` is called after every one of them.

    Raises Refused for a number of seeds that is none.
    """
    if count < 1:
        raise Refused(f"--seeds {count}: want 1 or more")
    report = Report()
    for outcome in _outcomes(range(first, first + count), faults, cores or os.cpu_count() or 1):
        report.add(outcome)
        each()
    return report


def _outcomes(seeds: range, faults: frozenset[Fault], cores: int) -> Iterator[Outcome]:
    if cores == 1 or len(seeds) <= PORTION:
        yield from map(partial(_lived, faults=faults), seeds)
        return
    portions = [seeds[start : start + PORTION] for start in range(0, len(seeds), PORTION)]
    with ProcessPoolExecutor(cores, initializer=_leave_ctrl_c_to_the_first) as processes:
        coming = deque(processes.submit(_all_lived, portion, faults) for portion in portions)
        try:
            while coming:
                yield from coming.popleft().result()
        except BaseException:  # nobody waits any more for days that are under way or laid out
            for process in active_children():
                process.terminate()
            raise


def _leave_ctrl_c_to_the_first() -> None:
    """A terminal sends it to all of its processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _all_lived(seeds: range, faults: frozenset[Fault]) -> list[Outcome]:
    return [_lived(seed, faults) for seed in seeds]


def _lived(seed: int, faults: frozenset[Fault]) -> Outcome:
    """One day; if it breaks an invariant, it is lived once more to tell how it came to that."""
    outcome, _ = live(seed, faults)
    if outcome.violation is not None:
        again, chronicle = live(seed, faults, tell=True)
        found = again.violation or outcome.violation
        outcome.violation = replace(found, story=chronicle.text())
    return outcome


def story(seed: int, faults: frozenset[Fault]) -> tuple[str, Violation | None]:
    """A day in words, and what broke in it."""
    outcome, chronicle = live(seed, faults, tell=True)
    return chronicle.text(), outcome.violation
