"""A deployment in a simulated market on a virtual clock, with the real loop and a real ledger between them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from orchestrator.billing import Charge
from orchestrator.clock import SetClock, VirtualClock
from orchestrator.door import ServingSet
from orchestrator.invariants import (
    ALWAYS,
    Invariant,
    Sight,
    broken,
    nothing_runs,
    the_ledger_equals_the_meter,
)
from orchestrator.ledger import charges, fleet, offers
from orchestrator.ledger.fleet import Machine
from orchestrator.ledger.store import Ledger
from orchestrator.probes import Probes
from orchestrator.providers import Provider
from orchestrator.providers.simulated import Conditions, SimulatedProvider
from orchestrator.scheduler import tick
from orchestrator.world import DoorLoad, World
from policies import windows
from policies.decide import Policy
from policies.disruption import Disruption
from policies.lifecycle import LIVE, Status
from policies.plan import Plan
from policies.snapshot import Offer, Profile, Purchase
from tests.orchestrator.batch import opened

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)  # a Friday
MODEL = "ppocr"
SPOT = Purchase.SPOT
DAYTIME = windows.Schedule(
    zone=ZoneInfo("Asia/Shanghai"),
    windows=(windows.Window(days=frozenset(range(5)), start_minute=8 * 60, end_minute=20 * 60),),
    prewarm_seconds=60,
)
OPENS = datetime(2026, 11, 20, 0, tzinfo=UTC)  # 08:00 in Shanghai
CLOSES = datetime(2026, 11, 20, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
QUICK = Disruption(start_seconds=60.0)


def offer(zone: int = 1, purchase: Purchase = Purchase.ON_DEMAND, price: int = 1_234_567, **more: Any) -> Offer:
    fields = {
        "id": f"simulated/sim-{zone}/{purchase}",
        "provider": "simulated",
        "zone": f"sim-{zone}",
        "instance_type": "t",
        "gpu": "T4",
        "purchase": purchase,
        "price_per_hour_micros": price,
        "currency": "CNY",
    }
    return Offer(**{**fields, **more})


SPEED = Profile(model=MODEL, gpu="T4", precision="fp32", batch=1, images_per_second=2.0, p95_ms=500, source="bench")


def always(least: int = 1, most: int = 1) -> windows.Schedule:
    return windows.Schedule(zone=ZoneInfo("UTC"), min=least, max=most)


@dataclass
class FakeDoor:
    """A door that is told who serves, and tells what the test says."""

    serving: ServingSet | None = None
    images_per_second: float = 0.0
    waiting: int = 0
    minutes: list[Mapping[str, Any]] = field(default_factory=list)
    busy: dict[str, int] = field(default_factory=dict)
    away: bool = False

    def publish(self, serving: ServingSet) -> None:
        self.serving = serving

    def load(self, after: datetime) -> DoorLoad | None:
        if self.away:
            return None
        minutes = tuple(one for one in self.minutes if one["at"] >= after)
        return DoorLoad(minutes=minutes, images_per_second=self.images_per_second, waiting=self.waiting)

    def in_flight(self, replica_id: str) -> int | None:
        return None if self.away else self.busy.get(replica_id, 0)

    @property
    def inside(self) -> list[str]:
        return [] if self.serving is None else [replica.id for replica in self.serving.replicas]


class Scene:
    """The world, its market and its clock; every tick is followed by every invariant."""

    def __init__(self, home: Path, *, start: datetime = NOW, policy: Mapping[str, Any] | None = None, **market: Any):
        self.home = home
        self.truth = VirtualClock(start)
        self.clock = SetClock(self.truth)
        conditions = {"offers": (offer(),), "boot_seconds": 20.0, **market}
        self.market = SimulatedProvider(self.truth, Conditions(**conditions))
        self.ledger = opened(home, "ocr")
        self.ledger.hurry()
        self.door = FakeDoor()
        self.policy = Policy(
            **{"model": MODEL, "schedule": always(), "providers": ("simulated",), "spot": True, **(policy or {})}
        )
        self.digest = "first"
        self.provider: Provider = self.market
        self.probes: Probes = self.market
        self.longest_tick = 0.0
        self.measured: float | None = None
        self.by_start: Callable[[datetime, float | None], Policy] | None = None
        self.plans: list[Plan] = []
        with self.ledger.write() as tx:
            for one in {each.gpu for each in self.market.offers()}:
                offers.add_profile(tx, replace(SPEED, gpu=one), start)

    @property
    def world(self) -> World:
        return World(
            deployment="ocr",
            digest=self.digest,
            payload={"deployment": "ocr", "model": MODEL, "engine": {}},
            wishes=self.wishes,
            clock=self.clock,
            ledger=self.ledger,
            providers={"simulated": self.provider},
            probes=self.probes,
            door=self.door,
        )

    def wishes(self, now: datetime, start_seconds: float | None) -> Policy:
        """What the test wants; what was measured is kept to be looked at."""
        self.measured = start_seconds
        if self.by_start is not None:
            self.policy = self.by_start(now, start_seconds)
        return self.policy

    def tick(self, *invariants: Invariant) -> Plan:
        plan = tick(self.world)
        self.plans.append(plan)
        wrong = broken(self.sight(), (*ALWAYS, *invariants))
        assert not wrong, f"at {self.clock.now()}: " + "; ".join(wrong)
        return plan

    def run(self, seconds: float, step: float = 5.0, each: Callable[[], object] = lambda: None) -> None:
        """Tick now and then every `step` for so long; `each` is called after every tick."""
        self.longest_tick = max(self.longest_tick, step)
        left = seconds
        while True:
            self.tick()
            each()
            if left <= 0:
                return
            self.clock.sleep(min(step, left))
            left -= step

    def settle(self, step: float = 5.0) -> None:
        """Take everything down, and see that the ledger agrees with the meter to the last micro-unit."""
        self.policy = replace(self.policy, wanted=False)
        self.door.busy.clear()
        for _ in range(60):
            self.tick()
            self.clock.sleep(step)
            if not self.market.running() and not self.machines():
                break
        self.longest_tick = max(self.longest_tick, step)
        wrong = broken(self.sight(), (*ALWAYS, nothing_runs, the_ledger_equals_the_meter))
        assert not wrong, "; ".join(wrong)

    def quiet(self) -> bool:
        """Whether a tick on an unchanged world plans nothing."""
        return not self.tick().actions

    def machines(self, *, over: bool = False) -> tuple[Machine, ...]:
        with self.ledger.read() as tx:
            return fleet.machines(tx, "ocr", over=over)

    def statuses(self, *, over: bool = False) -> dict[str, Status]:
        return {machine.id: machine.status for machine in self.machines(over=over)}

    def ready(self) -> list[Machine]:
        return [machine for machine in self.machines() if machine.status is Status.READY]

    def live(self) -> list[Machine]:
        return [machine for machine in self.machines() if machine.status in LIVE]

    def launches(self) -> int:
        return sum(row.kind == "launch" for row in self.rows("intents"))

    def rows(self, table: str) -> list[Any]:
        return rows(self.ledger, table)

    def sight(self) -> Sight:
        rented = self.market.rented()
        with self.ledger.read() as tx:
            time, disks = charges.booked(tx, charges.COMPUTE), charges.booked(tx, charges.DISK)
        return Sight(
            now=self.truth.now(),
            local_now=self.clock.now(),
            tick_seconds=self.longest_tick,
            listing_seconds=self.market.listing_deadline_seconds,
            machines=self.machines(over=True),
            charges=time,
            disks=disks,
            intents=self.rows("intents"),
            launched={one.token: one.launched_at for one in rented},
            ended={one.token: one.ended_at for one in rented if one.ended_at is not None},
            stopped={one.token: one.stopped_at for one in rented if one.stopped_at is not None},
            meter=self.market.meter(),
            serving=self.door.serving,
            policy=self.policy,
            digest=self.digest,
        )


def rows(ledger: Ledger, table: str) -> list[Any]:
    from orchestrator.ledger import tables

    with ledger.read() as tx:
        return list(tx.execute(tables.metadata.tables[table].select()))


def booked(ledger: Ledger) -> dict[str, list[Charge]]:
    """Every charge ever booked, by machine."""
    found: dict[str, list[Charge]] = {}
    for row in rows(ledger, "charges"):
        charge = Charge(
            started_at=row.started_at,
            ended_at=row.ended_at,
            price_per_hour_micros=row.price_per_hour_micros,
            currency=row.currency,
            amount_micros=row.amount_micros,
        )
        found.setdefault(row.instance_id, []).append(charge)
    return found
