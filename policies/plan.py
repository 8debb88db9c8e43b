"""What to do: a value with its reasons, complete before anything happens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from policies.snapshot import Offer


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Have one more machine of this offer."""

    offer: Offer
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Take it out of the door and let it finish what it has."""

    instance_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminate:
    """End it; repeated until it is seen gone."""

    instance_id: str
    reason: str


Action = Launch | Drain | Terminate


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """How many replicas should serve, and why."""

    replicas: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """What the door says: whether it takes requests, else when it will as far as anybody knows, and why."""

    open: bool
    opens_at: datetime | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All actions of one tick. Empty means that the world is as it should be."""

    target: Target
    hours: Hours
    actions: tuple[Action, ...] = ()
    notes: tuple[str, ...] = ()  # what could not be done, in words for the person paying
    memory: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # to be kept, by policy; what is not, stays
