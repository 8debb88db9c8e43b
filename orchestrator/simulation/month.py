"""A month of the production loop on a virtual clock: the same tick, another clock, provider and door."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from orchestrator import deployment, hosts
from orchestrator.clock import VirtualClock
from orchestrator.door.serving import ServingSet
from orchestrator.draw import UNKNOWN
from orchestrator.errors import Refused
from orchestrator.ledger import deployments, fleet
from orchestrator.ledger.store import Ledger, open_file
from orchestrator.probes import Health
from orchestrator.providers.simulated import Conditions, SimulatedProvider
from orchestrator.reports.frame import year_and_month
from orchestrator.scheduler import tick
from orchestrator.simulation import market
from orchestrator.simulation.recorded import outages
from orchestrator.spec import Spec
from orchestrator.world import DoorLoad, World
from policies import windows
from policies.lifecycle import LIVE, Status
from policies.plan import Plan
from policies.snapshot import Offer

MINUTE = timedelta(minutes=1)
#: between ticks while something is open; edges, boots, notices and losses are met on time
STEP = timedelta(minutes=10)
#: between ticks while replicas are missing: a refused pool will be asked again
RETRY = timedelta(seconds=30)
#: share of one replica's throughput that the synthetic peak asks for, for each replica of the minimum
PEAK_SHARE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Month:
    """What a simulated month was, besides its ledger."""

    ticks: int
    launches: int
    preemptions: int
    images: int
    refused: int
    meter_micros: int  # what the market's own meter says that it cost; it counts a box of ours once per engine


class SimulatedDoor:
    """A door that people knock at by a curve; what its replicas can read is read, the rest is refused."""

    def __init__(self, clock: VirtualClock, asked: Callable[[datetime], int], images_per_second: float) -> None:
        self._clock = clock
        self._asked = asked
        self._per_minute = images_per_second * 60
        self._serving: ServingSet | None = None
        self._counted_until = clock.now()
        self._wanted = 0  # in the last whole minute
        self.name = ""

    @property
    def serving(self) -> ServingSet | None:
        """Who was last said to serve."""
        return self._serving

    def publish(self, serving: ServingSet) -> None:
        self._serving = serving

    def in_flight(self, replica_id: str) -> int | None:
        return 0

    def load(self, after: datetime) -> DoorLoad | None:
        """The minutes since the last call, served by whoever was in the door since then."""
        rows: list[dict[str, object]] = []
        minute = self._counted_until
        while minute + MINUTE <= self._clock.now():
            self._wanted = self._asked(minute) if self._serving is not None and self._serving.open else 0
            rows += self._minute(minute, self._wanted)
            minute += MINUTE
        self._counted_until = minute
        return DoorLoad(minutes=tuple(rows), images_per_second=self._wanted / 60, waiting=0)

    def _minute(self, minute: datetime, wanted: int) -> list[dict[str, object]]:
        replicas = self._serving.replicas if self._serving is not None else ()
        served = min(wanted, int(self._per_minute * len(replicas)))
        rows: list[dict[str, object]] = []
        for place, replica in enumerate(replicas):
            share = served * (place + 1) // len(replicas) - served * place // len(replicas)
            if share:
                rows.append({"deployment": self.name, "instance_id": replica.id, "at": minute, "images": share})
        total = {"requests": wanted, "refused": wanted - served}
        rows.append({"deployment": self.name, "instance_id": "", "at": minute, **total})
        return rows


class SimulatedProbes:
    """Asks whichever of several simulated providers knows the replica."""

    def __init__(self, providers: list[SimulatedProvider]) -> None:
        self._providers = providers

    def health(self, url: str) -> Health | None:
        return next((health for one in self._providers if (health := one.health(url)) is not None), None)

    def drain(self, url: str) -> bool:
        return any(one.drain(url) for one in self._providers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What is not to be made up: how many images are asked for in a minute, and a trace of spot for each zone."""

    images: Callable[[datetime], int] | None = None
    traces: tuple[Path, ...] = ()


NOTHING = Recorded()


def simulate(
    wanted: Spec,
    text: str,
    source: str,
    month: str,
    path: Path,
    seed: int,
    recorded: Recorded = NOTHING,
    each: Callable[[timedelta], object] = lambda lived: None,
) -> Month:
    """Run the loop over a month and write its ledger to `path`, whole or not at all.

    The load is a working day's and spot's outages are drawn from the seed, but for what is `recorded`. `each` is told
    before every tick how much of the month is over. Raises Refused when `path` holds a real ledger, when the spec has
    no price to simulate with, and for traces of another market.
    """
    start, end = local_month(wanted, month)
    if path.exists():
        kept = open_file(path)
        real = not kept.simulated()
        kept.close()
        if real:
            raise Refused(f"ledger {path}: holds real money; simulated and real never mix: name another file")
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        ledger = open_file(draft, simulated=True, create=True)
        try:
            ledger.hurry()  # a draft that a crash tears is thrown away anyway
            result = _run(wanted, text, source, ledger, start, end, seed, recorded, each)
        finally:
            ledger.close()
        draft.replace(path)
    except OSError as error:
        raise Refused(f"ledger {path}: {error.strerror}") from None
    except Refused as refusal:
        raise Refused(str(refusal).replace(str(draft), str(path))) from None
    finally:
        for left in draft.parent.glob(f"{draft.name}*"):
            left.unlink()
    return result


def local_month(wanted: Spec, month: str) -> tuple[datetime, datetime]:
    """The month's start and end in the spec's zone. Raises Refused for a month that is none."""
    first, following = calendar_month(month)
    zone = wanted.schedule_over(first, following).zone
    moments = [datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC) for day in (first, following)]
    return moments[0], moments[1]


def calendar_month(month: str) -> tuple[date, date]:
    """Its first day and that of the month after it. Raises Refused for a month that is none."""
    first = date(*year_and_month(month), 1)
    return first, (first + timedelta(days=31)).replace(day=1)


def working_day(wanted: Spec, start: datetime, seed: int) -> Callable[[datetime], int]:
    """The load that the spec's fewest replicas would carry at half their speed when it is at its peak."""
    peak = wanted.simulated.images_per_second * PEAK_SHARE * max(1, wanted.replicas.min)
    return market.working_day(peak, wanted.schedule_for(start).zone, seed)


def _run(
    wanted: Spec,
    text: str,
    source: str,
    ledger: Ledger,
    start: datetime,
    end: datetime,
    seed: int,
    recorded: Recorded,
    each: Callable[[timedelta], object],
) -> Month:
    clock = VirtualClock(start)
    providers = _providers(wanted, clock, start, end, seed, recorded.traces)
    with ledger.write() as tx:
        deployments.put_up(tx, wanted.name, text, source, start)
        row = deployments.get(tx, wanted.name)
    assert row is not None  # it was put up in this very transaction
    speed = wanted.simulated.images_per_second
    gpus = [offer.gpu for one in providers.values() for offer in one.offers()]
    deployment.record_simulated_speed(ledger, wanted, gpus, start)
    door = SimulatedDoor(clock, recorded.images or working_day(wanted, start, seed), speed)
    door.name = wanted.name
    world = World(
        deployment=wanted.name,
        digest=wanted.replica_digest(),
        payload=deployment.payload_of(wanted),
        wishes=deployment.wishes_of(wanted, row),
        clock=clock,
        ledger=ledger,
        providers=providers,
        probes=SimulatedProbes(list(providers.values())),
        door=door,
    )
    ticks = 0
    while clock.now() < end:
        each(clock.now() - start)
        plan = tick(world)
        ticks += 1
        clock.jump(min(_next(world, providers, plan), end))
    down = replace(row, wanted="down")
    world = replace(world, wishes=deployment.wishes_of(wanted, down))
    with ledger.write() as tx:
        deployments.take_down(tx, wanted.name, clock.now())
    while True:  # once at the month's very end, and until nothing costs money any more
        tick(world)
        ticks += 1
        if not _running(world):
            return _summary(world, providers, ticks)
        clock.sleep(1.0)


def _next(world: World, providers: dict[str, SimulatedProvider], plan: Plan) -> datetime:
    """When to tick again: at once after something was done, soon while something is missing, else at the next event."""
    now = world.clock.now()
    if plan.actions:
        return now + timedelta(seconds=1)
    missing = plan.target.replicas - sum(machine.status in LIVE for machine in _running(world))
    if missing > 0:
        return now + RETRY
    moments = [windows.next_edge(world.policy(now).schedule, now)]
    if _running(world) or windows.bounds(world.policy(now).schedule, now).open:
        moments += [now + STEP, *(one.next_event(now) for one in providers.values())]
    return min((at for at in moments if at is not None), default=now + STEP)


def _running(world: World) -> tuple[fleet.Machine, ...]:
    with world.ledger.read() as tx:
        return fleet.machines(tx, world.deployment)


def _providers(
    wanted: Spec, clock: VirtualClock, start: datetime, end: datetime, seed: int, traces: Sequence[Path]
) -> dict[str, SimulatedProvider]:
    """Every provider of the spec, replaced by a simulated one that rents out the same offers at the same prices."""
    found: dict[str, SimulatedProvider] = {}
    for name in wanted.provider:
        offered = _offers(wanted, name)
        zones = sorted({offer.zone for offer in offered})
        spells = market.outages(zones, wanted.simulated.preemptions_per_day, start, end, seed)
        if traces and name == "simulated":
            spells = outages(traces, zones, start, end)
        found[name] = SimulatedProvider(
            clock,
            Conditions(
                offers=offered,
                boot_seconds=wanted.simulated.boot.total_seconds(),
                notice_seconds=wanted.simulated.notice.total_seconds(),
                outages=spells,
            ),
        )
    return found


def _offers(wanted: Spec, provider: str) -> tuple[Offer, ...]:
    if provider == "local":
        return (deployment.local_offer(wanted),)
    if provider == "simulated":
        found = deployment.simulated_offers(wanted)
        if found:
            return found
        raise Refused(f"{wanted.name}: simulated.price_per_hour: missing; a market needs a price")
    if provider == "ssh":  # each host once, as it is when somebody has named its GPU
        found = tuple(one for host in hosts.offered(wanted) if (one := host.offer(None, UNKNOWN)) is not None)
        if found:
            return tuple(replace(one, capacity=1) for one in found)
        raise Refused(f"{wanted.name}: ssh.hosts: gpu: auto cannot be simulated; name the GPU of each host")
    raise Refused(
        f"{wanted.name}: provider {provider} cannot be simulated in this version; local, ssh and simulated can"
    )


def _summary(world: World, providers: dict[str, SimulatedProvider], ticks: int) -> Month:
    with world.ledger.read() as tx:
        machines = fleet.machines(tx, world.deployment, over=True)
        images, refused = deployments.totals(tx, world.deployment)
    return Month(
        ticks=ticks,
        launches=len(machines),
        preemptions=sum(machine.status is Status.PREEMPTED for machine in machines),
        images=images,
        refused=refused,
        meter_micros=sum(micros for one in providers.values() for micros in one.meter().values()),
    )
