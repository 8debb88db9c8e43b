"""A real daemon is killed before and after each of its calls and commits; the next one takes it from there."""

import signal
from pathlib import Path

import pytest

from orchestrator import billing
from orchestrator.clock import SystemClock
from orchestrator.providers.simulated import Conditions, SimulatedProvider
from policies.lifecycle import Status
from tests.orchestrator.driven import daemon, machines, put_up, ready, running, take_down
from tests.orchestrator.scene import booked
from tests.orchestrator.tiny import living, until

#: where it dies while it starts, and where its successor dies while it ends
DEATHS = [
    ("before the commit of record", "before the commit of record"),  # the first transaction
    ("after the commit of record", "after the commit of record"),
    ("before launching", "before terminating"),  # the call
    ("after launching", "after terminating"),
    ("before the commit of launch", "before the commit of terminate"),  # the third transaction
    ("after the commit of launch", "after the commit of drain"),
    ("before the commit of tick", "before draining"),
    ("after publishing", "after publishing"),
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "simulated"])
@pytest.mark.parametrize(("starting", "ending"), DEATHS)
def test_killed_anywhere_it_leaves_one_replica_one_charge_and_in_the_end_nothing(
    home: Path, kind: str, starting: str, ending: str
) -> None:
    ledger = put_up(home, kind)
    with daemon(home, "--die", starting) as first:
        assert first.wait(120) == -signal.SIGKILL
    assert running(home, kind) <= 1
    with daemon(home, "--die", ending, "--down") as second:
        until(lambda: ready(ledger))
        assert running(home, kind) == 1
        (machine,) = machines(ledger, over=True)
        (charge,) = booked(ledger)[machine.id]
        assert (charge.started_at, charge.ended_at) == (machine.launched_at, None)
        take_down(ledger)
        assert second.wait(120) == -signal.SIGKILL
    with daemon(home) as last:
        assert last.wait(120) == 0  # it leaves with its last deployment
    (machine,) = machines(ledger, over=True)
    (charge,) = booked(ledger)[machine.id]
    assert (machine.status, charge.ended_at) == (Status.ENDED, machine.ended_at)
    until(lambda: not living(home))  # a door that let go of its lock may still be on its way out
    assert running(home, kind) == 0
    if kind == "simulated":
        market = SimulatedProvider(SystemClock(), Conditions(offers=()), home / "simulated.json")
        assert market.meter() == {machine.token: billing.accrued(charge, SystemClock().now())}
