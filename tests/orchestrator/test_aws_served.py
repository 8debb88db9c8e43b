"""Requests over real HTTP, through the real door and over TLS, while EC2 takes machines back."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.errors import Refused
from orchestrator.ledger.fleet import Machine
from policies.lifecycle import Status
from policies.snapshot import Purchase
from tests.orchestrator.aws_service import Service, Visitors, begun
from tests.orchestrator.tiny import until

pytest.importorskip("flask", reason="moto's server needs Flask")


@pytest.fixture
def service(home: Path, tmp_path: Path) -> Iterator[Service]:
    with begun(home, tmp_path, replicas=2) as one:
        yield one


def spot(machines: list[Machine]) -> Machine:
    return next(one for one in machines if one.purchase is Purchase.SPOT)


def is_idle(service: Service, machine: Machine) -> bool:
    """The door answers, and has nothing under way there."""
    door = service.world.door
    with suppress(Refused):
        return door.load(datetime.now(UTC)) is not None and door.in_flight(machine.id) == 0
    return False


@pytest.mark.slow
def test_a_notice_costs_no_request(service: Service) -> None:
    """The machine says so itself; it is out of the door, and replaced, with the next tick."""
    machine = spot(service.serving(2))
    with Visitors(service.url) as visitors:
        until(lambda: visitors.said["200"] > 50)
        leaves_at = datetime.now(UTC) + timedelta(seconds=120)
        standing = service.park.standing[machine.token]
        notice = {"action": "terminate", "time": f"{leaves_at:%Y-%m-%dT%H:%M:%SZ}"}
        standing.metadata.documents["spot/instance-action"] = notice
        asked = standing.metadata.asked
        until(lambda: standing.metadata.asked > asked + 3)  # its watchdog has heard
        before = len(service.cloud.sent)

        def noticed() -> bool:
            (one,) = [one for one in service.tick() if one.id == machine.id]
            return one.reclaim_at is not None

        until(noticed)
        assert machine.id not in service.inside()
        assert len(service.cloud.sent) > before  # on demand too where the policy bridges the gap
        until(lambda: is_idle(service, machine))
        service.park.take_back(machine.token)
        service.serving(2)
        enough = visitors.said["200"] + 50
        until(lambda: visitors.said["200"] > enough)
    assert set(visitors.said) == {"200"}, visitors.said
    assert service.over(machine).status is Status.PREEMPTED  # EC2 ended it, not we, and bills nothing


@pytest.mark.slow
def test_a_recommendation_costs_no_request(service: Service) -> None:
    """The machine says so itself; it serves until its replacement, in another zone, does."""
    service.serving(2)
    service.clock.ahead = timedelta(minutes=61)  # past the hour in which none is replaced for that
    for _ in range(5):
        machines = service.serving(2)
    first = [one for one in machines if one.purchase is Purchase.SPOT]
    noticed_at = f"{service.clock.now():%Y-%m-%dT%H:%M:%SZ}"
    with Visitors(service.url) as visitors:
        until(lambda: visitors.said["200"] > 50)
        before = len(service.cloud.sent)
        for one in first:
            metadata = service.park.standing[one.token].metadata
            metadata.documents["events/recommendations/rebalance"] = {"noticeTime": noticed_at}

        def replaced() -> bool:
            there, inside = service.tick(), service.inside()
            serve = [one for one in there if one.status is Status.READY and (one.id in inside or one.silent_since)]
            assert len(serve) >= 2  # one that is slow to answer for a moment is left out for that moment
            return all(service.over(one).status is Status.ENDED for one in first)

        until(replaced, 120)
        new = [one for one in service.serving(2) if one.id not in {old.id for old in machines}]
        enough = visitors.said["200"] + 50
        until(lambda: visitors.said["200"] > enough)
    assert set(visitors.said) == {"200"}, visitors.said
    assert len(new) == len(first) == len(service.cloud.sent) - before
    assert not {one.zone for one in new} & {one.zone for one in first}
    assert {service.over(one).reason for one in first} == {
        "the provider recommends to leave it, its replacement serves"
    }


@pytest.mark.slow
def test_without_notice_the_door_asks_another(service: Service) -> None:
    machine = spot(service.serving(2))
    with Visitors(service.url) as visitors:
        until(lambda: visitors.said["200"] > 50)
        service.park.take_back(machine.token)
        service.tick()
        assert machine.id not in service.inside()
        service.serving(2)
        enough = visitors.said["200"] + 50
        until(lambda: visitors.said["200"] > enough)
    assert set(visitors.said) == {"200"}, visitors.said
    assert service.over(machine).status is Status.PREEMPTED
