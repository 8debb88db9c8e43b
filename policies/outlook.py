"""What a batch knows of spot pools by trying them: which are up, since when, and what that teaches.

A pool is up while a machine of ours runs there, and down while it rests after a refusal or a loss. Of any other nothing
is known; it is guessed to be up, for as long as may be.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from policies import pools
from policies.hazard import AGES_HOURS, Belief, Hazards, ZoneBelief, observe, unseen
from policies.sources import UNWATCHED_SECONDS, Events, Plain, happened


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """All pools of one GPU, as of `at` (a timestamp): plain numbers, one for each pool."""

    at: float
    pools: tuple[str, ...]
    belief: Belief
    seen: tuple[Events, ...]
    up: tuple[bool | None, ...]  # None: nothing of ours is there, so it is not known
    retry_at: tuple[float, ...]
    refusals: tuple[int, ...]

    def rests(self, place: int) -> bool:
        """Whether a pool is left alone; what lies further ahead than a rest is of a clock that was set back."""
        return self.at < self.retry_at[place] <= self.at + pools.BACKOFF_LONGEST_SECONDS


def first(names: Sequence[str], seen: Sequence[Events], at: float) -> Outlook:
    """Before anything was tried."""
    count = len(names)
    return Outlook(
        at=at,
        pools=tuple(names),
        belief=unseen(count),
        seen=tuple(seen),
        up=(None,) * count,
        retry_at=(0.0,) * count,
        refusals=(0,) * count,
    )


def of(known: Outlook, names: Sequence[str], seen: Sequence[Events]) -> Outlook:
    """The same for these pools: what is known of a name is kept, a new one is untried."""
    if known.pools == tuple(names):
        return known
    fresh = first(names, seen, known.at)
    old = {name: place for place, name in enumerate(known.pools)}

    def moved(before: Sequence[Any], new: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(before[old[name]] if name in old else new[place] for place, name in enumerate(names))

    return Outlook(
        at=known.at,
        pools=fresh.pools,
        belief=replace(known.belief, zones=moved(known.belief.zones, fresh.belief.zones)),
        seen=moved(known.seen, fresh.seen),
        up=moved(known.up, fresh.up),
        retry_at=moved(known.retry_at, fresh.retry_at),
        refusals=moved(known.refusals, fresh.refusals),
    )


def watched(known: Outlook, seen: Sequence[Events], held: Collection[str], at: float) -> tuple[Outlook, bool]:
    """What is known now, with machines of ours in the pools `held`; and whether anything has happened since."""
    before = dict(zip(known.pools, known.seen, strict=True))
    lost, refused = happened(known.pools, seen, before, 0), happened(known.pools, seen, before, 1)
    retry_at, refusals = [*known.retry_at], [*known.refusals]
    up: list[bool | None] = []
    for place, name in enumerate(known.pools):
        if name in held and known.up[place] is not True:
            refusals[place], retry_at[place] = 0, min(at, retry_at[place])
        if place in refused or (place in lost and name not in held):
            wait = pools.BACKOFF_FIRST_SECONDS * 2.0 ** min(refusals[place], 16)
            refusals[place] += 1
            retry_at[place] = at + min(wait, pools.BACKOFF_LONGEST_SECONDS)
        if name in held:
            up.append(True)  # one that refuses more is full, not down
        elif place in lost or place in refused:
            up.append(False)
        else:
            up.append(False if known.up[place] is False and replace(known, at=at).rests(place) else None)
    hours = (at - known.at) / 3600
    belief = _observed(known.belief, known.up, hours) if 0 < hours <= UNWATCHED_SECONDS / 3600 else known.belief
    zones = list(belief.zones)
    for place, now in enumerate(up):
        if now and known.up[place] is None:  # taken: it has been up for longer than it is ours
            zones[place] = replace(zones[place], up=True, age_hours=_guess(known, place, at))
    after = Outlook(
        at=at,
        pools=known.pools,
        belief=replace(belief, zones=tuple(zones)),
        seen=tuple(seen),
        up=tuple(up),
        retry_at=tuple(retry_at),
        refusals=tuple(refusals),
    )
    return after, bool(lost or refused or after.up != known.up)


def guessed(known: Outlook) -> Belief:
    """With the pools of which nothing is known now taken to be up, and to have been so for as long as may be."""
    guesses = (
        zone if up is not None else replace(zone, up=True, age_hours=_guess(known, place, known.at))
        for place, (zone, up) in enumerate(zip(known.belief.zones, known.up, strict=True))
    )
    return replace(known.belief, zones=tuple(guesses))


def unwatched(known: Outlook) -> Outlook:
    """What stays true when nobody looks any more."""
    return replace(known, up=(None,) * len(known.pools))


def plain(known: Outlook) -> Plain:
    return asdict(known)


def restored(kept: Plain) -> Outlook:
    """What `plain` gave, also after JSON. Raises KeyError, TypeError or ValueError for any other shape."""
    belief, count = kept["belief"], len(kept["pools"])
    counted = (belief["zones"], *(kept[name] for name in ("seen", "up", "retry_at", "refusals")))
    if any(len(one) != count for one in counted):
        raise ValueError("not as many of each as there are pools")
    return Outlook(
        at=kept["at"],
        pools=tuple(kept["pools"]),
        belief=Belief(zones=tuple(map(_zone, belief["zones"])), market=_zone(belief["market"]), hours=belief["hours"]),
        seen=tuple((lost_at, refused_at) for lost_at, refused_at in kept["seen"]),
        up=tuple(kept["up"]),
        retry_at=tuple(kept["retry_at"]),
        refusals=tuple(kept["refusals"]),
    )


def _zone(kept: Mapping[str, Any]) -> ZoneBelief:
    counts = {name: tuple(kept[name]) for name in ("losses", "up_hours", "returns", "down_hours")}
    hazards = Hazards(losses=tuple(kept["hazards"]["losses"]), returns=tuple(kept["hazards"]["returns"]))
    if any(len(rates) != len(AGES_HOURS) for rates in (*counts.values(), hazards.losses, hazards.returns)):
        raise ValueError("of other ages")
    return ZoneBelief(**{**kept, **counts, "hazards": hazards})


def _observed(belief: Belief, up: Sequence[bool | None], hours: float) -> Belief:
    """Each pool of which something is known, and the market of all where that follows, watched for so long."""

    def seen(zone: ZoneBelief, now: bool | None) -> ZoneBelief:
        alone = Belief(zones=(zone,), hours=belief.hours)
        return zone if now is None else observe(alone, (now,), hours).zones[0]

    any_up = True if any(up) else False if up and all(one is False for one in up) else None
    return Belief(
        zones=tuple(seen(zone, now) for zone, now in zip(belief.zones, up, strict=True)),
        market=seen(belief.market, any_up) if len(up) > 1 else belief.market,
        hours=belief.hours + hours,
    )


def _guess(known: Outlook, place: int, at: float) -> float:
    """As `pools.age_hours` guesses: half the time since it rested; a pool that never did has a head start."""
    if not known.retry_at[place]:
        return pools.UNTRIED_AGE_HOURS
    return min(max(0.0, pools.SHARE_OF_UNKNOWN * (at - known.retry_at[place]) / 3600), pools.OLDEST_GUESS_HOURS)
