"""Batch work under a deadline in the loop's terms: what is left to read becomes a job, spot pools become a market.

The step is `deadline.next_step`'s, the one that the backtest measures: the default policy behind the shield. So many
like machines count as one. The shield's assumptions are met with margins: a start takes longer than it used to, reading
is slower than it was measured, and what the coming tick should bring may be lost in the middle of it.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from policies import pools
from policies.deadline import earliest_deadline_seconds, next_step, shielded_ticks
from policies.disruption import Leaving
from policies.hazard import Belief, Hazards, ZoneBelief, observe, unseen
from policies.lifecycle import Status
from policies.market import IDLE, ON_DEMAND, Job, Market, Zone
from policies.selection import Ranked
from policies.snapshot import Instance, Offer, Purchase
from policies.spot import UNWATCHED_SECONDS, Plain, Source, events, happened

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


def speed(ranked: Sequence[Ranked]) -> float | None:
    """Images a second that each is counted with: the slower of the first spot machine and the first other one.

    None: neither is measured.
    """
    measured = [(row.offer.purchase is Purchase.SPOT, row.profile) for row in ranked if row.profile is not None]
    firsts = (next((profile for is_spot, profile in measured if is_spot is wanted), None) for wanted in (True, False))
    speeds = (profile.images_per_second for profile in firsts if profile is not None)
    return min((images for images in speeds if images is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How many should run and why, what to launch (an offer, or None: something on demand), who may go."""

    replicas: int
    reason: str
    launches: tuple[tuple[Offer | None, str], ...] = ()
    stops: tuple[Leaving, ...] = ()
    memory: Plain | None = None  # None: what is remembered is still true


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What the ledger keeps: of the pools for every job, of the job until it is done."""

    at: float
    zones: tuple[str, ...]
    belief: Belief
    seen: tuple[tuple[float | None, float | None], ...]
    up: tuple[bool | None, ...]  # None: nothing of ours is there, so it is not known
    retry_at: tuple[float, ...]
    refusals: tuple[int, ...]
    key: str = ""
    work_seconds: int = 0
    deadline_seconds: int = 0
    machines: int = 0
    run: int = IDLE
    reason: str = ""
    until: float = 0.0  # the step holds so long, while `there` does
    there: tuple[tuple[int, bool, int], ...] = ()


def step(
    work: Work,
    sources: Sequence[Source],
    on_demand_price: float | None,
    machines: Sequence[Instance],
    now: datetime,
    remembered: Plain | None,
) -> Answer:
    """What should run now. Pure. Without anything on demand (None) the shield cannot be kept, and spot stands in."""
    at = now.timestamp()
    known, news = _watched(_recalled(remembered, sources, at), sources, machines, at)
    places = {name: place for place, name in enumerate(known.zones)}
    where = [places.get(one.offer_id, IDLE) if _is_spot(one) else ON_DEMAND for one in machines]
    there = _counted(machines, where)
    started = known.key == work.key and known.machines > 0
    if started and not news and there == known.there and known.at <= at < known.until:
        return _answer(known, sources, on_demand_price, machines, where, None)
    known = _begun(known, work)
    job = _job(known, work, machines, where, at)
    if job.left_seconds <= 0:
        run, reason = ON_DEMAND, "on-demand: the deadline has passed"
    else:
        dearest = max((source.price for source in sources), default=1.0)
        market = Market(
            tick_seconds=TICK_SECONDS,
            on_demand_price=3 * dearest if on_demand_price is None else on_demand_price,
            zones=tuple(
                Zone(name=source.offer.zone, price=source.price, up=known.up[place] is not False)
                for place, source in enumerate(sources)
            ),
        )
        chosen = next_step(job, market, _guessed(known))
        run, reason = chosen.run, chosen.reason
        if _restless(job, market, run):
            run, reason = job.running, f"spot in {market.zones[job.running].name}, which is as good as another"
    known = replace(known, run=run, reason=reason, until=at + TICK_SECONDS, there=there)
    return _answer(known, sources, on_demand_price, machines, where, _plain(known))


def finished(remembered: Plain | None) -> Plain | None:
    """What to remember when no job is left: the pools. None: no job was remembered."""
    if remembered is None or not remembered["key"]:
        return None
    pools_only = replace(_restored(remembered), key="", machines=0, run=IDLE, reason="", until=0.0, there=())
    return _plain(replace(pools_only, up=(None,) * len(pools_only.zones)))


def _answer(
    known: _Known,
    sources: Sequence[Source],
    on_demand_price: float | None,
    machines: Sequence[Instance],
    where: Sequence[int],
    memory: Plain | None,
) -> Answer:
    run, count, reason = known.run, known.machines, known.reason
    if run == IDLE:
        gone = tuple(Leaving(instance=one, reason=reason) for one in machines)
        return Answer(replicas=0, reason=reason, stops=gone, memory=memory)
    placed = [*zip(machines, where, strict=True)]
    right = [one for one, place in placed if place == run]
    full = run >= 0 and bool(right) and known.refusals[run] > 0
    if full:  # then spot elsewhere is as good
        right += [one for one, place in placed if place >= 0 and place != run]
    missing = max(0, count - len(right))
    offer = None if run == ON_DEMAND else sources[run].offer
    if missing and run == ON_DEMAND and on_demand_price is None:
        place = _spare(known, sources, None)
        offer, missing = None if place is None else sources[place].offer, max(0, count - len(machines))
        reason = f"{reason}; nothing more is to be had on demand, so spot for what is missing"
    elif full and _rests(known.retry_at[run], known.at):
        place = _spare(known, sources, on_demand_price)
        offer = None if place is None else sources[place].offer
    gone = tuple(Leaving(instance=one, reason="more than the job needs") for one in right[count:])
    if len(right) >= count and all(one.status is not Status.REQUESTED for one in right[:count]):
        others = (one for one, _ in placed if one not in right)
        gone += tuple(Leaving(instance=one, reason=f"it goes on elsewhere: {reason}") for one in others)
    nowhere = offer is None and (run >= 0 or on_demand_price is None)
    launches = () if nowhere else ((offer, reason),) * missing
    return Answer(replicas=count, reason=reason, launches=launches, stops=gone, memory=memory)


def _spare(known: _Known, sources: Sequence[Source], below: float | None) -> int | None:
    """The first pool that may be asked, cheaper than that."""
    return next(
        (
            place
            for place, up in enumerate(known.up)
            if up is not False
            and not _rests(known.retry_at[place], known.at)
            and (below is None or sources[place].price < below)
        ),
        None,
    )


def _rests(retry_at: float, at: float) -> bool:
    """Whether a pool is left alone; what lies further ahead than a rest is of a clock that was set back."""
    return at < retry_at <= at + pools.BACKOFF_LONGEST_SECONDS


def _recalled(remembered: Plain | None, sources: Sequence[Source], at: float) -> _Known:
    """What is remembered, for these pools; one that is new is unseen."""
    names = tuple(source.offer.id for source in sources)
    known = None if remembered is None else _restored(remembered)
    fresh = _Known(
        at=at,
        zones=names,
        belief=unseen(len(names)),
        seen=tuple(events(source.offer) for source in sources),
        up=(None,) * len(names),
        retry_at=(0.0,) * len(names),
        refusals=(0,) * len(names),
    )
    if known is None:
        return fresh
    if known.zones == names:
        return known
    old = {name: place for place, name in enumerate(known.zones)}

    def moved(before: Sequence[Any], new: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(before[old[name]] if name in old else new[place] for place, name in enumerate(names))

    return replace(
        known,
        zones=names,
        belief=replace(known.belief, zones=moved(known.belief.zones, fresh.belief.zones)),
        seen=moved(known.seen, fresh.seen),
        up=moved(known.up, fresh.up),
        retry_at=moved(known.retry_at, fresh.retry_at),
        refusals=moved(known.refusals, fresh.refusals),
        until=0.0,
    )


def _watched(known: _Known, sources: Sequence[Source], machines: Sequence[Instance], at: float) -> tuple[_Known, bool]:
    """What was seen of the pools since then, and what is known of them now; whether any took back or refused one."""
    seen = tuple(events(source.offer) for source in sources)
    before = dict(zip(known.zones, known.seen, strict=True))
    lost, refused = happened(known.zones, seen, before, 0), happened(known.zones, seen, before, 1)
    held = {one.offer_id for one in machines}
    retry_at, refusals = [*known.retry_at], [*known.refusals]
    up: list[bool | None] = []
    for place, name in enumerate(known.zones):
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
            up.append(False if known.up[place] is False and _rests(retry_at[place], at) else None)
    hours = (at - known.at) / 3600
    belief = known.belief
    if 0 < hours <= UNWATCHED_SECONDS / 3600:
        belief = _observed(belief, known.up, hours)
    zones = list(belief.zones)
    for place, now in enumerate(up):
        if now and known.up[place] is None:  # taken: it has been up for longer than it is ours
            zones[place] = replace(zones[place], up=True, age_hours=_guess(replace(known, at=at), place))
    belief = replace(belief, zones=tuple(zones))
    after = replace(
        known, at=at, belief=belief, seen=seen, up=tuple(up), retry_at=tuple(retry_at), refusals=tuple(refusals)
    )
    return after, bool(lost or refused or tuple(up) != known.up)


def _observed(belief: Belief, up: Sequence[bool | None], hours: float) -> Belief:
    """Each pool of which something is known, and the market of all where that follows, watched for so long."""

    def watched(zone: ZoneBelief, now: bool | None) -> ZoneBelief:
        alone = Belief(zones=(zone,), hours=belief.hours)
        return zone if now is None else observe(alone, (now,), hours).zones[0]

    any_up = True if any(up) else False if up and all(one is False for one in up) else None
    return Belief(
        zones=tuple(watched(zone, now) for zone, now in zip(belief.zones, up, strict=True)),
        market=watched(belief.market, any_up) if len(up) > 1 else belief.market,
        hours=belief.hours + hours,
    )


def _guessed(known: _Known) -> Belief:
    """With the pools of which nothing is known now taken to be up, and to have been so for as long as may be."""
    guesses = (
        zone if up is not None else replace(zone, up=True, age_hours=_guess(known, place))
        for place, (zone, up) in enumerate(zip(known.belief.zones, known.up, strict=True))
    )
    return replace(known.belief, zones=tuple(guesses))


def _guess(known: _Known, place: int) -> float:
    """As `pools.age_hours` guesses: half the time since it rested; a pool that never did has a head start."""
    if not known.retry_at[place]:
        return pools.UNTRIED_AGE_HOURS
    return min(max(0.0, pools.SHARE_OF_UNKNOWN * (known.at - known.retry_at[place]) / 3600), pools.OLDEST_GUESS_HOURS)


def _restless(job: Job, market: Market, run: int) -> bool:
    """Whether it would leave one pool for another that is not cheaper: only what is tried is known."""
    if run < 0 or job.running < 0 or run == job.running:
        return False
    cheaper = market.zones[run].price < market.zones[job.running].price
    return not cheaper and shielded_ticks(job, market, job.running) > 0


def _begun(known: _Known, work: Work) -> _Known:
    """The job as it was when it began: another one, more work, or too few or too many machines for it begin anew."""
    count = known.machines
    same = known.key == work.key and 0 < count <= work.most and work.each_seconds(count) <= known.work_seconds
    if same and (work.earliest_seconds(count) <= work.seconds or count == work.most):
        return known
    count = work.machines()
    return replace(
        known,
        key=work.key,
        machines=count,
        work_seconds=work.each_seconds(count),
        deadline_seconds=max(0, math.floor(work.seconds)),
    )


def _job(known: _Known, work: Work, machines: Sequence[Instance], where: Sequence[int], at: float) -> Job:
    there = Counter(where)
    running = (
        known.run if there[known.run] else next((place for place, _ in there.most_common() if place != IDLE), IDLE)
    )
    mine = [one for one, place in zip(machines, where, strict=True) if place == running]
    starting = [at - one.requested_at.timestamp() for one in mine if one.status is not Status.READY]
    left = 0
    if running != IDLE and (starting or len(mine) < known.machines):
        youngest = min(starting, default=0.0) if len(mine) >= known.machines else 0.0
        left = max(1, math.ceil(work.overhead_seconds - TICK_SECONDS - youngest))
    return Job(
        work_seconds=known.work_seconds,
        deadline_seconds=known.deadline_seconds,
        overhead_seconds=work.overhead_seconds,
        elapsed_seconds=max(0, known.deadline_seconds - math.floor(work.seconds)),
        done_seconds=max(0, known.work_seconds - work.each_seconds(known.machines)),
        running=running,
        overhead_left_seconds=left,
    )


def _counted(machines: Sequence[Instance], where: Sequence[int]) -> tuple[tuple[int, bool, int], ...]:
    counts = Counter((place, one.status is Status.READY) for one, place in zip(machines, where, strict=True))
    return tuple(sorted((place, ready, count) for (place, ready), count in counts.items()))


def _is_spot(machine: Instance) -> bool:
    return machine.purchase is Purchase.SPOT


def _plain(known: _Known) -> Plain:
    return asdict(known)


def _restored(plain: Plain) -> _Known:
    """What `_plain` gave, also after JSON."""
    tuples = ("zones", "up", "retry_at", "refusals")
    belief = plain["belief"]
    return _Known(
        **{
            **plain,
            **{name: tuple(plain[name]) for name in tuples},
            "seen": tuple((lost_at, refused_at) for lost_at, refused_at in plain["seen"]),
            "there": tuple((place, ready, count) for place, ready, count in plain["there"]),
            "belief": Belief(
                zones=tuple(map(_zone, belief["zones"])), market=_zone(belief["market"]), hours=belief["hours"]
            ),
        }
    )


def _zone(plain: Mapping[str, Any]) -> ZoneBelief:
    counts = {name: tuple(plain[name]) for name in ("losses", "up_hours", "returns", "down_hours")}
    hazards = Hazards(losses=tuple(plain["hazards"]["losses"]), returns=tuple(plain["hazards"]["returns"]))
    return ZoneBelief(**{**plain, **counts, "hazards": hazards})
