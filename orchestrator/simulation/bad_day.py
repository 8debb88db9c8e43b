"""A bad day, drawn from a seed: a spec, a market with its troubles, and what happens to the daemon meanwhile. Pure."""

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from orchestrator.billing import Terms
from orchestrator.errors import Refused
from orchestrator.providers.simulated import Conditions, Kind, Move, Outage, Trouble
from orchestrator.simulation.shared_market import Late, Neighbour, Tag
from orchestrator.simulation.wanted import NAME, specs
from policies.snapshot import Offer, Purchase

SECOND_NAME = f"{NAME}-2"
ZONES = ("sim-1", "sim-2", "sim-3")
#: a price is published at the latest so many hours after it came into force
PUBLISHED_HOURS = 3.0
#: seconds; a machine that is listed only after the time that a start may take is one of the rare troubles
LISTING_DELAYS = (0.0, 0.0, 0.0, 5.0, 5.0, 5.0, 30.0, 30.0, 30.0, 900.0)
#: faults are over at the latest so many hours after the start
HOURS = 16.0


class Fault(StrEnum):
    """What may go wrong."""

    # of the daemon
    CRASH = "crash"  # it dies before or after one effect, and is started again
    PAUSE = "pause"  # nobody runs it for minutes or hours
    CLOCK = "clock"  # somebody sets its clock, forwards or back
    DST = "dst"  # the night in which the local clock is changed
    DISK = "disk"  # there is no room for the ledger
    TWO = "two-daemons"  # another one takes over in the middle of a tick; the first goes on when it wakes
    SPEC = "spec"  # the spec is changed under way
    RESTORE = "restore"  # the ledger is put back to what it was hours ago
    # of the market
    STORM = "storm"  # spot machines are taken back again and again
    DROUGHT = "drought"  # there are no machines, on demand neither
    PRICE = "price"  # prices jump
    LATE_PRICE = "late-price"  # prices jump, and it is published hours later, in any order
    NETWORK = "network"  # the provider and all its machines cannot be reached
    THROTTLING = "throttling"
    SILENCE = "silence"  # calls take effect and their answers are lost
    LISTING = "listing"  # it is stale, or lists everything twice
    QUOTA = "quota"  # the account may have fewer machines than are wanted
    REFUSING = "refusing"  # every launch is refused as a mistake
    NEVER_READY = "never-ready"
    STILLBORN = "stillborn"  # machines end while they boot
    LOSS = "loss"  # one machine is taken back without a notice
    DEATH = "death"  # one machine ends by itself
    SWITCH_OFF = "switch-off"  # somebody switches one machine off
    SWITCH_ON = "switch-on"  # and on again some minutes later, or before anybody has looked
    POISON = "poison"  # an item of a batch ends every machine that reads it


ALL = frozenset(Fault)
#: what happens to the daemon, or to one machine, at a moment; the rest is the market's weather
MOMENTS = (
    Fault.CRASH,
    Fault.PAUSE,
    Fault.CLOCK,
    Fault.DISK,
    Fault.TWO,
    Fault.SPEC,
    Fault.RESTORE,
    Fault.LOSS,
    Fault.DEATH,
    Fault.SWITCH_OFF,
    Fault.SWITCH_ON,
)
#: these happen once or not at all
ONCE = (Fault.DST, Fault.QUOTA, Fault.POISON)
SPELLS = {
    Fault.NETWORK: (Kind.UNREACHABLE,),
    Fault.THROTTLING: (Kind.THROTTLED,),
    Fault.SILENCE: (Kind.SILENT,),
    Fault.LISTING: (Kind.STALE, Kind.DOUBLED),
    Fault.DROUGHT: (Kind.DROUGHT,),
    Fault.REFUSING: (Kind.REFUSING,),
    Fault.NEVER_READY: (Kind.NEVER_READY,),
    Fault.STILLBORN: (Kind.STILLBORN,),
}
#: local dates on whose night the clock is changed, by zone
CHANGES = (
    ("Europe/Berlin", datetime(2026, 3, 28, 12, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 10, 24, 12, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 3, 7, 18, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 10, 31, 18, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 4, tzinfo=UTC)),
)
#: how a batch of the day may be
ITEMS = (0, 0, 40, 200)
#: names that others give their machines: ours, or almost
NAMES = (NAME, f"{NAME}-", f"{NAME}-3", NAME.upper(), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """Something that happens at a moment. `size` is in [0, 1): how bad, how long, or which one."""

    at: datetime
    fault: Fault
    size: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """One deployment of a day."""

    name: str
    specs: tuple[str, ...]  # the versions of its spec, in the order in which they are put up
    items: int  # of a batch that is submitted at the start


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """Everything about a day that its seed decides. Beyond `end` nothing goes wrong any more."""

    seed: int
    start: datetime
    end: datetime
    deployed: tuple[Deployed, ...]
    conditions: Conditions
    neighbours: tuple[Neighbour, ...]  # what others have in the same market
    late: tuple[Late, ...]
    incidents: tuple[Incident, ...]
    faults: tuple[Fault, ...]  # that were drawn, each as often as it happens

    @property
    def poisoned(self) -> bool:
        return Fault.POISON in self.faults


def faults_of(names: str) -> frozenset[Fault]:
    """`all`, or names with commas between. Raises Refused for one that is none."""
    if names == "all":
        return ALL
    asked = [name.strip() for name in names.split(",") if name.strip()]
    known = {str(fault): fault for fault in Fault}
    for name in asked:
        if name not in known:
            raise Refused(f"--faults {name}: unknown; all, or some of {', '.join(known)}")
    return frozenset(known[name] for name in asked)


@dataclass(slots=True)
class _Draft:
    chance: random.Random
    start: datetime
    outages: list[Outage] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    late: list[Late] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    quota: int | None = None

    def moment(self) -> datetime:
        """Half of the troubles come in the first three hours: that is when most of it starts."""
        hours = self.chance.uniform(0.0, 3.0 if self.chance.random() < 0.5 else 0.8 * HOURS)
        return self.start + timedelta(seconds=round(hours * 3600))

    def spell(self, longest_hours: float = 3.0) -> tuple[datetime, datetime]:
        begin = self.moment()
        length = min(longest_hours, self.chance.lognormvariate(-1.5, 1.2))
        return begin, min(begin + timedelta(seconds=round(60 + length * 3600)), self.start + timedelta(hours=HOURS))

    def zone(self) -> str:
        return "" if self.chance.random() < 0.5 else self.chance.choice(ZONES)


def draw(seed: int, faults: Collection[Fault], offers_of: Callable[[str], Sequence[Offer]]) -> Day:
    """The day of this seed: the same seed and faults are the same day. `offers_of` says what a spec's market offers."""
    chance = random.Random(f"bad day {seed}")
    allowed = sorted(faults)
    kinds = chance.sample(allowed, min(len(allowed), chance.randint(1, 6)))
    zone, start = _when(chance, kinds)
    draft = _Draft(chance=chance, start=start)
    deployed = _deployed(chance, zone, ITEMS[-2:] if Fault.POISON in kinds else ITEMS)
    offers = tuple(offers_of(deployed[0].specs[0]))
    drawn: list[Fault] = []
    for fault in kinds:
        often = 1 if fault in ONCE else chance.randint(1, 5 if fault in MOMENTS else 2)
        drawn += [fault] * often
        for _ in range(often):
            _happen(draft, fault, offers)
    terms = chance.choice((
        Terms(),
        Terms(minimum_seconds=60),
        Terms(minimum_seconds=60, first_hour_free=True, disk_per_hour_micros=13_700),
    ))  # fmt: skip
    conditions = Conditions(
        offers=offers,
        boot_seconds=chance.choice((20.0, 45.0, 90.0)),
        listing_delay_seconds=chance.choice(LISTING_DELAYS),
        listed_after_end_seconds=chance.choice((3600.0, 172_800.0, 172_800.0)),
        notice_seconds=chance.choice((0.0, 120.0)),
        outages=tuple(draft.outages),
        moves=tuple(sorted(draft.moves, key=lambda move: move.at)),
        troubles=tuple(draft.troubles),
        quota=draft.quota,
        terms=terms,
    )
    return Day(
        seed=seed,
        start=start,
        end=start + timedelta(hours=HOURS),
        deployed=deployed,
        conditions=conditions,
        neighbours=_neighbours(draft, offers),
        late=tuple(draft.late),
        incidents=tuple(sorted(draft.incidents, key=lambda one: (one.at, one.fault, one.size))),
        faults=tuple(drawn),
    )


def _when(chance: random.Random, kinds: Collection[Fault]) -> tuple[str, datetime]:
    if Fault.DST in kinds:
        return chance.choice(CHANGES)
    day = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=chance.randrange(300), minutes=chance.randrange(1440))
    if chance.random() < 0.2:  # its night is a month's edge
        day = (day.replace(day=1) + timedelta(days=32)).replace(day=1) - timedelta(hours=chance.uniform(1.0, 12.0))
        day = day.replace(microsecond=0)
    return chance.choice(("UTC", "Asia/Shanghai", "Europe/Berlin", "America/New_York")), day


def _deployed(chance: random.Random, zone: str, items: Sequence[int]) -> tuple[Deployed, ...]:
    """One deployment, or two in the same market and ledger."""
    names = (NAME, SECOND_NAME) if chance.random() < 0.25 else (NAME,)
    prices = round(chance.uniform(0.4, 1.6), 6), round(chance.uniform(0.1, 0.39), 6)
    return tuple(
        Deployed(name=name, specs=specs(chance, name, zone, prices), items=chance.choice(items)) for name in names
    )


def _neighbours(draft: _Draft, offers: Sequence[Offer]) -> tuple[Neighbour, ...]:
    """On half of the days somebody else has machines in the market, from the start on or later."""
    chance = draft.chance
    on_demand = [offer.id for offer in offers if offer.purchase is Purchase.ON_DEMAND]
    count = chance.choice((0, 0, 1, 2, 3, 4))
    found = []
    for _ in range(count):
        tag = chance.choice(tuple(Tag))
        names = [name for name in NAMES if tag is not Tag.ALIKE or name not in ("", NAME)]
        found.append(
            Neighbour(
                token=f"{chance.getrandbits(160):040x}",
                offer_id=chance.choice(on_demand),
                arrives_at=draft.start if chance.random() < 0.5 else draft.moment(),
                tag=tag,
                deployment="" if tag is Tag.NONE else chance.choice(names),
            )
        )
    return tuple(found)


def _happen(draft: _Draft, fault: Fault, offers: Sequence[Offer]) -> None:
    chance = draft.chance
    if fault in MOMENTS:
        at, size = draft.moment(), chance.random()
        draft.incidents.append(Incident(at=at, fault=fault, size=size))
        if fault is Fault.SWITCH_ON:
            off = at - timedelta(seconds=round(min(600.0, chance.expovariate(1 / 60))))
            draft.incidents.append(Incident(at=max(off, draft.start), fault=Fault.SWITCH_OFF, size=size))
    elif fault in SPELLS:
        start, end = draft.spell()
        everywhere = fault in (Fault.NETWORK, Fault.THROTTLING, Fault.SILENCE, Fault.LISTING)
        zone = "" if everywhere else draft.zone()
        draft.troubles.append(Trouble(kind=chance.choice(SPELLS[fault]), start=start, end=end, zone=zone))
    elif fault is Fault.STORM:
        at, zone, notice = draft.moment(), chance.choice(ZONES), chance.random() < 0.5
        for _ in range(chance.randint(2, 8)):
            over = min(
                at + timedelta(seconds=round(chance.lognormvariate(6.0, 1.5))), draft.start + timedelta(hours=HOURS)
            )
            if at < over:
                draft.outages.append(Outage(zone=zone, start=at, end=over, notice=notice))
            at = over + timedelta(seconds=round(chance.lognormvariate(6.5, 1.0)))
    elif fault in (Fault.PRICE, Fault.LATE_PRICE):
        for _ in range(chance.randint(1, 4)):
            offer = chance.choice(offers)
            price = round((offer.price_per_hour_micros or 1) * chance.lognormvariate(0.0, 0.8))
            move = Move(offer_id=offer.id, at=draft.moment(), price_per_hour_micros=price)
            draft.moves.append(move)
            if fault is Fault.LATE_PRICE:
                after = timedelta(seconds=round(60 + chance.random() * PUBLISHED_HOURS * 3600))
                draft.late.append(Late(move=move, published_at=move.at + after))
    elif fault is Fault.QUOTA:
        draft.quota = chance.randint(1, 2)
