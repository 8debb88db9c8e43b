"""A batch on a simulated day: replicas read its items in the time of two ticks, and die with some in their hands."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from orchestrator.clock import Clock
from orchestrator.ledger import items, jobs
from orchestrator.ledger.items import Item, Step
from orchestrator.ledger.jobs import ItemState
from orchestrator.ledger.store import Ledger, Transaction
from orchestrator.providers.simulated import SCHEME, SimulatedProvider

LEASED_FOR = timedelta(minutes=2)
READ_IN = timedelta(seconds=20)
AT_ONCE = 6
FAILING = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """An item in the hands of a replica."""

    item: Item
    owner: str
    token: str
    done_at: datetime


class SimulatedBatch:
    """One job, worked on between ticks by whoever is in the door."""

    def __init__(self, ledger: Ledger, deployment: str, count: int, clock: Clock, market: SimulatedProvider) -> None:
        self._clock = clock
        self._market = market
        self._reading: list[Reading] = []
        self._late: list[Reading] = []  # their daemon is dead; it acknowledges them all the same
        self._results: Counter[int] = Counter()
        self._job = 0
        if count:
            names = [f"{number:05}.png" for number in range(count)]
            with ledger.write() as tx:
                where = Path("/pages"), Path("/results")
                self._job = jobs.create(tx, deployment, *where, (), names, clock.now())

    def work(self, ledger: Ledger, generation: int, serving: tuple[str, ...]) -> None:
        """Acknowledge what was read meanwhile, and hand out more to the replicas that serve."""
        if not self._job or not (self._reading or self._late or serving):
            return
        now, owner = self._clock.now(), f"g{generation:010}.simulated"
        alive = set(self._market.running())
        done = [one for one in self._reading if one.done_at <= now and one.token in alive]
        gone = [one for one in self._reading if one.token not in alive]
        self._reading = [one for one in self._reading if one.done_at > now and one.token in alive]
        tokens = [url.removeprefix(SCHEME) for url in serving if url.removeprefix(SCHEME) in alive]
        with ledger.write() as tx:
            self._acknowledge(tx, done)
            items.reclaim(tx, f"g{generation:010}", now)
            self._acknowledge(tx, self._late)
            items.settle(tx, owner, items.given_back(one.item for one in gone), now)
            for token in tokens:
                for suspects in (False, True):
                    for item in items.lease(tx, self._job, owner, AT_ONCE, now, now + LEASED_FOR, suspects=suspects):
                        self._reading.append(Reading(item=item, owner=owner, token=token, done_at=now + READ_IN))
            job = jobs.get(tx, self._job)
            if job is not None and job.left == 0:
                jobs.finish(tx, self._job, "", now)
        self._late = []

    def _acknowledge(self, tx: Transaction, readings: list[Reading]) -> None:
        """One in FAILING cannot be read at all; each that counts is a result, or a recorded failure."""
        for one in readings:
            broken = one.item.number % FAILING == 0
            state = ItemState.FAILED if broken else ItemState.DONE
            step = Step(item=one.item, state=state, failures=int(broken), error="no image" if broken else None)
            counted = items.settle(tx, one.owner, [step], self._clock.now())
            self._results.update(each.item.number for each in counted)

    def forget(self, restored: Ledger | None = None) -> None:
        """The daemon is dead. What it had under way may still be acknowledged, late; a restored ledger knows less."""
        self._late += self._reading[::2]
        self._reading = []
        if restored is not None and self._job:
            with restored.read() as tx:
                outcomes = items.outcomes(tx, self._job, 0)
            self._results = Counter(one.number for one in outcomes)
            self._late = []

    def wrong(self, ledger: Ledger) -> str:
        """What is wrong with the results; "" when every item has at most one, and the ledger counts as many."""
        if not self._job:
            return ""
        twice = [number for number, count in self._results.items() if count > 1]
        with ledger.read() as tx:
            job = jobs.get(tx, self._job)
        if twice:
            return f"items {twice} were read and counted twice"
        settled = None if job is None else job.done + job.failed
        if settled != len(self._results):
            return f"the ledger counts {settled} settled items, {len(self._results)} were acknowledged"
        return ""
