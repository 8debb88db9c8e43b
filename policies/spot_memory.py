"""What serving on spot remembers between two ticks: the placement policy's own memory, and what it was about."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from policies import placement, pools
from policies.placing_published import Turn, Zones
from policies.policy import HAZARD
from policies.serving import Goal
from policies.sources import Events, Plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the ledger keeps: the policy's own memory, what it was about, and until when its answer is *nothing*."""

    policy: str = ""
    goal: Goal | None = None  # None: nothing was wanted
    pools: tuple[str, ...] = ()
    seen: tuple[Events, ...] = ()  # by pool: when it took a machine back, when it refused
    quiet_until: float = 0.0
    ranks: tuple[tuple[int, str, int], ...] = ()  # pool, state, how many: while these hold, so does the answer
    own: Any = None


def restored(kept: Plain | None) -> Known | None:
    """What `plain` gave, also after JSON. None for what another version has written in another shape."""
    try:
        return None if kept is None else _shaped(kept)
    except (KeyError, TypeError, ValueError):
        return None


def _shaped(kept: Plain) -> Known:
    own, policy = kept["own"], kept["policy"]
    if own is not None and policy == HAZARD:
        own = placement.restored(own)
    elif own is not None and policy == "spothedge":
        own = Zones(preempting=frozenset(own["preempting"]), tried=tuple(own["tried"]))
    elif own is not None:
        own = Turn(**own)
    return Known(
        policy=policy,
        goal=None if kept["goal"] is None else Goal(**kept["goal"]),
        pools=tuple(kept["pools"]),
        seen=tuple((lost_at, refused_at) for lost_at, refused_at in kept["seen"]),
        quiet_until=kept["quiet_until"],
        ranks=tuple((pool, state, count) for pool, state, count in kept["ranks"]),
        own=own,
    )


def plain(known: Known) -> Plain:
    own = known.own
    if isinstance(own, Zones):
        own = {"preempting": sorted(own.preempting), "tried": list(own.tried)}
    elif own is not None:
        own = asdict(own)
    return asdict(replace(known, own=None)) | {"own": own}


def wanted(goal: Goal) -> Goal:
    """What makes the next decision another one. How long a start takes is measured anew all the time: it does not."""
    return replace(goal, cold_start_seconds=0.0)


def gist(known: Known | None) -> Any:
    """What must not be forgotten. The rest of a memory follows from it and from the time that has passed."""
    if known is None or not isinstance(known.own, placement.Memory):
        return known
    own = known.own
    settled = tuple(replace(pool, at=0.0, losses=0.0, partial=0.0, exposure=0.0) for pool in own.pools)
    return replace(known, own=replace(own, at=0.0, hours=0.0, short_hours=0.0, pools=settled))


def not_ahead(memory: placement.Memory, now: float) -> placement.Memory:
    """A clock that was set back leaves a memory of the future: all of it is taken to have been so much earlier."""
    ahead = memory.at - now
    if ahead <= 0:
        return memory

    def earlier(at: float | None) -> float | None:
        return None if at is None else at - ahead

    def shifted(pool: pools.Pool) -> pools.Pool:
        pool = replace(pool, at=pool.at - ahead, retry_at=pool.retry_at - ahead)
        return replace(pool, held_since=earlier(pool.held_since), down_at=earlier(pool.down_at))

    known = tuple(shifted(pool) for pool in memory.pools)
    return replace(memory, at=now, review_at=memory.review_at - ahead, pools=known)


def asked_sooner(pool: pools.Pool, now: float) -> pools.Pool:
    """Without anything on demand to go on with, a pool that took one back rests no longer than one that refused.

    One that has refused since then rests by its refusals.
    """
    if pool.refusals:
        return pool
    since = now if pool.down_at is None else pool.down_at
    return replace(pool, retry_at=min(pool.retry_at, since + pools.BACKOFF_LONGEST_SECONDS))
