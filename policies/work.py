"""What a batch has to read until its deadline, in machine time, with the margins that make a promise of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from policies.deadline import earliest_deadline_seconds
from policies.selection import Ranked
from policies.snapshot import Purchase

#: between two decisions, unless something happens
TICK_SECONDS = 60
#: share of the measured throughput that is counted on, and how much longer than usual a start may take
PACE = 0.9
LATE_START = 1.5
#: the fewest machines are taken that need at most this share of the time
TIME_USED = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be read, in how many open seconds from now, by at most so many machines of this speed."""

    key: str  # what and until when: another one is another job
    items: int
    seconds: float
    most: int
    images_per_second: float
    start_seconds: float

    @property
    def overhead_seconds(self) -> int:
        return overhead_seconds(self.start_seconds)

    def each_seconds(self, machines: int) -> int:
        """Seconds of reading for each of so many machines."""
        return math.ceil(self.items / (PACE * self.images_per_second * machines))

    def earliest_seconds(self, machines: int) -> int:
        """The shortest time in which so many machines are certain to be done."""
        return earliest_deadline_seconds(self.each_seconds(machines), self.overhead_seconds, TICK_SECONDS)

    def machines(self) -> int:
        """How many are enough, with some time to spare."""
        enough = (n for n in range(1, self.most) if self.earliest_seconds(n) <= TIME_USED * self.seconds)
        return next(enough, self.most)


def overhead_seconds(start_seconds: float) -> int:
    """What one start may cost, with its margins."""
    return math.ceil(LATE_START * start_seconds) + TICK_SECONDS


def speed_of(ranked: Sequence[Ranked]) -> float | None:
    """Images a second that each is counted with: the slower of the first spot machine and the first other one.

    None: neither is measured.
    """
    measured = [(row.offer.purchase is Purchase.SPOT, row.profile) for row in ranked if row.profile is not None]
    firsts = (next((profile for spot, profile in measured if spot is wanted), None) for wanted in (True, False))
    speeds = (profile.images_per_second for profile in firsts if profile is not None)
    return min((images for images in speeds if images is not None), default=None)
