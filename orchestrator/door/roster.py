"""Who gets the next request, and who waits until somebody can take it."""

import asyncio
import time
from collections.abc import Collection

from orchestrator.door.loads import Counts
from orchestrator.door.serving import Published, Replica, ServingSet

SUSPECT_SECONDS = 0.5  # a replica that broke is left alone this long, unless a new set is published
WAITING_MAX = 256
WAITING_BATCH_MAX = 128  # of them a batch's, which can come again


class Crowded(Exception):
    """As many requests wait as may wait."""


class Roster:
    """The replicas of the published set with the requests that each has in flight."""

    def __init__(self, published: Published, counts: Counts) -> None:
        self._published = published
        self._counts = counts
        self._suspects: dict[str, float] = {}  # replica id -> when to try it again, on the monotonic clock
        self._turn = 0
        self._online: dict[asyncio.Future[None], None] = {}  # who waits, in the order they came
        self._batch: dict[asyncio.Future[None], None] = {}
        self.unheard: set[str] = set()  # urls from which no answer comes
        self.in_flight: dict[str, int] = {}

    @property
    def serving(self) -> ServingSet:
        return self._published.serving

    @property
    def waiting(self) -> int:
        return len(self._online) + len(self._batch)

    def refresh(self) -> bool:
        """Take a newly published set, if there is one, and wake whoever waits; True when it differs."""
        if not self._published.refresh():
            return False
        self._suspects.clear()
        self.unheard &= {replica.url for replica in self.serving.replicas}
        self._wake()
        return True

    def take(self, avoid: Collection[str] = (), prefer: str = "") -> Replica | None:
        """The replica with the id `prefer`, if it can take a request; otherwise the one with the fewest requests in
        flight for its weight, ties take turns. One more is counted for it."""
        replicas = self._published.serving.replicas
        best: Replica | None = None
        least = float("inf")
        now = time.monotonic() if self._suspects else 0.0
        self._turn += 1
        for index in range(len(replicas)):
            replica = replicas[(index + self._turn) % len(replicas)]
            if replica.id in avoid or (self._suspects and self._suspects.get(replica.id, 0.0) > now):
                continue
            if self.unheard and replica.url in self.unheard:
                continue
            if replica.id == prefer:
                best = replica
                break
            outstanding = (self.in_flight.get(replica.id, 0) + 1) / replica.weight
            if outstanding < least:
                best, least = replica, outstanding
        if best is not None:
            self.in_flight[best.id] = self.in_flight.get(best.id, 0) + 1
            self._counts.flying(+1)
        return best

    def give_back(self, replica: Replica) -> None:
        left = self.in_flight[replica.id] - 1
        if left:
            self.in_flight[replica.id] = left
        else:
            del self.in_flight[replica.id]
        self._counts.flying(-1)

    def suspect(self, replica: Replica) -> bool:
        """Leave a replica alone for a moment; True when it was not suspected already."""
        now = time.monotonic()
        known = self._suspects.get(replica.id, 0.0) > now
        self._suspects[replica.id] = now + SUSPECT_SECONDS
        return not known

    def miss(self, url: str) -> None:
        """Nothing comes from there any more: leave it alone until it is heard."""
        self.unheard.add(url)

    def hear(self, url: str) -> None:
        if url in self.unheard:
            self.unheard.discard(url)
            self._wake()

    async def change(self, until: float, *, soon: bool = False, counted: bool = True, online: bool = True) -> None:
        """Wait for a new set, for a suspect's next chance, or until the monotonic time `until`; `soon`: not for long,
        `counted`: as demand. Those who are `online` are woken first, and a batch's never take all the room.
        Raises Crowded.
        """
        waiters = self._online if online else self._batch
        if self.waiting >= WAITING_MAX or (not online and len(waiters) >= WAITING_BATCH_MAX):
            raise Crowded
        now = time.monotonic()
        chances = [at for at in self._suspects.values() if at > now]
        if soon:
            chances.append(now + SUSPECT_SECONDS)
        waiter = asyncio.get_running_loop().create_future()
        waiters[waiter] = None
        self._counts.queued(int(counted))
        try:
            async with asyncio.timeout(max(0.0, min([until, *chances]) - now)):
                await waiter
        except TimeoutError:
            pass
        finally:
            del waiters[waiter]
            self._counts.queued(-int(counted))

    def _wake(self) -> None:
        """The first to be woken is the first to be sent."""
        for waiter in (*self._online, *self._batch):
            if not waiter.done():
                waiter.set_result(None)
