"""Hosts reached by ssh as a provider: a host is a zone, and carries one current replica of a deployment."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from orchestrator.billing import Terms
from orchestrator.clock import Clock
from orchestrator.draw import Draw
from orchestrator.providers import (
    Listed,
    Misconfigured,
    Priced,
    ProviderError,
    Request,
    State,
    Unreachable,
)
from orchestrator.providers.ssh.host import Host, remember
from orchestrator.providers.ssh.link import Link
from orchestrator.providers.ssh.standing import drawn
from policies.snapshot import Offer

#: from a host's GPU by name (None: it has said nothing yet) and the power it draws to what is offered; None: nothing is
Offering = Callable[[str | None, Draw], Offer | None]
_LISTED = TypeAdapter(list[Listed])


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """A host, and what of it is on offer."""

    host: Host
    offer: Offering


class SshProvider:
    """Replicas on these hosts. Safe to use from several threads and processes.

    A host that does not answer is listed as it was last seen, and offered no more; when none answers, the provider is
    unreachable.
    """

    name = "ssh"
    listing_deadline_seconds = 30.0
    terms = Terms()

    def __init__(self, home: Path, clock: Clock, hosts: Sequence[Offered], digest: str = "") -> None:
        """`digest`: of the replicas wanted now. What runs by another one does not fill its host. Raises OSError."""
        self._clock = clock
        self._digest = digest
        self._hosts = {one.host.name: one for one in hosts}
        for one in hosts:
            remember(home, one.host)
        self._links = {name: Link(home, name) for name in self._hosts}

    def offers(self) -> Sequence[Offer]:
        looks = self._look()
        found = []
        for name, look in looks.items():
            if isinstance(look, ProviderError) or not (look["reached"] or look["can_start"]):
                continue
            hello: Mapping[str, Any] = look["hello"] or {}
            offer = self._hosts[name].offer(hello.get("gpu"), drawn(look))
            if offer is not None:
                found.append(replace(offer, capacity=1 + self._outgoing(name, offer, look)))
        return tuple(found)

    def prices(self, since: datetime) -> Sequence[Priced] | None:
        return None  # it costs what its owner says, from when he says it

    def instances(self) -> Sequence[Listed]:
        looks = self._look().items()
        return tuple(one for name, look in looks if not isinstance(look, ProviderError) for one in _read(name, look))

    def launch(self, request: Request) -> str:
        link = self._links.get(request.offer.zone)
        if link is None:
            raise Misconfigured(f"{request.offer.id} is no longer on offer")
        said = link.ask("launch", now=self._now(), token=request.token, payload=dict(request.payload))
        return _own_id(link.name, said["provider_id"])

    def terminate(self, provider_id: str) -> None:
        name, _, own = provider_id.rpartition("/")
        link = self._links.get(name)
        if link is not None:
            link.ask("terminate", now=self._now(), provider_id=own)

    def close(self) -> None:
        """Let go of the links; they go on."""
        for link in self._links.values():
            link.close()

    def _now(self) -> str:
        return self._clock.now().isoformat()

    def _look(self) -> Mapping[str, Mapping[str, Any] | ProviderError]:
        """What each host's link says. Raises Unreachable when no host answers and none is off by our doing."""
        now = self._now()

        def look(link: Link) -> Mapping[str, Any] | ProviderError:
            try:
                return link.ask("look", now=now)
            except ProviderError as error:
                return error

        links = list(self._links.values())
        if len(links) == 1:
            looks = {links[0].name: look(links[0])}
        else:
            with ThreadPoolExecutor(max_workers=max(1, min(16, len(links)))) as threads:
                looks = dict(zip(self._links, threads.map(look, links), strict=True))
        known = [one for one in looks.values() if not isinstance(one, ProviderError)]
        if links and not any(one["reached"] or one["off"] or one["can_start"] for one in known):
            why = [str(one) if isinstance(one, ProviderError) else one["why"] for one in looks.values()]
            raise Unreachable("; ".join(why))
        return looks

    def _outgoing(self, name: str, offer: Offer, look: Mapping[str, Any]) -> int:
        """Replicas there that run by an older spec: their replacement starts beside them."""
        return sum(
            one.state is not State.GONE and one.tags.offer_id == offer.id and one.tags.digest != self._digest
            for one in _read(name, look)
        )


def _read(name: str, look: Mapping[str, Any]) -> list[Listed]:
    try:
        listed = _LISTED.validate_python(look["listed"])
    except ValidationError:
        raise Unreachable(f"{name} lists what this version cannot read") from None
    return [replace(one, provider_id=_own_id(name, one.provider_id)) for one in listed]


def _own_id(name: str, token: str) -> str:
    return f"{name}/{token}"
