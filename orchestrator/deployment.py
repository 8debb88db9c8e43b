"""From a spec to a running deployment: the one function where everything is wired."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fractions import Fraction
from functools import partial
from pathlib import Path

from orchestrator import cloud, draw, hosts, machine, spec
from orchestrator.clock import Clock
from orchestrator.doorway import HttpDoor
from orchestrator.draw import Draw
from orchestrator.errors import Refused
from orchestrator.executors.http import HttpExecutor
from orchestrator.executors.room import Room
from orchestrator.ledger import deployments, fleet, offers
from orchestrator.ledger.deployments import Deployment
from orchestrator.ledger.store import Ledger
from orchestrator.pinning import Pins
from orchestrator.probes import Health, HttpProbes, Probes
from orchestrator.providers import Provider
from orchestrator.providers.local import LocalProvider
from orchestrator.providers.simulated import SCHEME, Conditions, SimulatedProvider
from orchestrator.providers.ssh.provider import SshProvider
from orchestrator.spec import Spec
from orchestrator.weights import weighed
from orchestrator.world import World
from policies import budget as budgets
from policies import scaling
from policies.decide import Policy
from policies.lifecycle import Status
from policies.policy import HAZARD
from policies.snapshot import Offer, Profile, Purchase
from policies.windows import Override


@dataclass(slots=True, kw_only=True)
class Running:
    """A deployment that is being kept true, its door, and the batch items' way through that door."""

    row: Deployment
    spec: Spec
    world: World
    door: HttpDoor
    executor: HttpExecutor | None = None
    rooms: Room = field(default_factory=Room)

    def room(self) -> int:
        """How many batch items may be under way at once: enough to keep every replica busy, none without any.

        What waits at the door asks for replicas, and whether a batch gets some is not for the door to say. Whoever else
        asks goes before what waits at a replica.
        """
        with self.world.ledger.read() as tx:
            ready = [one.url for one in fleet.machines(tx, self.row.name) if one.status is Status.READY]
        return self.rooms.of(ready)

    def ensure_door(self) -> None:
        """Have the door's process up. Raises Refused when its address is taken."""
        url = self.door.ensure(self.spec)
        if self.executor is None or self.executor.url != f"{url}/v1/ocr":
            self.executor = HttpExecutor(f"{url}/v1/ocr", token=self.spec.door.token)

    def close(self) -> None:
        """Let go of connections. Replicas and the door go on."""
        self.door.close()
        self.rooms.close()
        if isinstance(self.world.probes, HttpProbes | ProbesByAddress):
            self.world.probes.close()


def close_door(door: HttpDoor, ledger: Ledger) -> None:
    """Close a door's process; what it has counted is written down first."""
    counted = door.load(datetime.min.replace(tzinfo=UTC))
    if counted is not None:
        with ledger.write() as tx:
            deployments.record_loads(tx, counted.minutes)
    door.stop()


def open_running(home: Path, clock: Clock, ledger: Ledger, row: Deployment) -> Running:
    """Wire one deployment of the ledger to the outside. Raises Refused for a spec that no longer parses."""
    wanted = spec.parse(row.spec, row.source)
    with ledger.read() as tx:
        left = [one.provider for one in fleet.machines(tx, row.name)]  # of a provider that the spec names no more
    providers = open_providers(wanted, home, clock, left)
    if "simulated" in providers:
        record_simulated_speed(ledger, wanted, [wanted.simulated.gpu], clock.now())
    door = HttpDoor(home, row.name, partial(weighed, ledger, row.name, wanted.model))
    world = World(
        deployment=row.name,
        digest=wanted.replica_digest(),
        payload={**payload_of(wanted), **cloud.frozen(wanted, home)},
        wishes=wishes_of(wanted, row, home),
        clock=clock,
        ledger=ledger,
        providers=providers,
        probes=probes_for(providers, home),
        door=door,
    )
    return Running(row=row, spec=wanted, world=world, door=door)


def open_providers(wanted: Spec, home: Path, clock: Clock, left: Iterable[str] = ()) -> dict[str, Provider]:
    """The spec's providers, in its order of preference, and those that still have machines of it.

    Raises Refused for one that is not built yet.
    """
    opened: dict[str, Provider] = {}
    for name in dict.fromkeys((*wanted.provider, *left)):
        if name == "local":
            opened[name] = LocalProvider(home, clock, offered_here(wanted, home))
        elif name == "ssh":
            opened[name] = SshProvider(home, clock, hosts.offered(wanted), wanted.replica_digest())
        elif name == "simulated":
            conditions = Conditions(
                offers=simulated_offers(wanted),
                boot_seconds=wanted.simulated.boot.total_seconds(),
                notice_seconds=wanted.simulated.notice.total_seconds(),
            )
            opened[name] = SimulatedProvider(clock, conditions, home / "simulated.json")
        elif name == "aws" and wanted.aws is not None:
            opened[name] = cloud.provider(wanted.aws, home, clock)
        else:
            raise Refused(f"{wanted.name}: provider {name} is not part of this version, or its section is missing")
    return opened


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbesByAddress:
    """Simulated replicas answer for themselves; all others are asked over HTTP."""

    simulated: SimulatedProvider
    http: HttpProbes

    def health(self, url: str) -> Health | None:
        return self._of(url).health(url)

    def drain(self, url: str) -> bool:
        return self._of(url).drain(url)

    def close(self) -> None:
        self.http.close()

    def _of(self, url: str) -> Probes:
        return self.simulated if url.startswith(SCHEME) else self.http


def probes_for(providers: Mapping[str, Provider], home: Path) -> HttpProbes | ProbesByAddress:
    """How the replicas of these providers are asked."""
    simulated = providers.get("simulated")
    http = HttpProbes(Pins(home).transport())
    return ProbesByAddress(simulated=simulated, http=http) if isinstance(simulated, SimulatedProvider) else http


def payload_of(wanted: Spec) -> dict[str, object]:
    """What a replica is started with, frozen into its launch intent."""
    options = wanted.engine.model_dump(mode="json")
    return {
        "deployment": wanted.name,
        "model": wanted.model,
        "engine": {name: value for name, value in options.items() if value not in ("auto", [])},
    }


def policy_of(wanted: Spec, row: Deployment, ledger: Ledger) -> Callable[[datetime], Policy]:
    """The spec in the policies' words, by the start that the ledger has measured when it is asked."""
    at_start = wishes_of(wanted, row)

    def policy(now: datetime) -> Policy:
        with ledger.read() as tx:
            start_seconds = fleet.start_seconds(tx, row.name)
        return at_start(now, start_seconds)

    return policy


def wishes_of(wanted: Spec, row: Deployment, home: Path | None = None) -> Callable[[datetime, float | None], Policy]:
    """The spec in the policies' words. What depends on the moment: holidays, the override, the measured start; and the
    power that one's own machines draw, where `home` says where that is kept.
    """
    override = None
    if row.override_state in ("open", "closed") and row.override_until is not None:
        override = Override(state="open" if row.override_state == "open" else "closed", until=row.override_until)

    def policy(now: datetime, start_seconds: float | None) -> Policy:
        live = override if override is not None and now < override.until else None
        return replace(wishes(wanted, now, start_seconds, live, electricity(wanted, home)), wanted=row.wanted == "up")

    return policy


def wishes(
    wanted: Spec, now: datetime, start_seconds: float | None, held: Override | None, marginal: Mapping[str, int]
) -> Policy:
    """A spec alone in the policies' words: what `halve plan` and the daemon both choose machines by."""
    return Policy(
        model=wanted.model,
        schedule=wanted.schedule_for(now, held, start_seconds),
        providers=wanted.provider,
        currency=wanted.currency,
        rates={code: Fraction(rate.rate) for code, rate in wanted.rates.items()},
        marginal_micros=marginal,
        gpus=wanted.selection.gpus or (),
        p95_ms=wanted.slo.p95.total_seconds() * 1000 if wanted.slo else None,
        try_unmeasured=wanted.selection.unmeasured == "try-one",
        spot=wanted.spot is not None,
        placing=wanted.spot.policy if wanted.spot else HAZARD,
        availability=wanted.spot.availability if wanted.spot else 0.99,
        guard=wanted.spot is not None and wanted.spot.guard,
        base_on_demand=wanted.spot.base_on_demand if wanted.spot else 0,
        surge=wanted.replicas.surge,
        start_seconds=scaling.START_UNMEASURED_SECONDS if start_seconds is None else start_seconds,
        limit=budget_of(wanted),
    )


def electricity(wanted: Spec, home: Path | None = None) -> dict[str, int]:
    """What one more hour of a machine of one's own costs where its electricity is known: its rent is paid anyway."""
    there = hosts.electricity(wanted, home) if "ssh" in wanted.provider else {}
    if wanted.local.power is None or "local" not in wanted.provider:
        return there
    drawn = draw.of_device() if home is None else draw.kept(home)
    micros = hosts.energy_micros(wanted, wanted.local.power, hosts.working_watts(wanted.local.power, drawn))
    return there if micros is None else {**there, local_id(wanted): micros}


def budget_of(wanted: Spec) -> budgets.Budget | None:
    """The spec's budget in its own currency; None when there is none."""
    if wanted.budget is None:
        return None

    def micros(amount: spec.Money | None) -> int | None:
        converted = None if amount is None else wanted.convert(amount)
        return None if converted is None else converted.micros

    return budgets.Budget(
        monthly_micros=micros(wanted.budget.monthly),
        daily_micros=micros(wanted.budget.daily),
        at=tuple((share, budgets.Brake(step)) for share, step in wanted.budget.at.items()),
    )


def offered_here(wanted: Spec, home: Path) -> Callable[[], Offer]:
    """This machine as an offer, by the power that it draws now."""
    if wanted.local.power is None:
        return lambda: local_offer(wanted)
    watch = draw.watch(home)
    return lambda: local_offer(wanted, watch.look(time.monotonic()))


def local_offer(wanted: Spec, drawn: Draw | None = None) -> Offer:
    """This machine as an offer: rent, amortisation and electricity added up; unknown as soon as one part is.

    It is charged once however many replicas a deployment has here; but each deployment on it charges it for itself.
    """
    name, _ = machine.device()
    micros = hosts.hourly_micros(wanted, wanted.local, drawn or draw.of_device())
    return Offer(
        id=local_id(wanted),
        provider="local",
        zone="this",
        instance_type="this",
        gpu=wanted.local.gpu or name,
        purchase=Purchase.OWNED,
        price_per_hour_micros=micros,
        currency=wanted.currency if micros is not None else "",
    )


def local_id(wanted: Spec) -> str:
    """Its price is what this spec says, whatever another one does."""
    return f"local/this/{wanted.name}"


def simulated_offers(wanted: Spec) -> tuple[Offer, ...]:
    """Every zone of the simulated market: on demand, and spot where the spec gives its price."""
    market = wanted.simulated
    terms = [(Purchase.ON_DEMAND, market.price_per_hour), (Purchase.SPOT, market.spot_price_per_hour)]
    return tuple(
        Offer(
            id=f"simulated/{wanted.name}/sim-{zone}/{market.gpu.lower().replace(' ', '-')}/{purchase}",
            provider="simulated",
            zone=f"sim-{zone}",
            instance_type=market.gpu.lower().replace(" ", "-"),
            gpu=market.gpu,
            purchase=purchase,
            price_per_hour_micros=price.micros,
            currency=price.currency,
        )
        for purchase, price in terms
        if price is not None
        for zone in range(1, market.zones + 1)
    )


def simulated_profile(wanted: Spec, gpu: str) -> Profile:
    """The speed that the spec gives a simulated machine, marked as simulated."""
    speed = wanted.simulated.images_per_second
    return Profile(
        model=wanted.model,
        gpu=gpu,
        precision="simulated",
        batch=1,
        images_per_second=speed,
        p95_ms=1000 / speed,
        source="simulated",
    )


def record_simulated_speed(ledger: Ledger, wanted: Spec, gpus: Iterable[str], now: datetime) -> None:
    """Give these GPUs the speed that the spec says, unless it is known already."""
    with ledger.write() as tx:
        known = offers.profiles(tx, wanted.model)
        for gpu in sorted(set(gpus)):
            profile = simulated_profile(wanted, gpu)
            if profile not in known:
                offers.add_profile(tx, profile, now, note="from the spec's simulated section")
