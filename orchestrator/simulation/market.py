"""A synthetic world for a month: when spot machines are taken back, and how many images are asked for.

Everything follows from a seed. Nothing here was measured: the report of a simulated month says so.
"""

import math
import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from orchestrator.providers.simulated import Outage

#: spells without spot capacity are heavy-tailed: median and spread of a log-normal, in hours
OUTAGE_MEDIAN_HOURS = 0.5
OUTAGE_SIGMA = 1.0
#: share of the day's peak at each local hour of a working day: a slow morning, a lunch dip, an early end
WORKING_DAY = (
    0.02, 0.02, 0.02, 0.02, 0.02, 0.03, 0.08, 0.25, 0.60, 0.90, 1.00, 0.85,
    0.55, 0.75, 0.95, 1.00, 0.90, 0.70, 0.45, 0.30, 0.15, 0.08, 0.04, 0.03,
)  # fmt: skip
WEEKEND = 0.25


def outages(
    zones: Sequence[str], preemptions_per_day: float, start: datetime, end: datetime, seed: int
) -> tuple[Outage, ...]:
    """Spells without spot capacity in [start, end): a Poisson process of starts in each zone, log-normal lengths."""
    if preemptions_per_day <= 0:
        return ()
    found: list[Outage] = []
    for zone in zones:
        chance = random.Random(f"{seed}/{zone}")
        at = start
        while True:
            at += timedelta(days=chance.expovariate(preemptions_per_day))
            if at >= end:
                break
            hours = chance.lognormvariate(math.log(OUTAGE_MEDIAN_HOURS), OUTAGE_SIGMA)
            over = at + timedelta(hours=hours)
            found.append(Outage(zone=zone, start=at, end=over))
            at = over
    return tuple(sorted(found, key=lambda outage: outage.start))


def working_day(peak_images_per_second: float, zone: ZoneInfo, seed: int) -> Callable[[datetime], int]:
    """Images asked for in the minute that starts at a moment: Poisson around a working day, fewer at weekends."""

    def images(minute: datetime) -> int:
        local = minute.astimezone(zone)
        share = WORKING_DAY[local.hour] * (WEEKEND if local.weekday() >= 5 else 1.0)
        return _poisson(peak_images_per_second * 60 * share, random.Random(f"{seed}/{minute.timestamp():.0f}"))

    return images


def _poisson(mean: float, chance: random.Random) -> int:
    """Knuth's product of uniforms for small means, the normal approximation from 30 on."""
    if mean >= 30:
        return max(0, round(chance.gauss(mean, math.sqrt(mean))))
    count, product, limit = 0, chance.random(), math.exp(-mean)
    while product > limit:
        count += 1
        product *= chance.random()
    return count
