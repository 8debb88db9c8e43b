"""What launches, losses and refusals say about spot pools: how likely each takes a machine back within the hour.

Only what was tried is known: a pool is up while a machine of ours runs there, down when it refused or took one back,
unknown else. Spells of availability are heavy-tailed (what has lasted, lasts), so the hazard of a pool is level / (age
+ AGE_OFFSET): the level is learned for each pool, old evidence fading, and where a pool has little past it is taken to
be like other pools.
"""

import math
from dataclasses import dataclass, replace

#: A Lomax spell: hazard per hour = COMMON_LEVEL / (age + AGE_OFFSET_HOURS), as pooled over public traces.
COMMON_LEVEL = 0.8
AGE_OFFSET_HOURS = 0.15
#: A pool's own level counts as much as the common one once it has shown this many losses.
LEVEL_EVENTS = 4.0
HALF_LIFE_HOURS = 7 * 24.0
#: What is not held is taken to have been up for this share of the time since it was last down, or since the watch
#: began; then it has a head start.
SHARE_OF_UNKNOWN = 0.5
UNTRIED_AGE_HOURS = 2.0
OLDEST_GUESS_HOURS = 24.0
#: A share of losses takes only some of the machines held; this many losses with this share are taken as seen before.
PARTIAL_EVENTS = 2.0
PARTIAL_SHARE = 0.1
#: A refused pool is left alone for FIRST x 2^(refusals in a row - 1), at most LONGEST.
BACKOFF_FIRST_SECONDS = 120.0
BACKOFF_LONGEST_SECONDS = 900.0
#: One that took a machine back rests for AFTER_LOSS, doubled for each time in a row that it did so within SHORT.
AFTER_LOSS_SECONDS = 360.0
LONGEST_AFTER_LOSS_SECONDS = 4 * 3600.0
SHORT_HOURS = 0.5

_FADE = math.log(2) / HALF_LIFE_HOURS


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One pool's past, its counts as of `at`. `exposure` is the integral of 1 / (age + AGE_OFFSET_HOURS) over the time
    in which we held machines there: losses over exposure is the level.
    """

    at: float = 0.0
    losses: float = 0.0
    partial: float = 0.0  # of the losses, those that left us some machines
    exposure: float = 0.0
    held_since: float | None = None
    age_then_hours: float = 0.0  # how long it had been up by then, as far as can be guessed
    down_at: float | None = None  # when it was last known to be down
    refusals: int = 0  # in a row
    retry_at: float = 0.0
    short_spells: int = 0  # in a row, each lost within SHORT_HOURS of our having it


def level(pool: Pool) -> float:
    """The pool's own level of hazard, shrunk to the common one (gamma-Poisson)."""
    return (pool.losses + LEVEL_EVENTS) / (pool.exposure + LEVEL_EVENTS / COMMON_LEVEL)


def age_hours(pool: Pool, now: float) -> float:
    """For how long the pool has been up: known while we hold a machine there, else guessed as if it were up now."""
    if pool.held_since is not None:
        return pool.age_then_hours + (now - pool.held_since) / 3600
    unknown = SHARE_OF_UNKNOWN * (now - (pool.at if pool.down_at is None else pool.down_at)) / 3600
    return min(unknown + (UNTRIED_AGE_HOURS if pool.down_at is None else 0.0), OLDEST_GUESS_HOURS)


def hazard(pool: Pool, now: float) -> float:
    """Losses per hour at this moment."""
    return level(pool) / (age_hours(pool, now) + AGE_OFFSET_HOURS)


def hazard_ahead(pool: Pool, now: float, hours: float) -> float:
    """The chance of a loss within the coming `hours`, per hour: lower than the hazard of now where a pool is young."""
    age = age_hours(pool, now) + AGE_OFFSET_HOURS
    return float(1.0 - (age / (age + hours)) ** level(pool)) / hours


def partial_share(pool: Pool) -> float:
    """The share of losses that take some machines and leave others."""
    return (pool.partial + PARTIAL_EVENTS * PARTIAL_SHARE) / (pool.losses + PARTIAL_EVENTS)


def advance(pool: Pool, now: float) -> Pool:
    """The same past as of `now`: older evidence faded, the time since then at risk if machines are held."""
    hours = (now - pool.at) / 3600
    if hours <= 0:
        return pool
    fade = math.exp(-_FADE * hours)
    return replace(
        pool,
        at=now,
        losses=pool.losses * fade,
        partial=pool.partial * fade,
        exposure=pool.exposure * fade + at_risk(pool, now),
    )


def at_risk(pool: Pool, now: float) -> float:
    """Exposure since `pool.at`."""
    if pool.held_since is None or now <= pool.at:
        return 0.0
    age = age_hours(pool, now) + AGE_OFFSET_HOURS
    return math.log(age / (age - (now - pool.at) / 3600))


def held(pool: Pool, now: float) -> Pool:
    """A machine of ours runs there."""
    if pool.held_since is not None:
        return pool
    return replace(advance(pool, now), held_since=now, age_then_hours=age_hours(pool, now), refusals=0)


def left(pool: Pool, now: float) -> Pool:
    """We gave up the last machine there ourselves: how it is since then is not known."""
    return pool if pool.held_since is None else replace(advance(pool, now), held_since=None)


def lost(pool: Pool, now: float, *, some_left: bool) -> Pool:
    """It took a machine back. If it left some, a new spell begins: who has lost some is likely to lose more."""
    pool = advance(pool, now)
    short = pool.held_since is None or now - pool.held_since < SHORT_HOURS * 3600
    doubled = min(pool.short_spells, 16) if short else 0
    rest = min(AFTER_LOSS_SECONDS * 2.0**doubled, LONGEST_AFTER_LOSS_SECONDS)
    return replace(
        pool,
        losses=pool.losses + 1.0,
        partial=pool.partial + float(some_left),
        held_since=now if some_left else None,
        age_then_hours=0.0,
        down_at=now,
        refusals=0,
        retry_at=now + rest,
        short_spells=pool.short_spells + 1 if short else 0,
    )


def refused(pool: Pool, now: float) -> Pool:
    """It did not give a machine. Where we hold some it is full, not down."""
    wait = min(BACKOFF_FIRST_SECONDS * 2.0 ** min(pool.refusals, 16), BACKOFF_LONGEST_SECONDS)
    pool = replace(advance(pool, now), refusals=pool.refusals + 1, retry_at=now + wait)
    return pool if pool.held_since is not None else replace(pool, down_at=now)
