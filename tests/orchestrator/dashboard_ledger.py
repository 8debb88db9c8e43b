"""A ledger with something on every page of the dashboard: forty days of a deployment by day, with spot machines, some
of them lost, moving prices, decisions with their grounds, and a batch under way.
"""

from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from orchestrator import replay
from orchestrator.ledger import jobs
from orchestrator.ledger import tables as t
from orchestrator.ledger.store import Ledger, open_ledger
from policies.lifecycle import Status
from policies.snapshot import Instance, Load, Offer, Profile, Purchase, Snapshot, Spend

DAYS = 40
SPEC = """
name: ocr
model: ppocr
provider: simulated
currency: USD
simulated: {gpu: T4, price_per_hour: 0.526, spot_price_per_hour: 0.21, zones: 3}
schedule: {timezone: Europe/Berlin, windows: ["Mon-Sun 08:00-20:00"]}
replicas: {min: 1, max: 4}
spot: {policy: hazard, availability: 99%}
budget: {monthly: 400, at: {80%: warn, 100%: stop}}
baseline: {gpu: T4, purchase: on_demand, replicas: 4, always_on: true, price_per_hour: 0.526}
"""
OTHER = "name: archive\nmodel: ppocr\nprovider: local\ncurrency: USD\n"
ZONES = ("sim-1", "sim-2", "sim-3")
PRICES = {"on_demand": 526_000, "spot": 210_000}


def offer_id(zone: str, terms: str) -> str:
    return f"simulated/ocr/{zone}/t4/{terms}"


def filled(home: Path, now: datetime | None = None) -> Ledger:
    """The ledger of `home`, up to now."""
    now = (now or datetime.now(UTC)).replace(microsecond=0)
    ledger = open_ledger(home)
    ledger.hurry()
    with ledger.write() as tx:
        at = now - timedelta(days=DAYS)
        row: dict[str, Any] = {"source": "ocr.yaml", "version": 1, "created_at": at, "updated_at": at, "wanted": "up"}
        tx.execute(
            t.deployments.insert(), [row | {"name": "ocr", "spec": SPEC}, row | {"name": "archive", "spec": OTHER}]
        )
        _market(tx, at, now)
        numbers = count(1)
        for days in range(DAYS + 1):
            day = (now - timedelta(days=DAYS - days)).replace(hour=7, minute=0, second=0)
            if day < now:
                _day(tx, numbers, days, day, min(now, day + timedelta(hours=12)), now)
        _batch(tx, now)
    return ledger


def _market(tx: sa.Connection, start: datetime, now: datetime) -> None:
    common = {"provider": "simulated", "instance_type": "t4", "gpu": "T4", "seen_at": now, "refusals": 0, "losses": 0}
    offers = [
        common | {"id": offer_id(zone, terms), "zone": zone, "purchase": terms} for zone in ZONES for terms in PRICES
    ]
    tx.execute(t.offers.insert(), offers)
    prices = []
    for place, zone in enumerate(ZONES):
        for terms, price in PRICES.items():
            for days in range(0, DAYS, 1 if terms == "spot" else DAYS):
                moved = price + (days * 7919 + place * 104729) % 60_000 if terms == "spot" else price
                at = start + timedelta(days=days, hours=place)
                told = {"offer_id": offer_id(zone, terms), "price_per_hour_micros": moved, "currency": "USD"}
                prices.append(told | {"source": "provider", "effective_at": at, "recorded_at": at})
    tx.execute(t.prices.insert(), prices)
    profile = {"model": "ppocr", "gpu": "T4", "precision": "fp16", "batch": 8, "images_per_second": 11.5}
    tx.execute(t.profiles.insert(), [profile | {"p95_ms": 240.0, "source": "bench", "note": "", "measured_at": start}])


def _day(tx: sa.Connection, numbers: Any, days: int, opens: datetime, closes: datetime, now: datetime) -> None:
    still = closes == now
    minutes = int((closes - opens).total_seconds()) // 60
    lives = [("on_demand", "sim-1", 0, minutes, "ended"), ("spot", "sim-2", 0, minutes, "ended")]
    if days % 3 == 0 and minutes > 400:
        lives.append(("spot", "sim-3", 0, 360, "preempted"))
        lives.append(("spot", "sim-1", 364, minutes, "ended"))
    else:
        lives.append(("spot", "sim-3", 0, minutes, "ended"))
    tick = _decision(tx, opens, [(terms, zone) for terms, zone, first, *_ in lives if first == 0])
    for terms, zone, first, last, status in lives:
        number = next(numbers)
        began, ended = opens + timedelta(minutes=first), opens + timedelta(minutes=last)
        runs = still and last == minutes
        intent = {"deployment": "ocr", "tick_id": tick, "kind": "launch", "instance_id": f"ocr-{number}"}
        intent |= {"payload": {}, "reason": "one is missing", "state": "done", "opened_at": began}
        key = tx.scalars(t.intents.insert().values(intent).returning(t.intents.c.id)).one()
        machine = {
            "id": f"ocr-{number}", "deployment": "ocr", "intent_id": key, "token": f"t{number}",
            "provider": "simulated", "offer_id": offer_id(zone, terms), "zone": zone,
            "instance_type": "t4", "gpu": "T4", "purchase": terms,
            "digest": "", "status": "ready" if runs else status, "requested_at": began, "launched_at": began,
            "ready_at": began + timedelta(minutes=1), "ended_at": None if runs else ended,
        }  # fmt: skip
        tx.execute(t.instances.insert().values(machine))
        charge = {
            "instance_id": f"ocr-{number}", "deployment": "ocr", "kind": "compute", "gpu": "T4", "purchase": terms,
            "price_per_hour_micros": PRICES[terms] + 317 * days, "currency": "USD", "started_at": began,
            "ended_at": None if runs else ended,
        }  # fmt: skip
        tx.execute(t.charges.insert().values(charge))
        every = range(first + 1, last, 5)
        loads = [
            {"deployment": "ocr", "instance_id": f"ocr-{number}", "at": opens + timedelta(minutes=minute)}
            | {"images": 40 + (minute * 13 + days * 29) % 200, "requests": 0, "refused": 0}
            for minute in every
        ]
        loads += [
            {"deployment": "ocr", "instance_id": "", "at": opens + timedelta(minutes=minute)}
            | {"images": 0, "requests": 60, "refused": 2 if minute % 120 == 1 else 0}
            for minute in every
            if number % 3 == 1
        ]
        if loads:
            tx.execute(t.loads.insert(), loads)
    quiet = {"deployment": "ocr", "target": 3, "reason": "open until 20:00 Europe/Berlin; 1.4 images/s"}
    quiet |= {"plan": {"actions": [], "notes": []}, "snapshot": None}
    beats = [quiet | {"at": opens + timedelta(minutes=minute)} for minute in range(5, minutes, 30)]
    if beats:
        tx.execute(t.ticks.insert(), beats)


def _decision(tx: sa.Connection, at: datetime, taken: list[tuple[str, str]]) -> int:
    reason = "open until 20:00 Europe/Berlin; 1.4 images/s over 8.1 a replica"
    actions = [{"kind": "launch", "offer": offer_id(zone, terms), "reason": reason} for terms, zone in taken]
    row = {"deployment": "ocr", "at": at, "target": 3, "reason": reason, "plan": {"actions": actions, "notes": []}}
    row |= {"snapshot": replay.to_json(snapshot(at))}
    return int(tx.scalars(t.ticks.insert().values(row).returning(t.ticks.c.id)).one())


def snapshot(at: datetime) -> Snapshot:
    """What a decision saw."""
    offers = tuple(
        Offer(
            id=offer_id(zone, terms), provider="simulated", zone=zone, instance_type="t4", gpu="T4",
            purchase=Purchase(terms), price_per_hour_micros=price, currency="USD",
        )
        for zone in ZONES
        for terms, price in PRICES.items()
    )  # fmt: skip
    profile = Profile(
        model="ppocr", gpu="T4", precision="fp16", batch=8, images_per_second=11.5, p95_ms=240.0, source="bench"
    )
    draining = Instance(
        id="ocr-0", offer_id=offers[0].id, provider="simulated", gpu="T4", purchase=Purchase.ON_DEMAND,
        status=Status.DRAINING, digest="", requested_at=at - timedelta(hours=20),
    )  # fmt: skip
    return Snapshot(
        now=at,
        deployment="ocr",
        digest="",
        offers=offers,
        profiles=(profile,),
        instances=(draining,),
        load=Load(images_per_second=1.4, peak_images_per_second=2.25, waiting=3),
        spend=Spend(month_micros=12_340_000, currency="USD"),
    )


def _batch(tx: sa.Connection, now: datetime) -> None:
    names = [f"{number:05}.png" for number in range(1, 1201)]
    number = jobs.create(
        tx, "ocr", Path("/scans"), Path("/results"), (), names, now - timedelta(hours=2), now + timedelta(hours=6),
        currency="USD", budget_micros=20_000_000,
    )  # fmt: skip
    settled = t.items.c.job_id == number, t.items.c.number <= 700
    tx.execute(t.items.update().where(*settled).values(state="done", settled_at=now - timedelta(seconds=30)))
    job = {"done": 690, "failed": 10, "cost_micros": 1_840_000, "costed_at": now}
    tx.execute(t.jobs.update().where(t.jobs.c.id == number).values(job))
