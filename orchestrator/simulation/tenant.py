"""One deployment of a bad day: its door, its batch, the eyes on it, and its tick."""

from datetime import datetime, timedelta
from functools import lru_cache

from orchestrator import deployment, spec
from orchestrator.arrivals import left_alone_until, resting_spot
from orchestrator.clock import SetClock, VirtualClock
from orchestrator.invariants import Invariant
from orchestrator.ledger import beliefs, deployments, fleet, offers, pools
from orchestrator.providers import QuotaExceeded
from orchestrator.scheduler import tick
from orchestrator.simulation import market as weather
from orchestrator.simulation.bad_day import Day, Deployed
from orchestrator.simulation.batch import SimulatedBatch
from orchestrator.simulation.fuse import Fuse, fused
from orchestrator.simulation.home import Home
from orchestrator.simulation.outcome import Broken
from orchestrator.simulation.shared_market import SharedMarket
from orchestrator.simulation.sights import BusyDoor, Watcher
from orchestrator.world import World
from policies import windows
from policies.lifecycle import LIVE, Status
from policies.plan import Hours, Plan, Target
from policies.snapshot import Offer

SECOND = timedelta(seconds=1)
#: how the words of a launch begin that the account's quota refused
QUOTA = QuotaExceeded.__name__
#: between ticks while nothing happens, while something is missing, and while something leaves
STEP, RETRY, LEAVING = timedelta(minutes=20), timedelta(minutes=5), timedelta(seconds=20)

#: the plan of a tick that came to nothing
NOTHING = Plan(target=Target(replicas=0, reason=""), hours=Hours(open=False, opens_at=None, reason=""))


@lru_cache(maxsize=4096)
def parsed(text: str) -> spec.Spec:
    return spec.parse(text, "bad day")


def offers_of(text: str) -> tuple[Offer, ...]:
    """What the simulated market of a spec offers."""
    return deployment.simulated_offers(parsed(text))


class Tenant:
    """A deployment that is put up when it is made. `wire` it whenever its ledger or its spec is another one."""

    def __init__(
        self, deployed: Deployed, day: Day, home: Home, market: SharedMarket, truth: VirtualClock, clock: SetClock
    ) -> None:
        self.name = deployed.name
        self._specs = deployed.specs
        self._version = 0
        self._home, self._market, self._truth, self._clock = home, market, truth, clock
        wanted = parsed(deployed.specs[0])
        rate = wanted.simulated.images_per_second
        curve = weather.working_day(rate, wanted.schedule_for(day.start).zone, day.seed)
        self.door = BusyDoor(truth, curve, rate)
        self.door.name = self.name
        self.watcher = Watcher(self.name, market, truth, clock, self.door)
        self._put_up(deployed.specs[0])
        deployment.record_simulated_speed(home.ledger, wanted, ["T4"], day.start)
        self.batch = SimulatedBatch(home.ledger, self.name, deployed.items, truth, market, poisoned=day.poisoned)
        self.plan = NOTHING

    def wire(self) -> None:
        ledger = self._home.ledger
        with ledger.read() as tx:
            row = deployments.get(tx, self.name)
        assert row is not None  # it was put up before the first copy was made
        wanted = parsed(row.spec)
        self.world = World(
            deployment=self.name,
            digest=wanted.replica_digest(),
            payload=deployment.payload_of(wanted),
            wishes=deployment.wishes_of(wanted, row),
            clock=self._clock,
            ledger=ledger,
            providers={"simulated": self._market},
            probes=self._market,
            door=self.door,
        )

    def change_spec(self) -> str:
        self._version = (self._version + 1) % len(self._specs)
        self._put_up(self._specs[self._version])
        self.wire()
        return f"version {self._version + 1} of the spec of {self.name} is put up"

    def take_down(self) -> None:
        with self._home.ledger.write() as tx:
            deployments.take_down(tx, self.name, self._clock.now())
        self.wire()

    def hold_open(self, length: timedelta) -> None:
        """Something is wanted for so long, whatever the hour."""
        now = self._clock.now()
        with self._home.ledger.write() as tx:
            deployments.override(tx, self.name, "open", now + length, now)
        self.wire()

    def tick(self, fuse: Fuse | None = None) -> Plan:
        """One tick, watched."""
        world, self.plan = self.watcher.watched(self.world), NOTHING
        self.plan = tick(world if fuse is None else fused(world, fuse))
        return self.plan

    def work(self) -> None:
        """What is in the door reads the batch."""
        serving = self.door.serving
        urls = () if serving is None else tuple(replica.url for replica in serving.replicas)
        self.batch.work(self._home.ledger, self._home.generation, urls)

    def check(self, invariants: tuple[Invariant, ...], good: bool) -> None:
        """Raises Broken."""
        sight = self.watcher.sight(self._home.ledger, self.world, good)
        for invariant in invariants:
            for words in invariant(sight):
                raise Broken(invariant.__name__, words)
        if words := self.batch.wrong(self._home.ledger):
            raise Broken("every_item_has_one_result", words)

    def ready(self) -> int:
        with self._home.ledger.read() as tx:
            return sum(one.status is Status.READY for one in fleet.machines(tx, self.name))

    def rests_by_quota(self, grace: timedelta) -> bool:
        """Whether an offer of which the account has as many as it may is left alone still, or was so long ago."""
        now = self._clock.now()
        with self._home.ledger.read() as tx:
            full = {name for name, words in pools.refusals(tx, self.name).items() if words.startswith(QUOTA)}
            known = offers.known(tx, ["simulated"])
            resting = resting_spot(beliefs.known(tx, self.name).get("placement", {}))
        untils = (left_alone_until(one, resting, now) for one in known if one.id in full)
        return any(until is not None and until + grace >= now for until in untils)

    def over(self) -> bool:
        """Whether the ledger knows of nothing that costs money."""
        with self._home.ledger.read() as tx:
            return not fleet.machines(tx, self.name)

    def next(self) -> datetime:
        """When to tick again: at once after something was done, soon while something is missing, else at an event."""
        now, plan = self._truth.now(), self.plan
        if plan.actions:
            return now + SECOND
        with self._home.ledger.read() as tx:
            machines = fleet.machines(tx, self.name)
        live_ones = sum(machine.status in LIVE for machine in machines)
        if plan.target.replicas > live_ones:
            return now + RETRY
        if len(machines) > live_ones:
            return now + LEAVING
        edge = windows.next_edge(self.world.policy(self._clock.now()).schedule, self._clock.now())
        moments = [now + STEP, self._market.next_event(now), None if edge is None else edge - self._clock.ahead]
        return max(now + SECOND, min(at for at in moments if at is not None))

    def _put_up(self, text: str) -> None:
        with self._home.ledger.write() as tx:
            deployments.put_up(tx, self.name, text, f"{self.name}.yaml", self._clock.now())
