"""What `halve ledger check` asks of a deployment that is being kept true: silent while all is well, and only then."""

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.clock import SystemClock
from orchestrator.deployment import open_running
from orchestrator.holder import identity
from orchestrator.ledger import deployments, fleet, leases
from orchestrator.ledger.store import Ledger
from orchestrator.scheduler import tick
from orchestrator.standing import findings
from policies.lifecycle import Status
from tests.orchestrator.driven import put_up

LATER = timedelta(hours=1)


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    kept = put_up(home, "simulated")
    yield kept
    kept.close()


def looked_after(home: Path, ledger: Ledger, at: datetime) -> None:
    """This process is the daemon, and its last tick was then."""
    with ledger.write() as tx:
        held = leases.held(tx)
        if held is None:
            leases.take(tx, identity(), os.getpid(), at + timedelta(days=1))
        row = deployments.get(tx, "ocr")
    assert row is not None
    running = open_running(home, SystemClock(), ledger, row)
    tick(running.world)
    running.close()
    with ledger.write() as tx:
        leases.ticked(tx, at, None)


def wrong(home: Path, ledger: Ledger, now: datetime) -> set[str]:
    return {name for name, found in findings(home, ledger, now).items() if found}


def test_it_says_when_nobody_looks_after_what_is_wanted(home: Path, ledger: Ledger) -> None:
    now = datetime.now(UTC)
    assert wrong(home, ledger, now) == {"somebody_ticks"}
    looked_after(home, ledger, now)
    assert wrong(home, ledger, now) == set()
    assert wrong(home, ledger, now + LATER) == {"somebody_ticks"}
    with ledger.write() as tx:
        deployments.take_down(tx, "ocr", now)
    assert wrong(home, ledger, now + LATER) == {"somebody_ticks"}, "it still costs"


def test_a_replica_that_is_long_in_coming_is_named_and_one_that_is_replaced_is_not(home: Path, ledger: Ledger) -> None:
    now = datetime.now(UTC)
    looked_after(home, ledger, now)
    with ledger.write() as tx:
        leases.ticked(tx, now + LATER, None)
    assert wrong(home, ledger, now + LATER) == {"the_target_is_reached"}
    with ledger.write() as tx:
        (machine,) = fleet.machines(tx, "ocr")
        fleet.save(tx, replace(machine, status=Status.FAILED, ended_at=now + LATER - timedelta(seconds=5)))
    assert wrong(home, ledger, now + LATER) == set(), "its replacement is on its way"


def test_what_outlives_its_deployment_is_named(home: Path, ledger: Ledger) -> None:
    now = datetime.now(UTC)
    looked_after(home, ledger, now)
    looked_after(home, ledger, now)
    with ledger.write() as tx:
        (machine,) = fleet.machines(tx, "ocr")
        fleet.save(tx, replace(machine, status=Status.READY, launched_at=now, ready_at=now))
        deployments.take_down(tx, "ocr", now + timedelta(seconds=1))
        leases.ticked(tx, now + LATER, None)
    assert "nothing_outlives_what_is_wanted" in wrong(home, ledger, now + LATER)


def test_a_spec_that_means_nothing_any_more_is_named(home: Path, ledger: Ledger) -> None:
    now = datetime.now(UTC)
    looked_after(home, ledger, now)
    with ledger.write() as tx:
        deployments.put_up(tx, "ocr", "name: [", "ocr.yaml", now - LATER)
    assert wrong(home, ledger, now) == {"every_spec_means_something"}
