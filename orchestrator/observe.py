"""The world as a snapshot: passive. It believes what it is told and changes nothing but our knowledge."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TypeVar

from orchestrator import book, demand, spending
from orchestrator.ledger import beliefs, charges, deployments, fleet, intents, jobs, offers, ticks
from orchestrator.ledger.fleet import Machine
from orchestrator.ledger.store import Transaction
from orchestrator.probes import Health
from orchestrator.providers import Listed, Priced, Provider, ProviderError, State
from orchestrator.reflection import reflect
from orchestrator.world import DoorLoad, World
from policies import scaling
from policies.decide import Policy
from policies.lifecycle import OVER
from policies.snapshot import Instance, Offer, Snapshot

#: the door is asked for its minutes of this long; older ones are in the ledger
RECENT = timedelta(minutes=10)
#: a ledger that knows no price of a provider asks for those of this long ago on
PRICES_BACK = timedelta(days=1)
#: a price is published at the latest so long after it came into force, and so may ones before it
PUBLISHED_WITHIN = timedelta(hours=6)
FAN_OUT = 16

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was seen of the world before anything was believed."""

    at: datetime
    offers: tuple[Offer, ...]
    prices: Mapping[str, Sequence[Priced]]  # by provider, of those that keep a history; the others' are in their offers
    prices_since: Mapping[str, datetime]  # from when on each provider was asked for prices
    listed: Mapping[str, Listed]  # by token
    health: Mapping[str, Health | None]  # by token, of those that have an address
    unreachable: Mapping[str, str]  # provider -> why
    load: DoorLoad | None


def look(world: World) -> Seen:
    """Ask providers, replicas and the door, without holding a transaction. Never raises for what is outside."""
    now = world.clock.now()
    found: list[Offer] = []
    prices: dict[str, Sequence[Priced]] = {}
    listed: dict[str, Listed] = {}
    unreachable: dict[str, str] = {}
    with world.ledger.read() as tx:
        ours = fleet.live_tokens(tx, world.deployment)
        newest = {name: offers.newest_price_at(tx, name) for name in world.providers}
    since = {name: now - PRICES_BACK if at is None else min(at, now) - PUBLISHED_WITHIN for name, at in newest.items()}
    for name, provider in world.providers.items():
        try:
            offered, history = provider.offers(), provider.prices(since[name])
            found += offered  # without the history of its prices, one that keeps it would seem to have none
            if history is not None:
                prices[name] = history
            there = sorted(provider.instances(), key=_last_word)
            lived_since = _unknown_since(world, there, ours)
            if history is not None and lived_since is not None and lived_since < since[name]:
                since[name] = lived_since
                prices[name] = provider.prices(lived_since) or ()
            listed |= {one.token: one for one in there}
        except ProviderError as error:
            unreachable[name] = str(error) or type(error).__name__
    urls = {
        token: one.url
        for token, one in listed.items()
        if one.state is State.RUNNING and one.url and (token in ours or one.tags.deployment == world.deployment)
    }
    answers = _each(world.probes.health, urls.values())
    return Seen(
        at=now,
        offers=tuple(found),
        prices=prices,
        prices_since=since,
        listed=listed,
        health=dict(zip(urls, answers, strict=True)),
        unreachable=unreachable,
        load=world.door.load(now - RECENT),
    )


def _unknown_since(world: World, listed: Sequence[Listed], ours: Collection[str]) -> datetime | None:
    """Since when a machine runs that is ours by its tags, and that the ledger is about to adopt: it needs the prices of
    its whole life. None: there is none."""
    launches = {one.token: one.launched_at for one in listed if one.tags.deployment == world.deployment}
    unknown = launches.keys() - ours
    if unknown:
        with world.ledger.read() as tx:
            unknown -= fleet.by_token(tx, unknown).keys()
    return min((launches[token] for token in unknown), default=None)


def _each(ask: Callable[[T], R], questions: Iterable[T]) -> list[R]:
    questions = list(questions)
    if len(questions) < 2:
        return [ask(question) for question in questions]
    count = min(FAN_OUT, len(questions))
    shares = [questions[place::count] for place in range(count)]  # a task for each question would cost more than most
    with ThreadPoolExecutor(max_workers=count) as threads:
        answers = list(threads.map(lambda share: [ask(question) for question in share], shares))
    return [answers[place % count][place // count] for place in range(len(questions))]


def _last_word(listed: Listed) -> tuple[float, bool]:
    """Of two machines with one token the older is ours to settle; of one that is listed twice, that it is gone."""
    return -listed.launched_at.timestamp(), listed.state is State.GONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Believed:
    """What the ledger knows now, of what was asked for in this transaction anyway."""

    machines: tuple[Machine, ...]  # those that are not over, in the order of their launch
    witnessed: tuple[tuple[Machine, Machine], ...]  # before and after, of those whose provider answered
    offers: Mapping[str, Offer]  # all that are known, by id
    closing: frozenset[str]  # ids of those that somebody was asked to end
    strangers: frozenset[str]  # tokens that are listed as alive, and that are no live machine of the ledger


def believe(tx: Transaction, world: World, seen: Seen) -> Believed:
    """Write what was seen into the ledger: statuses, settled launches, charges, offers and prices, demand."""
    learned, known = _record_offers(tx, seen)
    moved = {
        offer_id
        for offer_id, *paid in charges.paid(tx, world.deployment)
        if (offer := known.get(offer_id)) and [offer.price_per_hour_micros, offer.currency] != paid
    }
    leaving = {one.instance_id for one in intents.under_way(tx, world.deployment) if one.kind == "terminate"}
    forgotten, returned, strangers = _unexpected(tx, world, seen, known)
    kept, witnessed = [], []
    for before in (*fleet.machines(tx, world.deployment), *returned):
        provider = world.providers.get(before.provider)
        after = before
        if before.provider not in seen.unreachable and provider is not None:
            after = _witnessed(tx, seen, before, provider, moved, leaving=before.id in leaving)
            witnessed.append((before, after))
        if after.status not in OVER and after.deployment == world.deployment:
            kept.append(after)
    _rebook(tx, world, seen, learned)
    if seen.load is not None:
        deployments.record_loads(tx, seen.load.minutes)
    if returned:
        kept.sort(key=lambda machine: machine.intent_id)
    alive = frozenset(token for token in strangers if seen.listed[token].state is not State.GONE)
    known_by_now = {one.token for one in (*forgotten, *returned)}
    return Believed(
        machines=tuple(kept),
        witnessed=tuple(witnessed),
        offers=known,
        closing=frozenset(leaving),
        strangers=alive - known_by_now,
    )


def _rebook(tx: Transaction, world: World, seen: Seen, learned: Collection[str]) -> None:
    """What machines cost, or have cost, whose price was published late, whichever deployment's they are."""
    if not learned:
        return
    for machine in fleet.of_offers(tx, learned, min(seen.prices_since.values())):
        if provider := world.providers.get(machine.provider):
            book.rebook(tx, machine, seen.listed.get(machine.token), provider.terms, seen.at)


def _witnessed(
    tx: Transaction, seen: Seen, before: Machine, provider: Provider, moved: Collection[str], *, leaving: bool
) -> Machine:
    """One machine after it was looked at, written down with what that means for its charges."""
    listed = seen.listed.get(before.token)
    after = reflect(
        before,
        listed,
        seen.health.get(before.token),
        leaving=leaving,
        listing_deadline=timedelta(seconds=provider.listing_deadline_seconds),
        now=seen.at,
    )
    changed = after is not before and after != before
    if changed:
        fleet.save(tx, after)
    if changed or before.offer_id in moved or (listed is not None and listed.stops):
        book.settle(tx, before, after, listed, provider.terms, seen.at)
    return after


def _record_offers(tx: Transaction, seen: Seen) -> tuple[set[str], dict[str, Offer]]:
    """Write down offers that are new or changed, and their prices.

    Returns the ids of those of whose history something was learned, and all that are known.
    """

    def described(offer: Offer) -> Offer:
        offer = replace(offer, refusals=0, refused_at=None, lost_at=None)
        return replace(offer, price_per_hour_micros=None, currency="") if offer.provider in seen.prices else offer

    before = {offer.id: offer for offer in offers.known(tx)}
    news = [one for one in seen.offers if one.id not in before or described(before[one.id]) != described(one)]
    offers.describe(tx, [one for one in news if one.provider in seen.prices], seen.at)
    priced_now = [one for one in news if one.provider not in seen.prices]
    offers.record(tx, priced_now, "provider", seen.at)
    learned: set[str] = set()
    for name, prices in seen.prices.items():
        recorded = offers.prices_since(tx, name, seen.prices_since[name])
        moves = [one for one in prices if one not in recorded and _is_news(one, before, seen.prices_since[name])]
        learned |= offers.record_prices(tx, moves, "provider", seen.at) if moves else set()
    return learned, {offer.id: offer for offer in offers.known(tx)} if news or learned else before


def _is_news(price: Priced, known: Mapping[str, Offer], since: datetime) -> bool:
    """Whether a price that is not recorded may be unknown: a move since then, or what was in force and is not now."""
    offer = known.get(price.offer_id)
    if offer is None or price.effective_at >= since:
        return True
    return (price.price_per_hour_micros, price.currency) != (offer.price_per_hour_micros, offer.currency)


def _unexpected(
    tx: Transaction, world: World, seen: Seen, known: Mapping[str, Offer]
) -> tuple[list[Machine], list[Machine], frozenset[str]]:
    """What is listed and no live machine of the ledger: taken in by its tags; over in the ledger and not so there; all.

    The second are of any deployment: alive after all, or ended at another time than was believed.
    """
    beyond = frozenset(seen.listed.keys() - fleet.live_tokens(tx))
    if not beyond:
        return [], [], beyond
    over = fleet.by_token(tx, beyond)
    returned = [one for token, one in over.items() if _otherwise(one, seen.listed[token])]
    forgotten = [
        fleet.adopt(tx, world.deployment, one, known[one.tags.offer_id], seen.at)
        for token in sorted(beyond - over.keys())
        if (one := seen.listed[token]).tags.deployment == world.deployment and one.tags.offer_id in known
    ]
    return forgotten, returned, beyond - {token for token, one in over.items() if one not in returned}


def _otherwise(machine: Machine, listed: Listed) -> bool:
    """Whether a machine that is over in the ledger is not, or ended at another time."""
    if listed.state is not State.GONE or machine.launched_at is None:
        return True
    return listed.ended_at is not None and listed.ended_at != machine.ended_at


def snapshot(
    tx: Transaction, world: World, policy: Policy, seen: Seen, believed: Believed, start_seconds: float | None
) -> Snapshot:
    """All that the decision may know, from the ledger and from what was seen. `policy` is by this start."""
    on_offer = {offer.id for offer in seen.offers}
    hold_down = timedelta(seconds=scaling.hold_down_seconds(policy.start_seconds))
    decided = ticks.targets(tx, world.deployment, seen.at - hold_down)
    return Snapshot(
        now=seen.at,
        deployment=world.deployment,
        digest=world.digest,
        offers=tuple(one for one in offers.known(tx) if one.id in on_offer or one.provider in seen.unreachable),
        profiles=offers.profiles(tx, policy.model),
        instances=tuple(_instance(machine, world, seen, believed.closing) for machine in believed.machines),
        load=demand.load(tx, world.deployment, seen.load, policy, seen.at - hold_down, seen.at),
        spend=spending.spend(tx, world.deployment, seen.at, policy),
        jobs=jobs.demand(tx, world.deployment, seen.at),
        last_target=decided[-1][1] if decided else None,
        raised_at=max((at for (_, old), (at, new) in pairwise(decided) if new > old), default=None),
        recent_launches=fleet.launches_since(tx, world.deployment, seen.at - timedelta(hours=1)),
        unreachable=frozenset(seen.unreachable),
        strangers=tuple(seen.listed[token].provider_id for token in sorted(believed.strangers)),
        memory=beliefs.known(tx, world.deployment),
        start_seconds=start_seconds,
    )


def _instance(machine: Machine, world: World, seen: Seen, closing: Collection[str]) -> Instance:
    health = seen.health.get(machine.token)
    counts = [world.door.in_flight(machine.id), health.in_flight if health else None]
    told = [count for count in counts if count is not None]
    return machine.seen_as(in_flight=sum(told) if told else None, terminating=machine.id in closing)
