"""A simulated market in a process of its own, on the system's clock, rented from over HTTP as a cloud is.

python -m tests.orchestrator.market_http FOLDER [--seed N]

It writes its address to FOLDER/address; its troubles are drawn from the seed. `HttpMarket` is the daemon's side of it,
`Keeper` that of a test, which may do to its machines what befalls machines, and reads its meter.
"""

import argparse
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from orchestrator import providers
from orchestrator.authorities import authorities
from orchestrator.billing import Terms
from orchestrator.clock import SystemClock
from orchestrator.files import read_json, write_json
from orchestrator.probes import Health
from orchestrator.providers import Listed, Priced, ProviderError, Request, Unreachable
from orchestrator.providers.simulated import Conditions, Kind, Move, Outage, Rented, SimulatedProvider, Trouble
from policies.snapshot import Offer, Purchase
from tests.orchestrator.tiny import until

TERMS = Terms(minimum_seconds=2, first_hour_free=True, disk_per_hour_micros=36_000)
LISTING_DELAY_SECONDS = 0.4
CALL_SECONDS = 1.0
ZONES = 24
#: troubles are drawn for so long; a run that takes longer ends in calm
HORIZON = timedelta(minutes=30)

OFFERS = TypeAdapter(tuple[Offer, ...])
PRICES = TypeAdapter(tuple[Priced, ...])
LISTING = TypeAdapter(tuple[Listed, ...])
HEALTH = TypeAdapter(Health | None)
LAUNCH = TypeAdapter(Request)
RENTED = TypeAdapter(tuple[Rented, ...])
METER = TypeAdapter(dict[str, int])
ANYTHING = TypeAdapter(object)


def offers(zones: int, above: Callable[[int], int], capacity: int | None = None) -> tuple[Offer, ...]:
    """Spot and on-demand machines in so many zones, each `above(zone)` micro-units an hour dearer than the cheapest."""
    return tuple(
        Offer(
            id=f"simulated/zone-{zone}/{purchase}",
            provider="simulated",
            zone=f"zone-{zone}",
            instance_type="one",
            gpu="RTX 3060",
            purchase=purchase,
            price_per_hour_micros=price + above(zone),
            currency="CNY",
            capacity=capacity,
        )
        for zone in range(zones)
        for purchase, price in ((Purchase.ON_DEMAND, 1_800_000), (Purchase.SPOT, 700_000))
    )


def conditions(seed: int, start: datetime) -> Conditions:
    """A lively market: boots in a third of a second, and something is wrong with it for a third of the time."""
    drawn = random.Random(seed)
    offered = offers(ZONES, lambda zone: drawn.randrange(100_000), capacity=3)
    outages, moves, troubles, at = [], [], [], start
    while at < start + HORIZON:
        at += timedelta(seconds=drawn.uniform(0.3, 2.0))
        zone, end = f"zone-{drawn.randrange(ZONES)}", at + timedelta(seconds=drawn.uniform(0.2, 1.5))
        match drawn.randrange(4):
            case 0:
                outages.append(Outage(zone=zone, start=at, end=end, notice=drawn.random() < 0.5))
            case 1:
                price = drawn.randrange(500_000, 2_000_000)
                moves.append(Move(offer_id=drawn.choice(offered).id, at=at, price_per_hour_micros=price))
            case _:
                troubles.append(
                    Trouble(kind=drawn.choice(list(Kind)), start=at, end=end, zone=drawn.choice(("", zone)))
                )
    return Conditions(
        offers=offered,
        boot_seconds=0.3,
        listing_delay_seconds=LISTING_DELAY_SECONDS,
        notice_seconds=2.0,
        outages=tuple(outages),
        moves=tuple(moves),
        troubles=tuple(troubles),
        terms=TERMS,
    )


# the server


def application(market: SimulatedProvider) -> Starlette:
    """What the market's methods answer, over HTTP. A ProviderError is a 409 that names its type."""

    def launch(asked: Mapping[str, Any]) -> str:
        return market.launch(LAUNCH.validate_python(asked))

    def done(act: Callable[[str], object]) -> Callable[[Mapping[str, Any]], object]:
        return lambda asked: act(str(asked["of"]))

    answers: dict[str, tuple[TypeAdapter[Any], Callable[[Mapping[str, Any]], object]]] = {
        "offers": (OFFERS, lambda asked: market.offers()),
        "prices": (PRICES, lambda asked: market.prices(datetime.fromisoformat(asked["since"]))),
        "instances": (LISTING, lambda asked: market.instances()),
        "launch": (ANYTHING, launch),
        "terminate": (ANYTHING, done(market.terminate)),
        "health": (HEALTH, done(market.health)),
        "drain": (ANYTHING, done(market.drain)),
        "lose": (ANYTHING, done(market.lose)),
        "crash": (ANYTHING, done(market.crash)),
        "stop": (ANYTHING, done(market.stop)),
        "rented": (RENTED, lambda asked: market.rented()),
        "meter": (METER, lambda asked: market.meter()),
    }

    async def answer(request: HttpRequest) -> Response:
        adapter, method = answers[request.path_params["method"]]
        try:
            said, code = await run_in_threadpool(method, await request.json()), 200
        except ProviderError as error:
            adapter, said, code = ANYTHING, {"error": type(error).__name__, "words": str(error)}, 409
        except ClientDisconnect:  # killed while it asked
            return Response(status_code=400)
        return Response(adapter.dump_json(said), code, media_type="application/json")

    return Starlette(routes=[Route("/{method}", answer, methods=["POST"])])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    clock = SystemClock()
    market = SimulatedProvider(clock, conditions(options.seed, clock.now()))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        write_json(options.folder / "address", {"url": f"http://127.0.0.1:{listener.getsockname()[1]}"})
        uvicorn.Server(uvicorn.Config(application(market), log_level="warning")).run([listener])


# the two who call it


class HttpMarket:
    """Implements Provider and Probes: what a daemon knows of the market is what it answers in time."""

    name = "simulated"
    #: a request whose caller has given up may still take effect a while later
    listing_deadline_seconds = LISTING_DELAY_SECONDS + 3.0
    terms = TERMS

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=CALL_SECONDS, trust_env=False, verify=authorities())

    def offers(self) -> Sequence[Offer]:
        return OFFERS.validate_json(self._ask("offers"))

    def prices(self, since: datetime) -> Sequence[Priced] | None:
        return PRICES.validate_json(self._ask("prices", {"since": since.isoformat()}))

    def instances(self) -> Sequence[Listed]:
        return LISTING.validate_json(self._ask("instances"))

    def launch(self, request: Request) -> str:
        return str(ANYTHING.validate_json(self._ask("launch", LAUNCH.dump_python(request, mode="json"))))

    def terminate(self, provider_id: str) -> None:
        self._ask("terminate", {"of": provider_id})

    def health(self, url: str) -> Health | None:
        try:
            return HEALTH.validate_json(self._ask("health", {"of": url}))
        except ProviderError:
            return None

    def drain(self, url: str) -> bool:
        try:
            return ANYTHING.validate_json(self._ask("drain", {"of": url})) is True
        except ProviderError:
            return False

    def _ask(self, method: str, asked: Mapping[str, Any] | None = None) -> bytes:
        try:
            answer = self._http.post(f"/{method}", json=asked or {})
        except httpx.HTTPError as error:
            raise Unreachable(f"{method}: {type(error).__name__}") from None
        if answer.status_code == 409:
            said = answer.json()
            raise getattr(providers, said["error"])(said["words"])
        answer.raise_for_status()
        return answer.content


class Keeper:
    """The test's hold on the market: its process, what befalls its machines, and its meter."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self.url = url
        self._process = process
        self._http = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def befall(self, what: str, token: str) -> None:
        """`lose`, `crash` or `stop` one machine."""
        self._http.post(f"/{what}", json={"of": token}).raise_for_status()

    def rented(self) -> tuple[Rented, ...]:
        """Every machine that anybody ever had."""
        return RENTED.validate_json(self._http.post("/rented", json={}).content)

    def running(self) -> list[str]:
        """Tokens of the machines that are not over."""
        return [one.token for one in self.rented() if one.ended_at is None]

    def meter(self) -> dict[str, int]:
        """Micro-units by token."""
        return METER.validate_json(self._http.post("/meter", json={}).content)

    @contextmanager
    def silence(self) -> Iterator[None]:
        """It answers nobody: what was asked meanwhile, it does afterwards."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self._http.close()


@contextmanager
def market(folder: Path, seed: int) -> Iterator[Keeper]:
    """One in the background, until the block ends."""
    folder.mkdir()
    command = [sys.executable, "-m", "tests.orchestrator.market_http", str(folder), "--seed", str(seed)]
    process = subprocess.Popen(command)
    keeper = None
    try:
        keeper = Keeper(process, until(lambda: read_json(folder / "address"))["url"])
        yield keeper
    finally:
        if keeper is not None:
            keeper.close()
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
