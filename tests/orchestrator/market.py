"""A simulated market of one or two offers, on a clock that a test moves."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from orchestrator.clock import VirtualClock
from orchestrator.providers import Listed, Request
from orchestrator.providers.simulated import Conditions, Kind, SimulatedProvider, Trouble
from policies.snapshot import Offer, Purchase

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SPOT = Offer(
    id="simulated/sim-1/spot",
    provider="simulated",
    zone="sim-1",
    instance_type="tiny",
    gpu="tiny",
    purchase=Purchase.SPOT,
    price_per_hour_micros=1_234_567,
    currency="CNY",
)
ON_DEMAND = replace(SPOT, id="simulated/sim-1/on_demand", purchase=Purchase.ON_DEMAND, price_per_hour_micros=3_000_001)
ELSEWHERE = replace(ON_DEMAND, id="simulated/sim-2/on_demand", zone="sim-2")


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def market(clock: VirtualClock | None = None, **conditions: Any) -> SimulatedProvider:
    known = {"offers": (SPOT, ON_DEMAND, ELSEWHERE), "boot_seconds": 60, **conditions}
    return SimulatedProvider(clock or VirtualClock(NOW), Conditions(**known))


def trouble(kind: Kind, start: float = 0, end: float = 1000, zone: str = "") -> Trouble:
    return Trouble(kind=kind, start=at(start), end=at(end), zone=zone)


def ask(token: str = "a", offer: Offer = SPOT) -> Request:
    return Request(token=token, offer=offer, payload={})


def listings(provider: SimulatedProvider, token: str) -> list[Listed]:
    return [one for one in provider.instances() if one.token == token]


def listed(provider: SimulatedProvider, token: str) -> Listed:
    (one,) = listings(provider, token)
    return one
