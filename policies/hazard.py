"""What a zone's past says about its future: how likely a spot machine is lost, or comes back, at each age.

Spells of availability are heavy-tailed: what has lasted, lasts. So the hazard (events per hour) is learned by age
bucket, old evidence fades, and where a zone has little past it is taken to be like other zones. A `Belief` is plain
numbers: it lives in the ledger between jobs, and observing ten minutes at once or minute by minute gives the same
belief.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

#: Lower edges of the age buckets, in hours; the last is open.
AGES_HOURS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
#: Events per hour by age in the pooled public traces (see COMMON below for how much they count).
COMMON_LOSSES = (0.22, 2.45, 1.37, 0.74, 0.44, 0.25, 0.17, 0.13, 0.05)
COMMON_RETURNS = (0.34, 3.25, 1.43, 0.81, 0.46, 0.29, 0.25, 0.14, 0.05)
#: How many events of its own a zone must show before its level, and its shape, count as much as the common ones.
LEVEL_EVENTS = 10.0
SHAPE_EVENTS = 20.0
#: Log odds, while nothing was seen, that a zone's hazards fall with age as the common ones do, and are not the same at
#: every age.
SHAPE_LOG_ODDS = 10.0
HALF_LIFE_HOURS = 7 * 24.0
#: Hazards are drawn from the counts this often, so that a plan holds for a while.
REVIEW_HOURS = 12.0

Buckets = tuple[float, ...]
_NONE: Buckets = (0.0,) * len(AGES_HOURS)
_FADE = math.log(2) / HALF_LIFE_HOURS


@dataclass(frozen=True, slots=True, kw_only=True)
class Hazards:
    """Events per hour by age bucket: `losses` of a machine that can be had, `returns` of one that cannot."""

    losses: Buckets = COMMON_LOSSES
    returns: Buckets = COMMON_RETURNS


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneBelief:
    """One zone: its state now (`up`, None before anything is seen), since how long, and faded counts by age bucket.

    `losses` and `returns` are events, `up_hours` and `down_hours` the time at risk.
    """

    up: bool | None = None
    age_hours: float = 0.0
    losses: Buckets = _NONE
    up_hours: Buckets = _NONE
    returns: Buckets = _NONE
    down_hours: Buckets = _NONE
    hazards: Hazards = Hazards()


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """What is known of the zones of a market, in the market's order, after `hours` of watching.

    `market` is all of them as one, up while any is: zones tend to go together, so their own odds do not tell its.
    """

    zones: tuple[ZoneBelief, ...]
    market: ZoneBelief = ZoneBelief()
    hours: float = 0.0


def unseen(zones: int) -> Belief:
    """The belief about zones that were never watched."""
    return Belief(zones=tuple(ZoneBelief() for _ in range(zones)))


def observe(belief: Belief, up: Sequence[bool], hours: float) -> Belief:
    """The belief after seeing each zone up or down for `hours` more. Hazards are renewed every REVIEW_HOURS."""
    zones, market = belief.zones, belief.market
    clock, end = belief.hours, belief.hours + hours
    while clock < end - 1e-9:
        review = clock + next_review_hours(replace(belief, hours=clock))
        until = min(end, review)
        zones = tuple(_watch(zone, now, until - clock) for zone, now in zip(zones, up, strict=True))
        if len(zones) > 1:
            market = _watch(market, any(up), until - clock)
        if until >= review - 1e-9:
            zones = tuple(replace(zone, hazards=hazards(zone)) for zone in zones)
            market = replace(market, hazards=hazards(market))
        clock = until
    return Belief(zones=zones, market=market, hours=end)


def hazards(zone: ZoneBelief) -> Hazards:
    """Events per hour by age, shrunk to the common shape, or to a flat one, at the zone's own level (gamma-Poisson)."""
    return Hazards(
        losses=_rates(zone.losses, zone.up_hours, COMMON_LOSSES),
        returns=_rates(zone.returns, zone.down_hours, COMMON_RETURNS),
    )


def bucket(age_hours: float) -> int:
    """The index of the age bucket that holds `age_hours`."""
    found = 0
    for index, edge in enumerate(AGES_HOURS):
        if age_hours < edge - 1e-9:
            break
        found = index
    return found


def age_hours(zone: ZoneBelief, *, up: bool) -> float:
    """For how long the zone has been in the state in which the coming tick finds it."""
    return zone.age_hours if zone.up is up else 0.0


def next_edge_hours(age: float) -> float:
    """How long until a spell of this age enters the next bucket."""
    return next((edge - age for edge in AGES_HOURS if edge > age + 1e-9), math.inf)


def next_review_hours(belief: Belief) -> float:
    """How long until the hazards are renewed."""
    return (math.floor(belief.hours / REVIEW_HOURS + 1e-9) + 1) * REVIEW_HOURS - belief.hours


def life_hours(rates: Buckets, age: float = 0.0, most: float = math.inf) -> float:
    """How long a spell of this age is expected to go on under these rates, counting at most `most` hours."""
    reach, total, left = 1.0, 0.0, most
    for low, high, rate in zip(AGES_HOURS, (*AGES_HOURS[1:], math.inf), rates, strict=True):
        span = min(high - max(low, age), left)
        if span <= 0:
            continue
        survive = math.exp(-rate * span)
        total += reach * (1 - survive) / rate
        reach *= survive
        left -= span
    return total


@lru_cache(maxsize=256)
def share_up(hazards: Hazards) -> float:
    """The share of time in which a zone of these hazards has machines, in the long run."""
    up, down = life_hours(hazards.losses), life_hours(hazards.returns)
    return up / (up + down)


def _rates(events: Buckets, hours: Buckets, common: Buckets) -> Buckets:
    """The common shape and a flat one, weighted by how well each explains the counts; then the counts themselves."""
    level, flat = _levels(events, hours, common)
    aging = _aging(events[1:], hours[1:], common[1:])
    prior = [aging * rate * level + (1 - aging) * flat for rate in common]
    return tuple(
        (seen + SHAPE_EVENTS) / (time + SHAPE_EVENTS / rate)
        for seen, time, rate in zip(events, hours, prior, strict=True)
    )


def _levels(events: Buckets, hours: Buckets, common: Buckets) -> tuple[float, float]:
    """By how much the common rates are to be multiplied, and the one rate of all ages (at first that of machines)."""
    expected = sum(rate * time for rate, time in zip(common, hours, strict=True))
    seen = sum(events) + LEVEL_EVENTS
    return seen / (expected + LEVEL_EVENTS), seen / (sum(hours) + LEVEL_EVENTS * life_hours(COMMON_LOSSES))


def _aging(events: Buckets, hours: Buckets, common: Buckets) -> float:
    """The posterior chance that hazards fall with age as the common ones do: two Poisson models compared.

    Without the youngest ages: what is seen there tells more of the length of a tick than of the zone.
    """
    level, flat = _levels(events, hours, common)
    odds = SHAPE_LOG_ODDS + sum(
        seen * math.log(rate * level / flat) - (rate * level - flat) * time
        for seen, time, rate in zip(events, hours, common, strict=True)
    )
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, odds))))


def _watch(zone: ZoneBelief, up: bool, hours: float) -> ZoneBelief:
    """Fade what is known by `hours`, count a change of state at its beginning, and the time at risk that followed."""
    losses, returns = zone.losses, zone.returns
    age = zone.age_hours
    if zone.up is not None and zone.up != up:
        at = bucket_before(age)
        if zone.up:
            losses = (*losses[:at], losses[at] + 1.0, *losses[at + 1 :])
        else:
            returns = (*returns[:at], returns[at] + 1.0, *returns[at + 1 :])
        age = 0.0
    elif zone.up is None:
        age = 0.0
    fade = math.exp(-_FADE * hours)
    faded = [tuple(value * fade for value in counts) for counts in (losses, returns, zone.up_hours, zone.down_hours)]
    at_risk = _at_risk(age, hours)
    side = 2 if up else 3
    faded[side] = tuple(value + more for value, more in zip(faded[side], at_risk, strict=True))
    return ZoneBelief(
        up=up,
        age_hours=age + hours,
        losses=faded[0],
        returns=faded[1],
        up_hours=faded[2],
        down_hours=faded[3],
        hazards=zone.hazards,
    )


def bucket_before(age_hours: float) -> int:
    """The bucket of a spell that ended at `age_hours`: an age on an edge belongs to the bucket that it closes."""
    return bucket(max(0.0, age_hours - 1e-6))


def _at_risk(age: float, hours: float) -> list[float]:
    """Faded hours in each bucket of a spell of `age` going on for `hours`: the integral of exp(-fade x time ago)."""
    out = []
    end = age + hours
    for low, high in zip(AGES_HOURS, (*AGES_HOURS[1:], math.inf), strict=True):
        start, stop = max(low, age), min(high, end)
        if stop <= start:
            out.append(0.0)
        else:
            out.append((math.exp(-_FADE * (end - stop)) - math.exp(-_FADE * (end - start))) / _FADE)
    return out
