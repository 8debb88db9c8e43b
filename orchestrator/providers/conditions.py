"""How a simulated market behaves: offers and their prices, outages, troubles, and the terms of its bill."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from orchestrator.billing import Terms
from orchestrator.providers import ProviderError
from orchestrator.providers.rental import Outage
from orchestrator.providers.tariff import Move
from policies.snapshot import Offer


class Kind(StrEnum):
    """What can be wrong with a provider for a while."""

    UNREACHABLE = "unreachable"  # no call, no replica answers, and nothing happens
    SILENT = "silent"  # launch and terminate take effect, and their answer is lost
    THROTTLED = "throttled"  # launch, terminate and listing are put off
    DROUGHT = "drought"  # there are no machines, on demand neither
    REFUSING = "refusing"  # every launch is called a mistake
    STALE = "stale"  # the listing is that of `listing_delay_seconds` ago
    DOUBLED = "doubled"  # every machine is listed twice, the second time as it was then
    NEVER_READY = "never ready"  # machines launched meanwhile boot, run, cost, and never answer
    STILLBORN = "stillborn"  # machines launched meanwhile end by themselves half way through their boot


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Something is wrong in [start, end), in one zone or everywhere.

    In one zone, calls about its machines suffer, and their part of a listing; a call about the account does not.
    """

    kind: Kind
    start: datetime
    end: datetime
    zone: str = ""  # everywhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """How the market behaves."""

    offers: tuple[Offer, ...]
    boot_seconds: float = 60.0
    listing_delay_seconds: float = 0.0  # at most; how late a machine is listed follows from its token
    listed_after_end_seconds: float = 3600.0  # ended machines are listed for so long, as clouds do
    notice_seconds: float = 120.0
    outages: tuple[Outage, ...] = ()
    moves: tuple[Move, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    quota: int | None = None  # machines of the account at once
    terms: Terms = field(default_factory=Terms)


@dataclass
class Faults:
    """Errors to come, in order: raised before the call takes effect, or after it did."""

    before: list[ProviderError] = field(default_factory=list)
    after: list[ProviderError] = field(default_factory=list)
