"""What must hold after every tick, whatever happened. Each function names what is wrong, in words.

A simulated market tells what is true: what machines there are, and what they cost. Of a real ledger `looked_at` makes a
sight in which the ledger's own word stands for the truth; what SQL alone can ask is in `orchestrator.ledger.checks`.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from orchestrator import billing
from orchestrator.billing import Charge
from orchestrator.door import ServingSet
from orchestrator.ledger.fleet import Machine
from policies import scaling, windows
from policies.decide import Policy
from policies.disruption import RECLAIM_GRACE
from policies.lifecycle import LIVE, OVER, Status
from policies.snapshot import Purchase

HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overspent:
    """A limit at which everything stops, and which is passed."""

    limit: str  # in words
    since: datetime  # kept until then
    micros: int  # beyond the limit, by the market's meter
    allowed_micros: int  # what one tick, the drain and the minimums of what ran cost


@dataclass(frozen=True, kw_only=True)
class Sight:
    """Everything at one instant, the truth of the market included."""

    now: datetime
    local_now: datetime  # by the daemon's clock, which somebody may have set
    tick_seconds: float  # the longest time between two ticks so far, or since the last but one that went well
    listing_seconds: float  # a machine is listed at the latest after so long
    machines: Sequence[Machine]  # of the ledger, over or not
    charges: Mapping[str, Sequence[Charge]]  # of their time, by machine
    intents: Sequence[Any]  # rows
    launched: Mapping[str, datetime]  # the market's machines by token, over or not
    ended: Mapping[str, datetime]  # those that ended, by token
    meter: Mapping[str, int]  # by token
    serving: ServingSet | None
    policy: Policy
    digest: str
    disks: Mapping[str, Sequence[Charge]] = field(default_factory=dict)  # what their disks cost, by machine
    stopped: Mapping[str, datetime] = field(default_factory=dict)  # those that somebody switched off, by token
    restored_at: datetime | None = None  # when the ledger was put back to an older one
    calm_since: datetime | None = None  # since when every tick went well; None: since ever
    unwanted_since: datetime | None = None  # by the schedule, the budget or the user: nothing may run
    crowded_since: datetime | None = None  # more machines run than may
    target: int = 0  # what was decided last, without a word about what stands in its way
    target_since: datetime | None = None
    most: int = 1  # the largest maximum that the spec has had
    clock_sets: int = 0  # how often somebody has set the daemon's clock
    unseen: frozenset[str] = frozenset()  # tokens of machines whose end the provider never listed
    strangers: Mapping[str, str] = field(default_factory=dict)  # others' machines: token -> what was done to it, or ""
    overspent: Sequence[Overspent] = ()  # hard limits that could be kept, and are passed

    @property
    def grace(self) -> timedelta:
        """What the truth may be ahead of the ledger."""
        return timedelta(seconds=self.listing_seconds + self.tick_seconds)

    @property
    def leave(self) -> timedelta:
        """How long a machine may take to go, once a tick has gone well."""
        drain = timedelta(seconds=self.policy.patience.drain_seconds)
        return drain + self.grace + RECLAIM_GRACE

    def running(self, token: str, at: datetime) -> bool:
        """Whether its time cost money then."""
        ends = [one for one in (self.ended.get(token), self.stopped.get(token)) if one is not None]
        return token in self.launched and self.launched[token] <= at < min(ends, default=at + self.grace)

    def lasting(self, since: datetime | None) -> timedelta:
        """How long something has lasted while every tick went well."""
        if since is None:
            return timedelta(0)
        return self.now - max(since, self.calm_since or since)


def one_token_one_machine(sight: Sight) -> Iterator[str]:
    for token, count in Counter(machine.token for machine in sight.machines).items():
        if count > 1:
            yield f"{count} machines of the ledger bear {token}"
    known = {machine.token for machine in sight.machines}
    for token in sight.launched.keys() - known:
        if sight.restored_at is None:
            yield f"the market rents out {token}, of which the ledger knows nothing"
        elif token not in sight.ended and sight.lasting(sight.restored_at) > sight.grace:
            yield f"the market rents out {token}, which a restored ledger has not adopted"
        elif token in sight.ended and token not in sight.unseen:
            yield f"{token} was listed as over, and a restored ledger has not taken it in"
    for machine in sight.machines:
        if sight.restored_at is None and machine.reason.startswith("adopted"):
            yield f"{machine.id} was adopted, and no ledger was restored"


def others_are_left_alone(sight: Sight) -> Iterator[str]:
    """What does not bear our tag, or bears that of a deployment that this ledger never had."""
    for token, harm in sight.strangers.items():
        if harm:
            yield f"{token} is somebody else's, and was {harm}"
    for machine in sight.machines:
        if machine.token in sight.strangers:
            yield f"{machine.id} is in the ledger, and is somebody else's"


def what_costs_has_an_open_charge(sight: Sight) -> Iterator[str]:
    """Every machine has its own, but a box of ours has one, however many engines of the deployment run on it."""
    boxes = Counter(
        (machine.deployment, machine.offer_id)
        for machine in sight.machines
        if machine.purchase is Purchase.OWNED
        for charge in sight.charges.get(machine.id, ())
        if _open(charge)
    )
    for box, count in boxes.items():
        if count > 1:
            yield f"{box} has {count} open charges"
    long_ago = sight.now - sight.grace
    if sight.restored_at is not None and sight.lasting(sight.restored_at) <= sight.grace:
        return  # an older ledger has not seen yet what became of its machines
    for machine in sight.machines:
        still_open = sum(map(_open, sight.charges.get(machine.id, ())))
        if still_open > 1:
            yield f"{machine.id} has {still_open} open charges"
        costs = sight.running(machine.token, long_ago) and sight.running(machine.token, sight.now)
        if costs and not still_open and (machine.deployment, machine.offer_id) not in boxes:
            yield f"{machine.id} ({machine.status}) costs money and has no open charge"
        ends = [at for at in (sight.ended.get(machine.token), sight.stopped.get(machine.token)) if at is not None]
        over = min(ends, default=sight.now)
        known = over < long_ago and sight.lasting(over) > sight.grace
        if still_open and (machine.token not in sight.launched or known):
            yield f"{machine.id} ({machine.status}) has an open charge and no machine"


def _open(charge: Charge) -> bool:
    return charge.ended_at is None and charge.amount_micros is None


def nothing_outlives_what_is_wanted(sight: Sight) -> Iterator[str]:
    """Neither the deployment, nor its windows, nor its budget, by more than a drain, the listing and a tick."""
    if sight.lasting(sight.unwanted_since) > sight.leave:
        for token in sight.launched.keys() - sight.ended.keys():
            yield f"{token} runs, and nothing has been wanted since {sight.unwanted_since:%H:%M:%S} UTC"


def a_hard_budget_holds(sight: Sight) -> Iterator[str]:
    """It is passed by what runs in one tick and the drain, and by billing minimums; the amount counts."""
    for one in sight.overspent:
        if one.micros > one.allowed_micros:
            yield (
                f"the {one.limit} micro-units, kept until {one.since:%d %H:%M:%S} UTC, is passed by {one.micros}; "
                f"a tick, the drain and the minimums may cost {one.allowed_micros}"
            )


def no_more_run_than_may(sight: Sight) -> Iterator[str]:
    """What really runs, leaving ones included, for longer than it takes to leave."""
    if sight.lasting(sight.crowded_since) > sight.leave:
        count = len(sight.launched.keys() - sight.ended.keys())
        yield f"{count} machines run, more than may since {sight.crowded_since:%H:%M:%S} UTC"


def never_more_than_the_maximum_and_the_surge(sight: Sight) -> Iterator[str]:
    held = scaling.hold_down_seconds(sight.policy.start_seconds)
    bounds = windows.bounds(sight.policy.schedule, sight.local_now, held)
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


def the_target_is_reached(sight: Sight) -> Iterator[str]:
    """Within the time that a start may take, the listing and a tick; for who looks at a ledger, without haste."""
    patience = timedelta(seconds=sight.policy.patience.start_seconds) + 2 * sight.grace
    ready = sum(machine.status is Status.READY for machine in sight.machines)
    if ready < sight.target and sight.lasting(sight.target_since) > patience:
        yield f"{ready} of {sight.target} replicas serve, and nothing is said of what stands in the way"


def a_runaway_is_bounded(sight: Sight) -> Iterator[str]:
    launches = sorted(row.opened_at for row in sight.intents if row.kind == "launch")
    bound = sight.policy.launches_per_hour(max(sight.most, windows.bounds(sight.policy.schedule, sight.local_now).max))
    bound *= 1 + sight.clock_sets  # an hour that is lived through twice has its launches twice
    worst = max((bisect_left(launches, at + HOUR) - place for place, at in enumerate(launches)), default=0)
    if worst > bound:
        yield f"{worst} launches within an hour, at most {bound} may be"


def one_intent_of_a_kind(sight: Sight) -> Iterator[str]:
    still_open = Counter((row.kind, row.instance_id) for row in sight.intents if row.state == "open")
    for (kind, machine), count in still_open.items():
        if count > 1:
            yield f"{count} open intents to {kind} {machine}"


def the_ledger_equals_the_meter(sight: Sight) -> Iterator[str]:
    """Only once everything is settled.

    Where the provider forgot an end before anybody looked, more may be booked: it is dated when it was missed; and
    where it forgot all of a machine, or the ledger was put back or the daemon's clock set meanwhile, nobody can know.
    """
    for machine in sight.machines:
        rows = (*sight.charges.get(machine.id, ()), *sight.disks.get(machine.id, ()))
        booked = sum(_booked(charge, sight.now) for charge in rows)
        metered = sight.meter.get(machine.token, 0)
        unknowable = sight.restored_at is not None or machine.launched_at is None or sight.clock_sets > 0
        unknowable = unknowable or booked > metered
        if booked != metered and not (machine.token in sight.unseen and unknowable):
            yield f"{machine.id} ({machine.status}) is booked with {booked} and metered with {metered} micro-units"


def _booked(charge: Charge, now: datetime) -> int:
    """What a charge comes to; a closed one whole: a clock that was ahead may have dated its end in the time to come."""
    until = now if _open(charge) else max(now, (charge.ended_at or charge.started_at) + timedelta(seconds=1))
    return billing.accrued(charge, until) or 0


def nothing_runs(sight: Sight) -> Iterator[str]:
    """Only after the end."""
    for token in sight.launched.keys() - sight.ended.keys():
        yield f"{token} still runs"
    for machine in sight.machines:
        if machine.status not in OVER:
            yield f"{machine.id} is still {machine.status}"


Invariant = Callable[[Sight], Iterator[str]]

#: whatever became of the tick
ANYTIME: tuple[Invariant, ...] = (
    one_token_one_machine,
    others_are_left_alone,
    what_costs_has_an_open_charge,
    nothing_outlives_what_is_wanted,
    a_hard_budget_holds,
    no_more_run_than_may,
    what_is_over_has_nothing_left_to_be_done,
    one_intent_of_a_kind,
)
#: after a tick that went well
ALWAYS: tuple[Invariant, ...] = (
    *ANYTIME,
    never_more_than_the_maximum_and_the_surge,
    closed_means_that_nothing_is_in_the_door,
    a_runaway_is_bounded,
)


#: what a real ledger can be asked, with the spec and the door beside it
LOOKED_AT: tuple[Invariant, ...] = (
    nothing_outlives_what_is_wanted,
    never_more_than_the_maximum_and_the_surge,
    closed_means_that_nothing_is_in_the_door,
    the_target_is_reached,
    a_runaway_is_bounded,
)


def broken(sight: Sight, invariants: Sequence[Invariant] = ALWAYS) -> list[str]:
    """What is wrong, each with the name of what it breaks."""
    return [f"{invariant.__name__}: {words}" for invariant in invariants for words in invariant(sight)]
