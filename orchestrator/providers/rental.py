"""The machines of a simulated market: what became of each, whatever the market says of it.

Everything follows from what is asked for and from the moments that are handed in; nothing here knows a clock.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import accumulate

from orchestrator.providers import NO_TAGS, Tags
from policies.snapshot import Purchase


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """While it lasts, a zone has no spot machines, and those that run when it starts are taken back."""

    zone: str
    start: datetime
    end: datetime
    notice: bool = True  # False: nothing is announced


@dataclass(frozen=True, slots=True, kw_only=True)
class Rented:
    """A machine of the market."""

    token: str
    offer_id: str
    zone: str
    purchase: Purchase
    price_per_hour_micros: int  # at its launch; later ones follow from the moves
    launched_at: datetime
    ended_at: datetime | None = None
    preempted: bool = False
    draining: bool = False
    tags: Tags = NO_TAGS
    stops: tuple[tuple[datetime, datetime | None], ...] = ()  # switched off, and on again
    mute: bool = False  # it never answers
    stillborn: bool = False  # it ends by itself half way through its boot

    @property
    def stopped_at(self) -> datetime | None:
        """Since when it is switched off; of one that is over: was, at its end."""
        return self.stops[-1][0] if self.stops and self.stops[-1][1] is None else None

    @property
    def booted_from(self) -> datetime:
        """When it was last switched on."""
        return next((on for _, on in reversed(self.stops) if on is not None), self.launched_at)

    def spells(self, until: datetime) -> Iterator[tuple[datetime, datetime]]:
        """When it ran, up to `until` or to its end, oldest first."""
        start = self.launched_at
        end = until if self.ended_at is None else min(until, self.ended_at)
        for off, on in self.stops:
            yield start, min(off, end)
            if on is None or on > end:
                return
            start = on
        yield start, end

    def as_of(self, at: datetime) -> "Rented":
        """This machine as it was at an earlier moment, which its launch had passed."""
        stops = tuple((off, on if on is not None and on <= at else None) for off, on in self.stops if off <= at)
        over = self.ended_at is not None and self.ended_at <= at
        return self if over else replace(self, stops=stops, ended_at=None, preempted=False)


class Outages:
    """When the zones have no spot machines; asked in logarithmic time, for a month holds hundreds."""

    def __init__(self, outages: Iterable[Outage], notice_seconds: float) -> None:
        self._notice = timedelta(seconds=notice_seconds)
        self._by_zone: dict[str, list[Outage]] = {}
        for one in sorted(outages, key=lambda one: one.start):
            self._by_zone.setdefault(one.zone, []).append(one)
        self._starts = {zone: [one.start for one in all_] for zone, all_ in self._by_zone.items()}
        self._announced = {zone: [one.start for one in all_ if one.notice] for zone, all_ in self._by_zone.items()}
        # the latest end of all outages up to this one: they may overlap
        self._ends = {zone: list(accumulate((one.end for one in all_), max)) for zone, all_ in self._by_zone.items()}

    def lasts(self, zone: str, at: datetime) -> bool:
        """Whether the zone has no spot machines at a moment."""
        begun = bisect_right(self._starts.get(zone, ()), at)
        return begun > 0 and at < self._ends[zone][begun - 1]

    def next_start(self, zone: str, after: datetime) -> datetime | None:
        """When spot machines that run after a moment are taken back."""
        return _first(self._starts.get(zone, ()), after)

    def announced(self, zone: str, at: datetime) -> datetime | None:
        """The end of the zone's spot machines that is known at a moment."""
        coming = _first(self._announced.get(zone, ()), at)
        return coming if coming is not None and coming - self._notice <= at else None

    def moments(self) -> Iterator[datetime]:
        """All moments at which something changes."""
        for one in (each for all_ in self._by_zone.values() for each in all_):
            yield from (one.start - self._notice, one.start, one.end) if one.notice else (one.start, one.end)


def _first(moments: Sequence[datetime], after: datetime) -> datetime | None:
    place = bisect_right(moments, after)
    return moments[place] if place < len(moments) else None


class Rental:
    """Every machine that anybody ever had, in the order of their launches."""

    def __init__(self, outages: Outages, boot_seconds: float, forgotten_after_seconds: float) -> None:
        self._outages = outages
        self._boot = timedelta(seconds=boot_seconds)
        self._forgotten_after = timedelta(seconds=forgotten_after_seconds)
        self.hold({})

    def hold(self, machines: Mapping[str, Rented]) -> None:
        """Forget all and start from these."""
        self.machines = dict(machines)
        #: those that are not over
        self.alive = {token: one for token, one in self.machines.items() if one.ended_at is None}
        #: those that are not over, or not for long: the only ones that a listing looks at
        self.recent = dict(self.machines)
        self._fates = {token: fate for token, one in self.alive.items() if (fate := self._fate(one)) is not None}
        self._next_fate = min(self._fates.values(), default=None)

    def advance(self, now: datetime) -> None:
        """Let everything happen that machines come to by themselves up to now."""
        while self._next_fate is not None and self._next_fate <= now:
            for token in [token for token, at in self._fates.items() if at == self._next_fate]:
                machine = self.alive[token]
                self.end(token, self._next_fate, preempted=self._taken_back(machine) == self._next_fate)
            self._next_fate = min(self._fates.values(), default=None)

    def add(self, machine: Rented) -> None:
        self._put(machine)
        self.recent[machine.token] = machine

    def end(self, token: str, at: datetime, *, preempted: bool) -> None:
        """End a machine; what is over, or never was, stays as it is."""
        if (machine := self.alive.get(token)) is not None:
            # not before what has happened to it, even where the clock was set back
            at = max(at, machine.stopped_at or machine.booted_from)
            self._put(replace(machine, ended_at=at, preempted=preempted))

    def stop(self, token: str, at: datetime) -> None:
        """Switch a machine off."""
        machine = self.alive.get(token)
        if machine is not None and machine.stopped_at is None:
            self._put(replace(machine, stops=(*machine.stops, (max(at, machine.booted_from), None)), draining=False))

    def start(self, token: str, at: datetime) -> None:
        """Switch a stopped machine on again; without spot capacity, or while it is still stopping, it stays off."""
        machine = self.alive.get(token)
        if machine is None or (off := machine.stopped_at) is None or at <= off:
            return
        if machine.purchase is not Purchase.SPOT or not self._outages.lasts(machine.zone, at):
            self._put(replace(machine, stops=(*machine.stops[:-1], (off, at))))

    def drain(self, token: str) -> None:
        if (machine := self.alive.get(token)) is not None and not machine.draining:
            self._put(replace(machine, draining=True))

    def listable(self, now: datetime) -> Iterable[Rented]:
        """Those that are not over, or not for long."""
        old = [
            token
            for token, one in self.recent.items()
            if one.ended_at is not None and now - one.ended_at >= self._forgotten_after
        ]
        for token in old:
            del self.recent[token]
        return self.recent.values()

    def count(self, offer_id: str) -> int:
        """How many machines of an offer are not over."""
        return sum(one.offer_id == offer_id for one in self.alive.values())

    def booted(self, machine: Rented, at: datetime) -> bool:
        """Whether a running machine is up."""
        return at - machine.booted_from >= self._boot

    def next_moment(self, after: datetime) -> datetime | None:
        """The next moment at which a machine that is there changes by itself."""
        ends = (at for at in self._fates.values() if at > after)
        boots = (one.booted_from + self._boot for one in self.alive.values() if one.stopped_at is None)
        return min((at for each in (ends, boots) for at in each if at > after), default=None)

    def _put(self, machine: Rented) -> None:
        token = machine.token
        self.machines[token] = machine
        if token in self.recent:
            self.recent[token] = machine
        if machine.ended_at is None:
            self.alive[token] = machine
        else:
            del self.alive[token]
        fate = self._fate(machine)
        if fate is None:
            self._fates.pop(token, None)  # `_next_fate` may now be too early, which costs one look
        else:
            self._fates[token] = fate
            self._next_fate = fate if self._next_fate is None else min(fate, self._next_fate)

    def _fate(self, machine: Rented) -> datetime | None:
        """When a machine that runs ends by itself."""
        if machine.ended_at is not None or machine.stopped_at is not None:
            return None
        dies = machine.booted_from + self._boot / 2 if machine.stillborn else None
        return min((at for at in (self._taken_back(machine), dies) if at is not None), default=None)

    def _taken_back(self, machine: Rented) -> datetime | None:
        spot = machine.purchase is Purchase.SPOT
        return self._outages.next_start(machine.zone, machine.booted_from) if spot else None
