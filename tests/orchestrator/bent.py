"""The market, bent: providers and probes that do what it does, but for what a test wants otherwise."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from orchestrator.providers import Listed, ProviderError, Request, Unreachable
from orchestrator.providers.simulated import SimulatedProvider


class Bent:
    """A provider that does what the market does, but for what a test bends."""

    name = "simulated"

    def __init__(self, market: SimulatedProvider) -> None:
        self.market = market
        self.listing_deadline_seconds = market.listing_deadline_seconds
        self.terms = market.terms
        self.prices = market.prices

    def offers(self) -> Any:
        return self.market.offers()

    def instances(self) -> Any:
        return self.market.instances()

    def launch(self, request: Request) -> str:
        return self.market.launch(request)

    def terminate(self, provider_id: str) -> None:
        self.market.terminate(provider_id)


class Dark(Bent):
    """Nobody answers."""

    def offers(self) -> Any:
        raise Unreachable("network is down")

    instances = launch = terminate = lambda self, *_: self.offers()


class Hiding(Bent):
    """Some machines are not listed."""

    def __init__(self, market: SimulatedProvider, tokens: set[str]) -> None:
        super().__init__(market)
        self.tokens = tokens

    def instances(self) -> list[Listed]:
        return [one for one in self.market.instances() if one.token not in self.tokens]


class Announcing(Bent):
    """One machine is said to be taken back at a moment."""

    def __init__(self, market: SimulatedProvider, token: str, at: datetime) -> None:
        super().__init__(market)
        self.token, self.at = token, at

    def instances(self) -> list[Listed]:
        return [replace(one, reclaim_at=self.at) if one.token == self.token else one for one in self.market.instances()]


class Zoned(Bent):
    """Launches in one zone fail."""

    def __init__(self, market: SimulatedProvider, zone: str, error: ProviderError) -> None:
        super().__init__(market)
        self.zone, self.error = zone, error

    def launch(self, request: Request) -> str:
        if request.offer.zone == self.zone:
            raise self.error
        return self.market.launch(request)


class Counting(Bent):
    launches = 0

    def launch(self, request: Request) -> str:
        self.launches += 1
        return self.market.launch(request)


class Repriced(Bent):
    """Everything costs something else now; since when, it does not say."""

    def __init__(self, market: SimulatedProvider, price: int) -> None:
        super().__init__(market)
        self.price = price

        self.prices = lambda since: None

    def offers(self) -> Any:
        return [replace(one, price_per_hour_micros=self.price) for one in self.market.offers()]


class Deaf:
    """Probes that some replicas, or all, do not answer."""

    def __init__(self, market: SimulatedProvider, urls: set[str] | None = None) -> None:
        self.market, self.urls = market, urls if urls is not None else set()
        self.all = urls is None

    def health(self, url: str) -> Any:
        return None if self.all or url in self.urls else self.market.health(url)

    def drain(self, url: str) -> bool:
        return not self.all and url not in self.urls and self.market.drain(url)


class Waylaid(Bent):
    """Something happens between the launch and its answer."""

    def __init__(self, market: SimulatedProvider, meanwhile: Callable[[], None]) -> None:
        super().__init__(market)
        self.meanwhile = meanwhile

    def launch(self, request: Request) -> str:
        launched = self.market.launch(request)
        self.meanwhile()
        return launched
