"""The daemon's metrics over HTTP: counted in the ledger when somebody asks, in a thread of its own, never by the loop.

`GET /metrics` is Prometheus' text. `GET /targets` tells a Prometheus (`http_sd_configs`) where doors and replicas are
at this moment, for they come and go.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.exposition import make_wsgi_app
from prometheus_client.metrics_core import Metric

from orchestrator import __version__
from orchestrator.clock import Clock
from orchestrator.door.options import split_listen
from orchestrator.errors import Refused
from orchestrator.holder import identity
from orchestrator.jobs import asking
from orchestrator.ledger import counts, deployments, fleet, jobs, leases, offers
from orchestrator.ledger.jobs import OPEN
from orchestrator.ledger.store import Ledger, Transaction
from orchestrator.metrics import DAEMON, TICK_SECONDS, Families
from orchestrator.pricelists import OF_SPECS
from orchestrator.providers.simulated import SCHEME
from orchestrator.status import status
from policies.lifecycle import OVER, Status

#: seconds; a tick of a few machines takes hundredths, one that waits for a cloud's answers seconds
TICK_BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
MICROS = 1_000_000
HOUR_SECONDS = 3600
#: of machines that are over, those that somebody wants to count
ENDS = {Status.FAILED: "halve_failed_instances_total", Status.PREEMPTED: "halve_preempted_instances_total"}


class Exposition:
    """What one daemon's process measures itself, and what its ledger knows."""

    def __init__(self, home: Path, ledger: Ledger, clock: Clock) -> None:
        self._home = home
        self._ledger = ledger
        self._clock = clock
        self._identity = identity()
        self._asking = threading.Lock()
        self.registry = CollectorRegistry(auto_describe=False)
        self._tick = Histogram(
            TICK_SECONDS, DAEMON[TICK_SECONDS].help, registry=self.registry, buckets=(*TICK_BOUNDS, float("inf"))
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def timed(self) -> contextlib.AbstractContextManager[object]:
        """Around one round of ticks."""
        return self._tick.time()

    def collect(self) -> Iterator[Metric]:
        """What the ledger says now. However many ask at once, one reads."""
        found = Families(DAEMON)
        with self._asking:
            self._of_daemon(found, self._clock.now())
        yield from found.collect()

    def targets(self) -> list[dict[str, Any]]:
        """Doors and replicas, as Prometheus' HTTP service discovery has them."""
        found = []
        for one in status(self._home, self._ledger, self._clock.now())["deployments"]:
            if one["door"]:
                found.append(_target(one["door"], "/-/metrics", job="halve_door", deployment=one["name"]))
        with self._ledger.read() as tx:
            machines = fleet.machines(tx)
        for machine in machines:
            if machine.url and machine.status is Status.READY and not machine.url.startswith(SCHEME):
                named = {"deployment": machine.deployment, "replica": machine.id, "gpu": machine.gpu}
                found.append(_target(machine.url, "/metrics", job="halve_replica", **named))
        return found

    def _of_daemon(self, found: Families, now: datetime) -> None:
        found.add("halve_build_info", 1, __version__)
        with self._ledger.read() as tx:
            held = leases.held(tx)
        acting = held is not None and held.owner == self._identity and held.expires_at > now
        found.add("halve_daemon_acting", acting)
        if held is None or not acting:
            return  # it is for the one that acts to tell of the ledger: nothing is counted twice
        found.add("halve_daemon_generation", held.generation)
        found.add("halve_daemon_last_tick_timestamp_seconds", _moment(held.last_tick_at))
        found.add("halve_daemon_tick_errors_total", held.tick_errors)
        shown = status(self._home, self._ledger, now)
        found.add("halve_ledger_copy_timestamp_seconds", _moment(shown["backed_up_at"]))
        for one in shown["deployments"]:
            _of_deployment(found, one)
        with self._ledger.read() as tx:
            _of_machines(found, tx)
            _of_prices(found, tx)
            _of_jobs(found, tx, now)


def _of_deployment(found: Families, one: dict[str, Any]) -> None:
    name, spent, launches = one["name"], one["spend"], one["launches"]
    found.add("halve_deployment_open", one["open"], name)
    found.add("halve_deployment_wanted_replicas", one["target"], name)
    found.add("halve_deployment_next_edge_timestamp_seconds", _moment(one["next_edge_at"]), name)
    found.add("halve_launches_last_hour", launches["last_hour"], name)
    found.add("halve_launches_per_hour_limit", launches["bound"], name)
    found.add("halve_offers_left_alone", len(one["left_alone"]), name)
    currency = spent["currency"] or ""
    if currency:
        found.add("halve_month_cost", _money(spent["month_micros"]), name, currency)
    found.add("halve_month_unpriced_seconds", spent.get("unknown_hours", 0.0) * HOUR_SECONDS, name)
    for budget in one["budgets"]:
        found.add("halve_budget_limit", _money(budget["limit_micros"]), name, budget["period"], currency)
        found.add("halve_budget_spent", _money(budget["spent_micros"]), name, budget["period"], currency)


def _of_machines(found: Families, tx: Transaction) -> None:
    asked: dict[tuple[str, ...], int] = {}
    for *kind, state, count in counts.machines(tx):
        asked[tuple(kind)] = asked.get(tuple(kind), 0) + count
        if state in ENDS:
            found.add(ENDS[Status(state)], count, *kind)
        elif state not in OVER:
            found.add("halve_instances", count, *kind, state)
    for kind_of_machine, count in asked.items():
        found.add("halve_launches_total", count, *kind_of_machine)
    charges: dict[str, int] = {}
    for one in counts.running(tx):
        charges[one.deployment] = charges.get(one.deployment, 0) + one.charges
        if one.currency and one.charges > one.unpriced:
            found.add("halve_hourly_cost", _money(one.micros_per_hour), one.deployment, one.currency)
    for name in (row.name for row in deployments.known(tx)):
        found.add("halve_open_charges", charges.get(name, 0), name)


def _of_prices(found: Families, tx: Transaction) -> None:
    # what a spec says of its own machines does not age, and nothing can be rented from a published list
    for provider in sorted({offer.provider for offer in offers.known(tx)} - {offers.MARKET, *OF_SPECS}):
        found.add("halve_newest_price_timestamp_seconds", _moment(offers.newest_price_at(tx, provider)), provider)


def _of_jobs(found: Families, tx: Transaction, now: datetime) -> None:
    for job in jobs.known(tx, still_open=True):
        assert job.state in OPEN
        shown = asking.values(job, jobs.progress(tx, job, now), now)
        which = job.deployment, str(job.id)
        for state in ("waiting", "leased", "done", "failed"):
            found.add("halve_job_items", shown[state], *which, state)
        if job.currency:
            found.add("halve_job_cost", _money(shown["cost_micros"]), *which, job.currency)
        found.add("halve_job_deadline_timestamp_seconds", _moment(job.deadline_at), *which)
        found.add("halve_job_margin_seconds", shown["margin_seconds"], *which)


def _moment(at: datetime | str | None) -> float | None:
    return (datetime.fromisoformat(at) if isinstance(at, str) else at).timestamp() if at else None


def _money(micros: int | None) -> float | None:
    return None if micros is None else micros / MICROS


def _target(url: str, path: str, **labels: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {"targets": [parts.netloc], "labels": {"__scheme__": parts.scheme, "__metrics_path__": path, **labels}}


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    timeout = 10.0  # seconds, for a peer that connects and says nothing

    def log_message(self, format: str, *args: object) -> None:
        pass  # a scrape every few seconds is no news


@contextlib.contextmanager
def served(exposition: Exposition, listen: str) -> Iterator[str]:
    """Answer on HOST:PORT (0: any) inside the block; yields the URL. Raises Refused when it is taken.

    No word of it is secret to this machine's users, and nothing protects it: loopback is the place for it.
    """
    try:
        host, port = split_listen(listen)
    except Refused:
        raise Refused(f"--metrics {listen}: want HOST:PORT, like 127.0.0.1:7871") from None
    try:
        server = make_server(host, port, _app(exposition), _Server, _Quiet)
    except OSError as error:
        raise Refused(f"metrics: {listen}: {error.strerror}; free it, or name another with --metrics") from None
    thread = threading.Thread(target=_serve, args=(server,), name="metrics", daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _serve(server: WSGIServer) -> None:
    server.serve_forever(poll_interval=0.2)


def _app(exposition: Exposition) -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    metrics = make_wsgi_app(exposition.registry)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        try:
            if path == "/metrics":
                answer: Iterable[bytes] = metrics(environ, start_response)
                return answer
            if path == "/targets":
                body = json.dumps(exposition.targets()).encode()
                start_response("200 OK", [("Content-Type", "application/json")])
                return [body]
        except Refused as refusal:  # a ledger that cannot be read now
            start_response("503 Service Unavailable", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"{refusal}\n".encode()]
        start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"there are GET /metrics and GET /targets\n"]

    return app
