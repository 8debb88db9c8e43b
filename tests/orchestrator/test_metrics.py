"""What Prometheus is told by daemon, door and replica: true, named as its own linter wants, and documented."""

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from inference.metrics import SHAPES
from inference.metrics import Metrics as ReplicaMetrics
from orchestrator.clock import VirtualClock
from orchestrator.door import metrics as door_metrics
from orchestrator.door.loads import Counts
from orchestrator.door.roster import Roster
from orchestrator.door.serving import Published, Replica, ServingSet
from orchestrator.errors import Refused
from orchestrator.exposition import Exposition, served
from orchestrator.holder import identity
from orchestrator.ledger import jobs, leases, offers
from orchestrator.ledger.store import Ledger, open_ledger
from orchestrator.metrics import DAEMON, DOOR, TICK_SECONDS
from orchestrator.scheduler import tick
from tests.orchestrator.market import ON_DEMAND
from tests.orchestrator.test_status import opened

NOW = datetime(2026, 11, 20, 8, tzinfo=UTC)
MARKET = """simulated: {price_per_hour: 1.80, boot: 1s, zones: 1}
currency: CNY
budget: {monthly: 600 CNY, at: {80%: warn}}"""
PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    made = open_ledger(home)
    yield made
    made.close()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(NOW)


@pytest.fixture
def told(home: Path, ledger: Ledger, clock: VirtualClock) -> Exposition:
    """Of a daemon that acts, with one replica up for half an hour, and a job."""
    world = opened(home, ledger, clock, MARKET)
    for _ in range(4):
        tick(world)
        clock.sleep(2)
    clock.sleep(1800)
    tick(world)
    made = Exposition(home, ledger, clock)
    with made.timed(), ledger.write() as tx:
        leases.take(tx, identity(), 1, clock.now() + timedelta(seconds=15))
        leases.ticked(tx, clock.now(), "a tick that failed")
        due = clock.now() + timedelta(hours=1)
        jobs.create(tx, "ocr", home, home, (), ["a.png", "b.png"], clock.now(), due, currency="CNY")
    return made


def text(told: Exposition) -> str:
    return generate_latest(told.registry).decode()


def samples(said: str) -> dict[str, float]:
    """`name{label="value"}` -> value, labels by name."""
    found = {}
    for family in text_string_to_metric_families(said):
        for one in family.samples:
            labels = ",".join(f'{key}="{value}"' for key, value in sorted(one.labels.items()))
            found[f"{one.name}{{{labels}}}" if labels else one.name] = one.value
    return found


def names(said: str) -> set[str]:
    return set(re.findall(r"^# TYPE (halve_\w+) ", said, re.M))


def lint(said: str) -> None:
    """As Prometheus' own linter sees it."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here: Debian's package prometheus has it")
    ours = "".join(f"{line}\n" for line in said.splitlines() if "halve_" in line)
    judged = subprocess.run(
        [promtool, "check", "metrics"], input=ours, capture_output=True, text=True, timeout=60, check=False
    )
    assert (judged.returncode, judged.stdout + judged.stderr) == (0, "")


def test_the_daemon_tells_what_its_ledger_knows(told: Exposition, clock: VirtualClock) -> None:
    said = samples(text(told))
    kind = 'deployment="ocr",gpu="RTX 3060",provider="simulated",purchase="on_demand"'
    assert said["halve_daemon_acting"] == 1
    assert said["halve_daemon_last_tick_timestamp_seconds"] == clock.now().timestamp()
    assert said["halve_daemon_tick_errors_total"] == 1
    assert said[f"{TICK_SECONDS}_count"] == 1
    assert said['halve_deployment_wanted_replicas{deployment="ocr"}'] == 1
    assert said[f'halve_instances{{{kind},status="ready"}}'] == 1
    assert said[f"halve_launches_total{{{kind}}}"] == 1
    assert said['halve_launches_last_hour{deployment="ocr"}'] == 1
    assert said['halve_open_charges{deployment="ocr"}'] == 1
    assert said['halve_hourly_cost{currency="CNY",deployment="ocr"}'] == 1.8
    month = said['halve_month_cost{currency="CNY",deployment="ocr"}']
    assert month == pytest.approx(0.9, abs=0.02)  # half an hour of it
    assert said['halve_budget_spent{currency="CNY",deployment="ocr",period="month"}'] == month
    assert said['halve_budget_limit{currency="CNY",deployment="ocr",period="month"}'] == 600
    assert said['halve_job_items{deployment="ocr",job="1",state="waiting"}'] == 2
    margin = said['halve_job_deadline_timestamp_seconds{deployment="ocr",job="1"}'] - clock.now().timestamp()
    assert margin == 3600
    assert 'halve_job_margin_seconds{deployment="ocr",job="1"}' not in said  # nothing moves: unknown, which is not 0
    assert 'halve_newest_price_timestamp_seconds{provider="simulated"}' not in said  # its spec says it, once


def test_the_age_of_a_markets_prices(told: Exposition, ledger: Ledger) -> None:
    rented = replace(ON_DEMAND, id="aws/a", provider="aws")
    with ledger.write() as tx:
        offers.record(tx, [rented], "provider", NOW)
    assert samples(text(told))['halve_newest_price_timestamp_seconds{provider="aws"}'] == NOW.timestamp()


def test_one_that_stands_by_tells_nothing_twice(
    home: Path, told: Exposition, ledger: Ledger, clock: VirtualClock
) -> None:
    with ledger.write() as tx:
        leases.take(tx, "elsewhere:1:1", 1, clock.now() + timedelta(seconds=15))
    said = samples(text(told))
    assert said["halve_daemon_acting"] == 0
    assert not [name for name in said if name.startswith(("halve_instances", "halve_month", "halve_daemon_last"))]


def test_each_is_named_and_explained_as_prometheus_wants(told: Exposition) -> None:
    said = text(told)
    assert names(said) <= {*DAEMON} | {f"{TICK_SECONDS}_created"}
    assert len(names(said)) > 20
    lint(said)


def door_text(counts: Counts, tmp_path: Path) -> str:
    path = tmp_path / "serving.json"
    published = Published(path, "ocr")
    published.serving = ServingSet(deployment="ocr", open=True, replicas=(Replica(id="a", url="http://127.0.0.1:1"),))
    return door_metrics.text(counts, Roster(published, counts)).decode()


def test_the_door_counts_since_it_opened(tmp_path: Path) -> None:
    at = [NOW.timestamp()]
    counts = Counts(lambda: at[0])
    for second in range(200):
        at[0] = NOW.timestamp() + second
        tally = counts.roll()
        tally.ask()
        tally.read(f"replica-{second}", 2)
        tally.latency(400.0)
        tally.failed += second % 100 == 0
        counts.totals.answered(200 if second else 503)
    counts.totals.again += 1
    counts.queued(+1)
    said = door_text(counts, tmp_path)
    found = samples(said)
    assert found['halve_door_requests_total{deployment="ocr"}'] == 200
    assert found['halve_door_failed_requests_total{deployment="ocr"}'] == 2
    assert found['halve_door_images_total{deployment="ocr"}'] == 400
    assert found['halve_door_request_seconds_bucket{deployment="ocr",le="0.3"}'] == 0
    assert found['halve_door_request_seconds_bucket{deployment="ocr",le="0.5"}'] == 200
    assert found['halve_door_request_seconds_sum{deployment="ocr"}'] == pytest.approx(80, rel=0.03)
    assert found['halve_door_answers_total{deployment="ocr",status="200"}'] == 199
    assert found['halve_door_requests_sent_again_total{deployment="ocr"}'] == 1
    assert found['halve_door_waiting_requests{deployment="ocr"}'] == 1
    assert found['halve_door_serving_replicas{deployment="ocr"}'] == 1
    assert names(said) == {*DOOR}
    assert "replica-" not in said  # however many there were, the door says no more
    lint(said)


def test_the_replica_names_all_that_it_counts() -> None:
    gauges = {name: 0.0 for name, (kind, _) in SHAPES.items() if kind == "gauge"}
    counted = ReplicaMetrics()
    counted.answered(200, 0.3, 2)
    counted.answered(415, 0.1, 0)
    said = counted.text(gauges)
    assert names(said) == {*SHAPES}
    lint(said)


def test_each_is_in_the_documentation_and_nothing_else_is() -> None:
    assert set(re.findall(r"`(halve_\w+)", PAGE)) == {*DAEMON, *DOOR, *SHAPES}
    assert {*DAEMON} & {*DOOR} == {*DAEMON} & {*SHAPES} == {*DOOR} & {*SHAPES} == set()


def test_they_are_served_beside_the_daemon(told: Exposition) -> None:
    with served(told, "127.0.0.1:0") as url, httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        scraped = client.get("/metrics")
        assert scraped.headers["Content-Type"].startswith("text/plain")
        assert "halve_month_cost" in scraped.text
        assert client.get("/targets").json() == []  # simulated replicas answer nobody, and no door is open
        assert client.get("/other").status_code == 404
        with pytest.raises(Refused, match="metrics: 127"), served(told, url.removeprefix("http://")):
            pass
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/metrics", trust_env=False, timeout=60)


@pytest.mark.parametrize("listen", ["nowhere", "127.0.0.1:99999"])
def test_a_place_that_is_none_is_named(told: Exposition, listen: str) -> None:
    with pytest.raises(Refused, match=f"--metrics {listen}: want HOST:PORT"), served(told, listen):
        pass


def test_a_silent_peer_keeps_nobody_waiting(told: Exposition) -> None:
    with served(told, "127.0.0.1:0") as url:
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)):
            assert httpx.get(f"{url}/metrics", trust_env=False, timeout=60).status_code == 200
