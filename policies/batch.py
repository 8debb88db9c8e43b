"""Batch work under a deadline in the loop's terms: what is left to read becomes a job, spot pools become a market.

The step is `deadline.next_step`'s, the one that the backtest measures: the default policy behind the shield. So many
like machines count as one. The shield's assumptions are met with margins: a start takes longer than it used to, reading
is slower than it was measured, and what the coming tick should bring may be lost in the middle of it.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime

from policies import learned, outlook
from policies.deadline import next_step, shielded_ticks
from policies.disruption import Leaving
from policies.hazard import Belief
from policies.lifecycle import Status
from policies.market import IDLE, ON_DEMAND, Job, Market, Step, Zone
from policies.outlook import Outlook
from policies.plan import Target
from policies.snapshot import Instance, Offer
from policies.sources import UNOBTAINABLE, Answer, Plain, Source, events, is_spot
from policies.work import TICK_SECONDS, Work, overhead_seconds

#: what a start costs that a move from pool to pool needs must come in again within so long: so long prices stand
KEEP_SECONDS = 3600.0
#: what runs, where it is no pool's name
WORDS = {IDLE: "", ON_DEMAND: "on-demand"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    """A job as it was when it began, and what was decided last; `run` is a pool's name or one of WORDS."""

    key: str
    work_seconds: int
    deadline_seconds: int
    machines: int
    run: str = WORDS[IDLE]
    reason: str = ""
    until: float = 0.0  # the step holds so long, while `there` does
    there: tuple[tuple[str, bool, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What the ledger keeps: of the pools of each GPU for every job, of the job until it is done."""

    outlooks: Mapping[str, Outlook] = field(default_factory=dict)
    begun: _Begun | None = None


def gpu(sources: Sequence[Source], machines: Sequence[Instance], start_seconds: float) -> str | None:
    """On which GPU's spot machines a batch runs: of those it has, unless the first source pays for the move to it.

    None: there are no sources.
    """
    gpus = {source.offer.id: source.offer.gpu for source in sources}
    held = Counter(gpus[one.offer_id] for one in machines if is_spot(one) and one.offer_id in gpus)
    if not held:
        return next(iter(gpus.values()), None)
    best, here = sources[0].offer.gpu, held.most_common(1)[0][0]
    cheapest = {name: min(one.price for one in sources if one.offer.gpu == name) for name in (best, here)}
    return best if _pays(cheapest[best], cheapest[here], overhead_seconds(start_seconds)) else here


def propose(job: Job, market: Market, belief: Belief) -> Step:
    """As learned; but no pool is left for another unless its price pays for the start: only what is tried is known."""
    step, here = learned.propose(job, market, belief), job.running
    if step.run < 0 or here < 0 or step.run == here or shielded_ticks(job, market, here) == 0:
        return step
    if _pays(market.zones[step.run].price, market.zones[here].price, job.overhead_seconds):
        return step
    return Step(run=here, reason=f"spot in {market.zones[here].name}, which is as good as another")


def step(
    work: Work,
    sources: Sequence[Source],
    on_demand_price: float | None,
    machines: Sequence[Instance],
    room: int,
    now: datetime,
    remembered: Plain | None,
) -> Answer:
    """What should run now. Pure. Sources are of one GPU; `room` is for so many machines beside those that are there.

    Without anything on demand (None) the shield cannot be kept, and spot stands in.
    """
    at, kept = now.timestamp(), _restored(remembered)
    view, news = _watched(kept, sources, machines, at)
    where = [one.offer_id if is_spot(one) else WORDS[ON_DEMAND] for one in machines]
    there = _counted(machines, where)
    begun = kept.begun
    if begun is not None and begun.key == work.key and not news and there == begun.there and view.at < begun.until:
        return _answer(begun, view, sources, on_demand_price, machines, room, None)
    begun = _begin(begun, work)
    job = _job(begun, work, machines, where, view, at)
    if job.left_seconds <= 0:
        run, reason = ON_DEMAND, "on-demand: the deadline has passed"
    else:
        chosen = next_step(job, _market(sources, on_demand_price, view), outlook.guessed(view), propose)
        run, reason = chosen.run, chosen.reason
    begun = replace(begun, run=_word(run, view), reason=reason, until=at + TICK_SECONDS, there=there)
    memory = _Known(outlooks={**kept.outlooks, sources[0].offer.gpu: view}, begun=begun)
    return _answer(begun, view, sources, on_demand_price, machines, room, _plain(memory))


def finished(remembered: Plain | None) -> Plain | None:
    """What to remember when no job is left: the pools. None: no job was remembered."""
    known = _restored(remembered)
    if known.begun is None:
        return None
    return _plain(_Known(outlooks={name: outlook.unwatched(one) for name, one in known.outlooks.items()}))


def _watched(kept: _Known, sources: Sequence[Source], machines: Sequence[Instance], at: float) -> tuple[Outlook, bool]:
    """What is known of these pools now, and whether it is news."""
    names, seen = [source.offer.id for source in sources], [events(source.offer) for source in sources]
    known = kept.outlooks.get(sources[0].offer.gpu)
    before = outlook.first(names, seen, at) if known is None else outlook.of(known, names, seen)
    view, news = outlook.watched(before, seen, {one.offer_id for one in machines}, at)
    return view, news or known is None or before is not known or at < known.at


def _market(sources: Sequence[Source], on_demand_price: float | None, view: Outlook) -> Market:
    dearest = max((source.price for source in sources), default=1.0)
    return Market(
        tick_seconds=TICK_SECONDS,
        on_demand_price=UNOBTAINABLE * dearest if on_demand_price is None else on_demand_price,
        zones=tuple(
            Zone(name=source.offer.zone, price=source.price, up=up is not False)
            for source, up in zip(sources, view.up, strict=True)
        ),
    )


def _pays(price: float, here: float, overhead_seconds: int) -> bool:
    """Whether an hour there, its start included, costs less than one here."""
    return price * (1 + overhead_seconds / KEEP_SECONDS) < here


def _answer(
    begun: _Begun,
    view: Outlook,
    sources: Sequence[Source],
    on_demand_price: float | None,
    machines: Sequence[Instance],
    room: int,
    memory: Plain | None,
) -> Answer:
    run, count, reason = _place(begun.run, view), begun.machines, begun.reason
    target = Target(replicas=0 if run == IDLE else count, reason=reason)
    if run == IDLE:
        gone = tuple(Leaving(instance=one, reason=reason) for one in machines)
        return Answer(target=target, stops=gone, memory=memory)
    right = [one for one in machines if (one.offer_id if is_spot(one) else WORDS[ON_DEMAND]) == begun.run]
    full = run >= 0 and bool(right) and view.refusals[run] > 0
    if full:  # then spot elsewhere is as good
        right += [one for one in machines if one.offer_id in view.pools and one.offer_id != begun.run]
    others = [one for one in machines if one not in right]
    missing = max(0, count - len(right))
    offer = None if run == ON_DEMAND else sources[run].offer
    if missing and run == ON_DEMAND and on_demand_price is None:
        place = _spare(view, sources, None)
        offer, missing = None if place is None else sources[place].offer, max(0, count - len(machines))
        reason = f"{reason}; nothing more is to be had on demand, so spot for what is missing"
    elif full and view.rests(run):
        place = _spare(view, sources, on_demand_price)
        offer = None if place is None else sources[place].offer
    nowhere = offer is None and (run >= 0 or on_demand_price is None)
    launches: tuple[tuple[Offer | None, str], ...] = () if nowhere else ((offer, reason),) * missing
    gone = tuple(Leaving(instance=one, reason="more than the job needs") for one in right[count:])
    gone += tuple(
        Leaving(instance=one, reason=f"it goes on elsewhere: {reason}")
        for one in _replaced(right[:count], others, count, making_room=bool(launches) and room <= 0)
    )
    return Answer(target=target, launches=launches, stops=gone, memory=memory)


def _replaced(
    right: Sequence[Instance], others: Sequence[Instance], count: int, *, making_room: bool
) -> Sequence[Instance]:
    """Of the others those that are too many beside the right ones that have been heard of; where there is no room to
    replace one first, and nobody is on the way, one more. Who starts leaves before who reads, the youngest first.
    """
    heard_of = sum(one.status is not Status.REQUESTED for one in right)
    too_many = max(0, heard_of + len(others) - count)
    if making_room and not too_many and heard_of == len(right):
        too_many = 1
    return sorted(others, key=lambda one: (one.status is Status.READY, -one.requested_at.timestamp()))[:too_many]


def _spare(view: Outlook, sources: Sequence[Source], below: float | None) -> int | None:
    """The first pool that may be asked, cheaper than that."""
    return next(
        (
            place
            for place, up in enumerate(view.up)
            if up is not False and not view.rests(place) and (below is None or sources[place].price < below)
        ),
        None,
    )


def _begin(begun: _Begun | None, work: Work) -> _Begun:
    """The job as it was when it began: another one, more work, or too few or too many machines for it begin anew."""
    if begun is not None and begun.key == work.key and begun.machines <= work.most:
        count = begun.machines
        enough = count == work.most or work.earliest_seconds(count) <= work.seconds
        if enough and work.each_seconds(count) <= begun.work_seconds:
            return begun
    count = work.machines()
    return _Begun(
        key=work.key,
        machines=count,
        work_seconds=work.each_seconds(count),
        deadline_seconds=max(0, math.floor(work.seconds)),
        run=WORDS[IDLE] if begun is None else begun.run,
    )


def _job(
    begun: _Begun, work: Work, machines: Sequence[Instance], where: Sequence[str], view: Outlook, at: float
) -> Job:
    there = Counter(where)
    known = (*view.pools, WORDS[ON_DEMAND])
    running = begun.run if there[begun.run] else next((one for one, _ in there.most_common() if one in known), "")
    mine = [one for one, place in zip(machines, where, strict=True) if place == running]
    starting = [at - one.requested_at.timestamp() for one in mine if one.status is not Status.READY]
    left = 0
    if mine and (starting or len(mine) < begun.machines):
        youngest = min(starting, default=0.0) if len(mine) >= begun.machines else 0.0
        left = max(1, math.ceil(work.overhead_seconds - TICK_SECONDS - youngest))
    return Job(
        work_seconds=begun.work_seconds,
        deadline_seconds=begun.deadline_seconds,
        overhead_seconds=work.overhead_seconds,
        elapsed_seconds=max(0, begun.deadline_seconds - math.floor(work.seconds)),
        done_seconds=max(0, begun.work_seconds - work.each_seconds(begun.machines)),
        running=_place(running, view),
        overhead_left_seconds=left,
    )


def _counted(machines: Sequence[Instance], where: Sequence[str]) -> tuple[tuple[str, bool, int], ...]:
    counts = Counter((place, one.status is Status.READY) for one, place in zip(machines, where, strict=True))
    return tuple(sorted((place, ready, count) for (place, ready), count in counts.items()))


def _word(run: int, view: Outlook) -> str:
    return WORDS.get(run) or view.pools[run] if run != IDLE else WORDS[IDLE]


def _place(word: str, view: Outlook) -> int:
    if word == WORDS[ON_DEMAND]:
        return ON_DEMAND
    return view.pools.index(word) if word in view.pools else IDLE


def _plain(known: _Known) -> Plain:
    return {
        "outlooks": {name: outlook.plain(one) for name, one in known.outlooks.items()},
        "begun": None if known.begun is None else asdict(known.begun),
    }


def _restored(kept: Plain | None) -> _Known:
    """What `_plain` gave, also after JSON. Nothing is known from what another version has written in another shape."""
    try:
        return _Known() if kept is None else _shaped(kept)
    except (AttributeError, KeyError, TypeError, ValueError):
        return _Known()


def _shaped(kept: Plain) -> _Known:
    begun = kept["begun"]
    if begun is not None:
        there = tuple((place, ready, count) for place, ready, count in begun["there"])
        begun = _Begun(**{**begun, "there": there})
    return _Known(outlooks={name: outlook.restored(one) for name, one in kept["outlooks"].items()}, begun=begun)
