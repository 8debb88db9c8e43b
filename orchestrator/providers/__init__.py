"""The seam to whoever rents out machines: five synchronous, eventually consistent, repeatable methods.

To add a provider: one file, one line in `open_providers` (orchestrator/deployment.py), the conformance suite.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from orchestrator.billing import Terms
from policies.disruption import RECOMMENDED_FOR
from policies.snapshot import Offer


class State(StrEnum):
    """What a provider says of a machine."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"  # switched off by somebody, its disk kept and paid
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tags:
    """What a machine says of its launch, for a ledger that has forgotten it; "": not known."""

    deployment: str = ""
    offer_id: str = ""
    digest: str = ""


NO_TAGS = Tags()


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One machine that bears our tag, as the provider lists it. Ended ones are listed for a while too."""

    provider_id: str
    token: str
    state: State
    launched_at: datetime  # billing starts here, however often it is switched off and on again
    ended_at: datetime | None = None  # and ends here
    preempted: bool = False
    reclaim_at: datetime | None = None
    rebalance_at: datetime | None = None  # since then its provider recommends to leave it
    url: str | None = None  # where its replica answers
    detail: str = ""  # why it is gone, in the provider's words
    tags: Tags = NO_TAGS
    #: when it was switched off, and on again (None: it still is off, or was when it ended), oldest first, as far as the
    #: provider remembers: between them only its disk is paid, and every time it is switched on has its own minimum
    stops: tuple[tuple[datetime, datetime | None], ...] = ()

    @property
    def stopped_at(self) -> datetime | None:
        """Since when it is switched off; of one that is gone: was, at its end. None: it is not, or nobody knows."""
        return self.stops[-1][0] if self.stops and self.stops[-1][1] is None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A launch. Everything the provider is sent is a function of this, byte for byte, and none of it is secret."""

    token: str
    offer: Offer
    payload: Mapping[str, Any]  # deployment, offer, digest, model, engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """A price that an offer has had since a moment; None: unknown from then on."""

    offer_id: str
    price_per_hour_micros: int | None
    currency: str
    effective_at: datetime


def tags_of(payload: Mapping[str, Any]) -> Tags:
    """The tags that a launch with this payload bears."""
    return Tags(
        deployment=str(payload.get("deployment", "")),
        offer_id=str(payload.get("offer", "")),
        digest=str(payload.get("digest", "")),
    )


class Provider(Protocol):
    """What may be assumed of one: answers may be late or stale, every call may be repeated."""

    name: str
    #: a launched machine is listed at the latest after this long; before that, not listed means nothing
    listing_deadline_seconds: float
    #: by which its bill is made out, beyond price and time
    terms: Terms

    def offers(self) -> Sequence[Offer]:
        """What could be had now, and its price. Raises Unreachable or Throttled."""
        ...

    def prices(self, since: datetime) -> Sequence[Priced] | None:
        """Every price in force since `since`, that of each offer at that moment included, oldest first.

        None: it keeps no history, and a price is in force from when it is seen. Raises Unreachable or Throttled.
        """
        ...

    def instances(self) -> Sequence[Listed]:
        """All machines that bear our installation's tag, notices included. Raises Unreachable or Throttled."""
        ...

    def launch(self, request: Request) -> str:
        """Start a machine; return the provider's id. The same token is the same machine, never two.

        Raises NoCapacity, QuotaExceeded, Throttled, Misconfigured, Unreachable; nothing else.
        """
        ...

    def terminate(self, provider_id: str) -> None:
        """End a machine. Already gone is success. Raises Throttled or Unreachable."""
        ...


class ProviderError(Exception):
    """Whatever a provider could not do."""


class NoCapacity(ProviderError):
    """There is none of this offer now."""


class QuotaExceeded(ProviderError):
    """The account may not have more of this."""


class Misconfigured(ProviderError):
    """The request can never succeed as it stands."""


class Throttled(ProviderError):
    """Ask again later; nothing happened, or what happened will be listed."""


class Unreachable(ProviderError):
    """No answer. Whether anything happened is not known: the same call may be repeated."""


def earliest(*moments: datetime | None) -> datetime | None:
    """Of several that announce one thing; None: nobody does."""
    return min((at for at in moments if at is not None), default=None)


def recommended(*moments: datetime | None) -> datetime | None:
    """Since when it is recommended to leave a machine, of several words about it. Who hears of one recommendation hears
    it a little later than another; only what is said when the word that counts is old is a new one.
    """
    since: datetime | None = None
    for at in sorted(at for at in moments if at is not None):
        if since is None or at - since >= RECOMMENDED_FOR:
            since = at
    return since
