"""The eyes of a simulated day: what every tick met with, and the truth beside what the ledger says."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from orchestrator.clock import Clock, VirtualClock
from orchestrator.invariants import Overspent, Sight
from orchestrator.ledger import charges, fleet
from orchestrator.ledger.intents import decided
from orchestrator.ledger.store import Ledger
from orchestrator.providers import (
    Listed,
    Misconfigured,
    NoCapacity,
    Priced,
    ProviderError,
    QuotaExceeded,
    Request,
    State,
)
from orchestrator.providers.simulated import Rented, SimulatedProvider
from orchestrator.simulation.month import SimulatedDoor
from orchestrator.simulation.purse import Purse
from orchestrator.simulation.shared_market import SharedMarket
from orchestrator.world import World
from policies import scaling, windows
from policies.decide import Policy
from policies.snapshot import Offer

T = TypeVar("T")

#: answers of a market that works
ANSWERS = (NoCapacity, QuotaExceeded, Misconfigured)
#: a replica that has left the door works on what it has for so long
BUSY = timedelta(seconds=15)


class BusyDoor(SimulatedDoor):
    """Replicas in the door have something in flight, and finish it some seconds after they have left it."""

    def __init__(self, clock: VirtualClock, asked: Callable[[datetime], int], images_per_second: float) -> None:
        super().__init__(clock, asked, images_per_second)
        self._left: dict[str, datetime] = {}

    def in_flight(self, replica_id: str) -> int | None:
        now = self._clock.now()
        for one in self._serving.replicas if self._serving is not None else ():
            self._left[one.id] = now
        return 1 if now - self._left.get(replica_id, now - BUSY) < BUSY else 0


class WatchedProvider:
    """A provider that is overheard: the errors it answers with, and the ends that it lists."""

    def __init__(self, provider: SimulatedProvider) -> None:
        self._provider = provider
        self.name = provider.name
        self.terms = provider.terms
        self.listing_deadline_seconds = provider.listing_deadline_seconds
        self.harmed = False
        self.gone: set[str] = set()

    def offers(self) -> Sequence[Offer]:
        return self._overheard(self._provider.offers)

    def prices(self, since: datetime) -> Sequence[Priced] | None:
        return self._overheard(lambda: self._provider.prices(since))

    def instances(self) -> Sequence[Listed]:
        listed = self._overheard(self._provider.instances)
        self.gone.update(one.token for one in listed if one.state is State.GONE)
        return listed

    def launch(self, request: Request) -> str:
        return self._overheard(lambda: self._provider.launch(request))

    def terminate(self, provider_id: str) -> None:
        self._overheard(lambda: self._provider.terminate(provider_id))

    def _overheard(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except ProviderError as error:
            self.harmed = self.harmed or not isinstance(error, ANSWERS)
            raise


class Watcher:
    """Looks at everything after each tick. What lasts is dated when it is first seen."""

    def __init__(self, deployment: str, market: SharedMarket, truth: Clock, clock: Clock, door: SimulatedDoor) -> None:
        self._deployment = deployment
        self._market = market
        self._provider = WatchedProvider(market)
        self._truth = truth
        self._clock = clock
        self._door = door
        self._purse = Purse(market)
        self._owed = False  # prices were in force that nobody had published
        self._went_well = (truth.now(), truth.now())  # the last two ticks that did
        self._calm_since: datetime | None = None
        self._unwanted_since: datetime | None = None
        self._crowded_since: datetime | None = None
        self._told: set[str] = set()  # tokens of machines whose end the ledger was told
        self._most = 1
        self.restored_at: datetime | None = None
        self.clock_sets = 0
        self.tried: Counter[str] = Counter()  # how often an invariant had something to look at

    def watched(self, world: World) -> World:
        """The same world, its provider overheard."""
        self._provider.harmed = False
        self._provider.gone.clear()
        return replace(world, providers={self._provider.name: self._provider})

    def restored(self) -> None:
        """The ledger was put back to an older one: what it had been told is forgotten."""
        self.restored_at = self._truth.now()
        self._told.clear()

    def slept(self) -> None:
        """Nobody looked for a while: what happened meanwhile is news."""
        self._calm_since = self._truth.now()

    @property
    def accounted(self) -> int:
        """How many machines the ledger was told the end of: of these the meter must be met to the micro-unit."""
        return len(self._told & {one.token for one in self._market.ours(self._deployment)})

    def unharmed(self) -> bool:
        """Whether the provider answered everything since the world was last watched, be it with a refusal."""
        return not self._provider.harmed

    def sight(self, ledger: Ledger, world: World, good: bool) -> Sight:
        """What there is to see now, after a tick that went well or did not."""
        now = self._truth.now()
        if not good:
            self._calm_since = now
        elif self._calm_since is not None and self._calm_since > self._went_well[1]:
            self._calm_since = now  # the first tick that went well after one that did not
        if good:
            self._went_well = (self._went_well[1], now)
            self._told |= self._provider.gone  # else nobody could write it down
        with ledger.read() as tx:
            machines = fleet.machines(tx, self._deployment, over=True)
            intents = decided(tx, world.deployment)
            time, disks = charges.booked(tx, charges.COMPUTE), charges.booked(tx, charges.DISK)
        rented = self._market.ours(self._deployment)
        meter = self._market.meter()
        policy = world.policy(self._clock.now())
        running = [one for one in rented if one.ended_at is None]
        held = scaling.hold_down_seconds(policy.start_seconds)
        bounds = windows.bounds(policy.schedule, self._clock.now(), held)
        self._most = max(self._most, bounds.max)
        overspent = self._overspent(rented, policy, good)
        wanted = policy.wanted and (bounds.open or bounds.prewarm) and not overspent
        self._unwanted_since = self._since(self._unwanted_since, not wanted)
        self._crowded_since = self._since(self._crowded_since, len(running) > bounds.max + policy.surge)
        sight = Sight(
            now=now,
            local_now=self._clock.now(),
            tick_seconds=(now - self._went_well[0]).total_seconds(),
            listing_seconds=2 * self._market.listing_deadline_seconds,  # a stale listing is late by as much again
            machines=machines,
            charges=time,
            disks=disks,
            intents=intents,
            launched={one.token: one.launched_at for one in rented},
            ended={one.token: one.ended_at for one in rented if one.ended_at is not None},
            stopped={one.token: one.stopped_at for one in rented if one.stopped_at is not None},
            meter={one.token: meter[one.token] for one in rented},
            serving=self._door.serving,
            policy=policy,
            digest=world.digest,
            restored_at=self.restored_at,
            calm_since=self._calm_since,
            unwanted_since=self._unwanted_since,
            crowded_since=self._crowded_since,
            most=self._most,
            clock_sets=self.clock_sets,
            unseen=frozenset(one.token for one in rented if one.token not in self._told),
            strangers=self._market.neighbours(),
            overspent=overspent,
        )
        self.tried["others_are_left_alone"] += len(sight.strangers)
        self.tried["nothing_outlives_what_is_wanted"] += sight.lasting(sight.unwanted_since) > sight.leave
        self.tried["closed_means_that_nothing_is_in_the_door"] += sight.serving is not None and not sight.serving.open
        return sight

    def _since(self, before: datetime | None, holds: bool) -> datetime | None:
        return (before or self._truth.now()) if holds else None

    def _overspent(self, rented: Sequence[Rented], policy: Policy, good: bool) -> tuple[Overspent, ...]:
        """Nobody knows which day it is once a clock was set, nor what was spent once the ledger was put back.

        A price that is published late is made good when its machine is over.
        """
        self._owed = self._owed or self._market.owes_prices()
        unknown = self.clock_sets or self.restored_at is not None or self._owed
        found = self._purse.passed(
            rented,
            policy,
            self._truth.now(),
            local_now=self._clock.now(),
            unlisted=timedelta(seconds=2 * self._market.listing_deadline_seconds),
            knowable=good and not unknown and self._calm_since != self._truth.now(),
        )
        self.tried["a_hard_budget_holds"] += len(found)
        return found
