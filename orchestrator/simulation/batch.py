"""A batch on a simulated day: replicas read its items in the time of two ticks, and die with some in their hands."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from orchestrator.clock import Clock
from orchestrator.executors import Outcome, Verdict
from orchestrator.jobs import retry
from orchestrator.ledger import items, jobs
from orchestrator.ledger.items import Item
from orchestrator.ledger.store import Ledger, Transaction
from orchestrator.providers.simulated import SCHEME, SimulatedProvider

LEASED_FOR = timedelta(minutes=2)
READ_IN = timedelta(seconds=20)
AT_ONCE = 24
#: one item of so many cannot be read; one, of a day that has it, ends whatever machine reads it
FAILING, POISON = 17, 23
READ = Outcome(verdict=Verdict.READ)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """An item in the hands of a replica."""

    item: Item
    owner: str
    token: str
    done_at: datetime


class SimulatedBatch:
    """One job, worked on between ticks by whoever is in the door."""

    def __init__(
        self, ledger: Ledger, deployment: str, count: int, clock: Clock, market: SimulatedProvider, *, poisoned: bool
    ) -> None:
        self._clock = clock
        self._market = market
        self.poisoned = poisoned
        self._reading: list[Reading] = []
        self._late: list[Reading] = []  # their daemon is dead; it acknowledges them all the same
        self._results: Counter[int] = Counter()
        self._job = 0
        self._count = count
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
        self._poison(now)
        alive = set(self._market.running())
        done = [one for one in self._reading if one.done_at <= now and one.token in alive]
        gone = [one for one in self._reading if one.token not in alive]
        self._reading = [one for one in self._reading if one.done_at > now and one.token in alive]
        tokens = [url.removeprefix(SCHEME) for url in serving if url.removeprefix(SCHEME) in alive]
        with ledger.write() as tx:
            self._acknowledge(tx, done)
            items.reclaim(tx, f"g{generation:010}", now)
            self._acknowledge(tx, self._late)
            self._lose(tx, gone)
            for token in tokens:
                self._hand_out(tx, owner, token, now)
            job = jobs.get(tx, self._job)
            if job is not None and job.left == 0:
                jobs.finish(tx, self._job, "", now)
        self._late = []

    def _hand_out(self, tx: Transaction, owner: str, token: str, now: datetime) -> None:
        """To a replica that has nothing: a suspect alone where nothing else waits, as the runner does."""
        if any(one.token == token for one in self._reading):
            return
        taken = items.lease(tx, self._job, owner, AT_ONCE, now, now + LEASED_FOR)
        taken = taken or items.lease(tx, self._job, owner, 1, now, now + LEASED_FOR, suspects=True)
        self._reading += [Reading(item=item, owner=owner, token=token, done_at=now + READ_IN) for item in taken]

    def _poison(self, now: datetime) -> None:
        """Whoever has read the poisonous item is no more."""
        for one in self._reading:
            if self.poisoned and one.item.number == POISON and one.done_at <= now:
                self._market.crash(one.token)

    def _acknowledge(self, tx: Transaction, readings: list[Reading]) -> None:
        """One in FAILING cannot be read at all; each that counts is a result, or a recorded failure."""
        for one in readings:
            broken = one.item.number % FAILING == 0
            self._settle(tx, one, Outcome(verdict=Verdict.REFUSED, reason="no image") if broken else READ)

    def _lose(self, tx: Transaction, readings: list[Reading]) -> None:
        """Their machines have gone: an item that was alone with its machine is to blame."""
        for one in readings:
            self._settle(tx, one, Outcome(verdict=Verdict.LOST, reason="its machine is gone"))

    def _settle(self, tx: Transaction, one: Reading, outcome: Outcome) -> None:
        now = self._clock.now()
        counted = items.settle(tx, one.owner, [retry.next_step(one.item, outcome, now)], now)
        self._results.update(step.item.number for step in counted if step.state in items.SETTLED)

    def forget(self, restored: Ledger | None = None) -> None:
        """The daemon is dead. What it had under way may still be acknowledged, late; a restored ledger knows less."""
        self._late += self._reading[::2]
        self._reading = []
        if restored is not None and self._job:
            with restored.read() as tx:
                outcomes = items.outcomes(tx, self._job, 0)
            self._results = Counter(one.number for one in outcomes)
            self._late = []

    def finished(self, ledger: Ledger) -> bool:
        """Whether there is a batch, and every item of it has its one result or its recorded failure."""
        with ledger.read() as tx:
            job = jobs.get(tx, self._job) if self._job else None
        return job is not None and job.left == 0

    def lost(self, ledger: Ledger, generation: int) -> str:
        """Items that are neither settled nor could be handed out by the next daemon; "" when there are none.

        Only at the end of a day: it hands them out.
        """
        if not self._job:
            return ""
        later = self._clock.now() + timedelta(days=1)
        owner = f"g{generation + 1:010}"
        with ledger.write() as tx:
            items.reclaim(tx, owner, later)
            taken = [
                one
                for suspects in (False, True)
                for one in items.lease(tx, self._job, owner, self._count, later, later + LEASED_FOR, suspects=suspects)
            ]
            job = jobs.get(tx, self._job)
        left = 0 if job is None else job.left
        if left == len(taken):
            return ""
        return f"{left} items have no result yet, and the next daemon would read {len(taken)}"

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
