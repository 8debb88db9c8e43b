"""Batch work under a deadline as values: the job, the market it runs on, and one step of it."""

from dataclasses import dataclass

#: What runs, or should: these, or the index of the market's zone whose spot machine it is.
IDLE = -2
ON_DEMAND = -1

#: A step that holds this many ticks holds to the end of any job.
FOREVER = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """A source of spot machines; `up` says whether one can be had, or kept, in the coming tick."""

    name: str
    price: float
    up: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """Prices per hour, in one currency, and what can be had in the coming tick. Whole ticks are billed."""

    tick_seconds: int
    on_demand_price: float
    zones: tuple[Zone, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The work and where it stands. In seconds; `overhead_left_seconds` is what the running machine needs to start."""

    work_seconds: int
    deadline_seconds: int
    overhead_seconds: int
    elapsed_seconds: int = 0
    done_seconds: int = 0
    running: int = IDLE
    overhead_left_seconds: int = 0

    @property
    def work_left_seconds(self) -> int:
        return self.work_seconds - self.done_seconds

    @property
    def left_seconds(self) -> int:
        return self.deadline_seconds - self.elapsed_seconds

    @property
    def slack_seconds(self) -> int:
        """How long the job could pause if what runs now ran to the end undisturbed."""
        return self.left_seconds - self.work_left_seconds - self.overhead_left_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What to run in the coming tick, and why. The answer holds for `hold_ticks` ticks while no zone changes."""

    run: int
    reason: str
    hold_ticks: int = 1
