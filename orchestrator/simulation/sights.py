"""The eyes of a simulated day: what every tick met with, and the truth beside what the ledger says."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from orchestrator.clock import Clock, VirtualClock
from orchestrator.invariants import Sight
from orchestrator.ledger import charges, fleet
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
from orchestrator.providers.simulated import SimulatedProvider
from orchestrator.simulation.month import SimulatedDoor
from orchestrator.world import World
from policies import windows
from policies.budget import Brake
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

    def __init__(self, market: SimulatedProvider, truth: Clock, clock: Clock, door: SimulatedDoor) -> None:
        self._market = market
        self._provider = WatchedProvider(market)
        self._truth = truth
        self._clock = clock
        self._door = door
        self._started_at = truth.now()
        self._went_well = (self._started_at, self._started_at)  # the last two ticks that did
        self._calm_since: datetime | None = None
        self._unwanted_since: datetime | None = None
        self._crowded_since: datetime | None = None
        self._told: set[str] = set()  # tokens of machines whose end the ledger was told
        self._most = 1
        self.restored_at: datetime | None = None
        self.clock_sets = 0

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
            machines = fleet.machines(tx, over=True)
            intents = fleet.intents(tx, world.deployment)
            time, disks = charges.booked(tx, charges.COMPUTE), charges.booked(tx, charges.DISK)
        rented = self._market.rented()
        policy = world.policy(self._clock.now())
        running = [one for one in rented if one.ended_at is None]
        bounds = windows.bounds(policy.schedule, self._clock.now())
        self._most = max(self._most, bounds.max)
        self._unwanted_since = self._since(self._unwanted_since, self._unwanted(policy, bounds))
        self._crowded_since = self._since(self._crowded_since, len(running) > bounds.max + policy.surge)
        return Sight(
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
            meter=self._market.meter(),
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
        )

    def _since(self, before: datetime | None, holds: bool) -> datetime | None:
        return (before or self._truth.now()) if holds else None

    def _unwanted(self, policy: Policy, bounds: windows.Bounds) -> bool:
        """Whether nothing may run: it was taken down, it is closed, or the day's money is spent."""
        if not policy.wanted or not (bounds.open or bounds.prewarm):
            return True
        limit = policy.limit
        stops = limit is not None and any(step is Brake.STOP for _, step in limit.at)
        if limit is None or limit.daily_micros is None or not stops:
            return False
        if self.clock_sets or self.restored_at:
            return False  # which day it is, and what was spent, the daemon cannot know
        local = self._clock.now().astimezone(policy.schedule.zone)
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
        spent = sum(self._market.meter().values()) - sum(self._market.meter(midnight).values())
        return spent > limit.daily_micros
