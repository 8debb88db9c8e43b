"""What must hold after every tick, whatever happened. Each function names what is wrong, in words."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from orchestrator import billing
from orchestrator.billing import Charge
from orchestrator.door import ServingSet
from orchestrator.ledger.fleet import Machine
from policies import windows
from policies.decide import Policy
from policies.lifecycle import LIVE, OVER, Status
from policies.snapshot import Purchase


@dataclass(frozen=True, kw_only=True)
class Sight:
    """Everything at one instant, the truth of the market included."""

    now: datetime
    local_now: datetime  # by the daemon's clock, which somebody may have set
    tick_seconds: float  # the longest time between two ticks so far
    listing_seconds: float  # a machine is listed at the latest after so long
    machines: Sequence[Machine]  # of the ledger, over or not
    charges: Mapping[str, Sequence[Charge]]  # by machine
    intents: Sequence[Any]  # rows
    launched: Mapping[str, datetime]  # the market's machines by token, over or not
    ended: Mapping[str, datetime]  # those that ended, by token
    meter: Mapping[str, int]  # by token
    serving: ServingSet | None
    policy: Policy
    digest: str

    @property
    def grace(self) -> timedelta:
        """What the truth may be ahead of the ledger."""
        return timedelta(seconds=self.listing_seconds + self.tick_seconds)

    def running(self, token: str, at: datetime) -> bool:
        return token in self.launched and self.launched[token] <= at < self.ended.get(token, at + self.grace)


def one_token_one_machine(sight: Sight) -> Iterator[str]:
    for token, count in Counter(machine.token for machine in sight.machines).items():
        if count > 1:
            yield f"{count} machines of the ledger bear {token}"
    known = {machine.token for machine in sight.machines}
    for token in sight.launched:
        if token not in known:
            yield f"the market rents out {token}, of which the ledger knows nothing"


def what_costs_has_an_open_charge(sight: Sight) -> Iterator[str]:
    """Every machine has its own, but a box of ours has one, however many engines of the deployment run on it."""
    boxes = Counter(
        (machine.deployment, machine.offer_id)
        for machine in sight.machines
        if machine.purchase is Purchase.OWNED
        for charge in sight.charges.get(machine.id, ())
        if charge.ended_at is None
    )
    for box, count in boxes.items():
        if count > 1:
            yield f"{box} has {count} open charges"
    for machine in sight.machines:
        still_open = sum(charge.ended_at is None for charge in sight.charges.get(machine.id, ()))
        if still_open > 1:
            yield f"{machine.id} has {still_open} open charges"
        long_ago = sight.now - sight.grace
        costs = sight.running(machine.token, long_ago) and sight.running(machine.token, sight.now)
        if costs and not still_open and (machine.deployment, machine.offer_id) not in boxes:
            yield f"{machine.id} ({machine.status}) costs money and has no open charge"
        gone = machine.token not in sight.launched or sight.ended.get(machine.token, sight.now) < long_ago
        if still_open and gone:
            yield f"{machine.id} ({machine.status}) has an open charge and no machine"


def never_more_than_the_maximum_and_the_surge(sight: Sight) -> Iterator[str]:
    bounds = windows.bounds(sight.policy.schedule, sight.local_now)
    closing = {row.instance_id for row in sight.intents if row.kind == "terminate" and row.state == "open"}
    live = [
        machine.id
        for machine in sight.machines
        if machine.status in LIVE and machine.id not in closing and machine.reclaim_at is None
    ]
    most = (bounds.max + sight.policy.surge) if sight.policy.wanted else 0
    if len(live) > most:
        yield f"{len(live)} serve or start, at most {most} may: {', '.join(live)}"


def closed_means_that_nothing_is_in_the_door(sight: Sight) -> Iterator[str]:
    if sight.serving is None:
        return
    bounds = windows.bounds(sight.policy.schedule, sight.local_now)
    if not (bounds.open and sight.policy.wanted) and (sight.serving.open or sight.serving.replicas):
        yield f"{len(sight.serving.replicas)} replicas are in the door while it should be closed"
    ready = {machine.id for machine in sight.machines if machine.status is Status.READY}
    for replica in sight.serving.replicas:
        if replica.id not in ready:
            yield f"{replica.id} is in the door and is not ready"


def what_is_over_has_nothing_left_to_be_done(sight: Sight) -> Iterator[str]:
    over = {machine.id: machine for machine in sight.machines if machine.status in OVER}
    for row in sight.intents:
        if row.state == "open" and row.instance_id in over:
            yield f"{row.kind} of {row.instance_id} is open, and it is {over[row.instance_id].status}"
    for machine in over.values():
        if machine.ended_at is None:
            yield f"{machine.id} is {machine.status} and nobody knows since when"


def a_runaway_is_bounded(sight: Sight) -> Iterator[str]:
    launches = sorted(row.opened_at for row in sight.intents if row.kind == "launch")
    bound = sight.policy.launches_per_hour(windows.bounds(sight.policy.schedule, sight.local_now).max or 1)
    worst = max((sum(at <= one < at + timedelta(hours=1) for one in launches) for at in launches), default=0)
    if worst > bound:
        yield f"{worst} launches within an hour, at most {bound} may be"


def one_intent_of_a_kind(sight: Sight) -> Iterator[str]:
    still_open = Counter((row.kind, row.instance_id) for row in sight.intents if row.state == "open")
    for (kind, machine), count in still_open.items():
        if count > 1:
            yield f"{count} open intents to {kind} {machine}"


def the_ledger_equals_the_meter(sight: Sight) -> Iterator[str]:
    """Only once everything is settled."""
    for machine in sight.machines:
        parts = [billing.accrued(charge, sight.now) for charge in sight.charges.get(machine.id, ())]
        booked, metered = sum(part or 0 for part in parts), sight.meter.get(machine.token, 0)
        if booked != metered:
            yield f"{machine.id} ({machine.status}) is booked with {booked} and metered with {metered} micro-units"


def nothing_runs(sight: Sight) -> Iterator[str]:
    """Only after the end."""
    for token in sight.launched.keys() - sight.ended.keys():
        yield f"{token} still runs"
    for machine in sight.machines:
        if machine.status not in OVER:
            yield f"{machine.id} is still {machine.status}"


Invariant = Callable[[Sight], Iterator[str]]

ALWAYS: tuple[Invariant, ...] = (
    one_token_one_machine,
    what_costs_has_an_open_charge,
    never_more_than_the_maximum_and_the_surge,
    closed_means_that_nothing_is_in_the_door,
    what_is_over_has_nothing_left_to_be_done,
    a_runaway_is_bounded,
    one_intent_of_a_kind,
)


def broken(sight: Sight, invariants: Sequence[Invariant] = ALWAYS) -> list[str]:
    """What is wrong, each with the name of what it breaks."""
    return [f"{invariant.__name__}: {words}" for invariant in invariants for words in invariant(sight)]
