"""What is, at one instant, for one deployment. All that a decision may know; nothing is remembered elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from policies.lifecycle import Status


class Purchase(StrEnum):
    """On what terms a machine is had."""

    SPOT = "spot"
    ON_DEMAND = "on_demand"
    OWNED = "owned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A machine that could be had, at today's price, and what its pool taught us."""

    id: str
    provider: str
    zone: str
    instance_type: str
    gpu: str
    purchase: Purchase
    price_per_hour_micros: int | None = None  # None: unknown, never 0
    currency: str = ""
    capacity: int | None = None  # at most so many at once; None: no bound known
    refusals: int = 0  # in a row, since the last success
    refused_at: datetime | None = None
    lost_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Measured throughput of one model on one GPU: the other half of the price/throughput table."""

    model: str
    gpu: str
    precision: str
    batch: int
    images_per_second: float | None  # None: unknown, never 0
    p95_ms: float | None
    source: str  # seed | bench | observed
    size: str = ""  # of the images it was measured on: small | middle | large; "" all together


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A machine of ours, as far as we know."""

    id: str
    offer_id: str
    provider: str
    gpu: str
    purchase: Purchase
    status: Status
    digest: str  # of the spec's part it runs by
    requested_at: datetime
    launched_at: datetime | None = None
    ready_at: datetime | None = None
    draining_at: datetime | None = None
    reclaim_at: datetime | None = None  # the provider takes it back then
    rebalance_at: datetime | None = None  # since then its provider recommends to leave it
    silent_since: datetime | None = None  # it answers no probe since then
    in_flight: int | None = None  # requests it is working on; None: not known
    terminating: bool = False  # an intent to terminate it is open


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The demand. Rates are images per second; None means no evidence, which is not 0."""

    images_per_second: float | None = None
    peak_images_per_second: float | None = None  # highest minute of the hold-down window
    expected_images_per_second: float | None = None  # within one cold start, as past days had it
    waiting: int = 0  # requests held or queued now
    complete: bool = True  # False: of the hold-down window some minutes were not watched


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """Money spent so far, in the spec's currency."""

    month_micros: int = 0
    day_micros: int = 0
    currency: str = ""
    unknown_hours: float = 0.0  # machine hours whose price is not known


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """A batch that wants replicas."""

    id: int
    items_left: int
    deadline_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The world at `now`, as one deployment's decision sees it."""

    now: datetime
    deployment: str
    digest: str  # of the spec's part that a replica runs by: another one is outdated
    offers: tuple[Offer, ...] = ()
    profiles: tuple[Profile, ...] = ()
    instances: tuple[Instance, ...] = ()
    load: Load = Load()
    spend: Spend = Spend()
    jobs: tuple[JobState, ...] = ()
    last_target: int | None = None  # what was decided last; None: nothing yet
    raised_at: datetime | None = None  # when that rose, if within the hold-down window
    recent_launches: tuple[datetime, ...] = ()  # within the last hour, for the runaway bound
    unreachable: frozenset[str] = frozenset()  # providers that cannot be asked now: hold, launch nothing there
    strangers: tuple[str, ...] = ()  # machines that bear our tag, and that the ledger does not know
    memory: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of a policy by name, as it gave it
    start_seconds: float | None = None  # from launch to ready, as it was measured by then; None: not yet
