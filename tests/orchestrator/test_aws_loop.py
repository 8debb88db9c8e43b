"""The loop itself over machines on AWS: launched, noticed, replaced, settled."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.clock import VirtualClock
from orchestrator.ledger import charges, fleet
from orchestrator.providers.aws.notices import REBALANCE, WARNING
from orchestrator.spec import parse
from orchestrator.status import iso, status
from policies.lifecycle import Status
from policies.snapshot import Purchase
from tests.orchestrator import aws_proxy as aws
from tests.orchestrator.aws_day import Day, begun, ready, spot
from tests.orchestrator.aws_proxy import bare
from tests.orchestrator.scene import always

pytest.importorskip("flask", reason="moto's server needs Flask")

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture
def day(home: Path) -> Iterator[Day]:
    with begun(home, NOW) as one:
        yield one


def test_a_notice_takes_a_machine_out_of_the_door_and_replaces_it_in_one_tick(day: Day) -> None:
    machine = spot(day)
    assert machine.id in day.door.inside
    before = len(day.cloud.sent)
    day.cloud.announce(bare(machine.provider_id))
    after = day.tick(1)
    assert machine.id not in day.door.inside
    assert len(day.cloud.sent) > before or any(one.status is Status.READY for one in after if one.id != machine.id)
    assert machine.url in day.engines.drained
    assert day.cloud.calls.count(("ec2", "TerminateInstances")) == 0  # in its first hour EC2 ends it, and bills nothing
    day.clock.sleep(119)
    day.cloud.take_back(bare(machine.provider_id))
    day.tick(1)
    ended = day.machine(machine.id)
    assert ended.status is Status.PREEMPTED
    assert day.cost_micros(ended, charges.COMPUTE) == 0  # the free first hour
    assert (day.cost_micros(ended, charges.DISK) or 0) > 0  # its disk is nobody's gift
    assert all(one.status is Status.READY for one in ready(day))


def test_a_machine_that_ec2_announces_and_does_not_end_is_ended_by_us_five_minutes_later(day: Day) -> None:
    machine = spot(day)
    day.cloud.announce(bare(machine.provider_id))
    day.tick(1)
    leaves_at = day.machine(machine.id).reclaim_at
    assert leaves_at is not None
    while day.clock.now() < leaves_at + timedelta(seconds=285):
        day.tick(10)
    assert ("ec2", "TerminateInstances") not in day.cloud.calls
    day.tick(20)
    assert day.cloud.calls.count(("ec2", "TerminateInstances")) == 1
    assert bare(machine.provider_id) not in {one.id for one in day.cloud.alive()}


def test_a_recommendation_replaces_a_machine_before_it_leaves(day: Day, home: Path) -> None:
    day.provider = aws.provider(home, day.clock, queue=recommendations())
    first = spot(day)
    day.clock.sleep(3700)  # past its first hour
    (machine,) = ready(day)
    assert machine.id == first.id
    before = len(day.cloud.sent)
    day.cloud.warn(bare(machine.provider_id), kind=REBALANCE)
    old, new = day.tick(1)
    assert (old.id, old.rebalance_at, old.reclaim_at) == (machine.id, day.clock.now() - SECOND, None)
    assert (new.purchase, new.offer_id) == (Purchase.SPOT, "aws/us-east-1b/g4dn.xlarge/spot")
    assert machine.id in day.door.inside  # it serves until another one does
    (deployment,) = status(home, day.ledger, day.clock.now())["deployments"]
    assert [one["rebalance_at"] for one in deployment["instances"]] == [iso(old.rebalance_at), None]
    until_it_left = [sorted(day.door.inside) for _ in range(4) if day.tick(30)]
    assert until_it_left[-1] == [new.id]
    assert all(until_it_left)
    ended = day.machine(machine.id)
    assert (ended.status, ended.reason) == (
        Status.ENDED,
        "the provider recommends to leave it, its replacement serves",
    )
    for _ in range(20):
        assert [one.id for one in day.tick(300)] == [new.id]
    assert len(day.cloud.sent) == before + 1  # of one recommendation comes one launch


def test_a_recommendation_that_no_other_pool_can_follow_changes_nothing(day: Day, home: Path) -> None:
    day.provider = aws.provider(home, day.clock, queue=recommendations())
    machine = spot(day)
    day.clock.sleep(3700)
    ready(day)
    zone = machine.zone
    day.cloud.dry |= {"us-east-1a", "us-east-1b"} - {zone}
    day.cloud.warn(bare(machine.provider_id), kind=REBALANCE)
    for _ in range(60):
        day.tick(60)
        assert machine.id in day.door.inside
    assert [one.id for one in day.cloud.alive()] == [bare(machine.provider_id)]


def recommendations() -> str:
    """The address of a queue behind a rule like the template's."""
    import boto3

    sqs, events = boto3.client("sqs"), boto3.client("events")
    url = str(sqs.create_queue(QueueName="notices")["QueueUrl"])
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_rule(Name="all", EventPattern=json.dumps({"source": ["aws.ec2"], "detail-type": [WARNING, REBALANCE]}))
    events.put_targets(Rule="all", Targets=[{"Id": "notices", "Arn": arn}])
    return url


def test_a_lack_of_capacity_is_met_in_another_pool(day: Day) -> None:
    day.cloud.refuse("RunInstances", "InsufficientInstanceCapacity", 500, times=1)
    machines = ready(day)
    with day.ledger.read() as tx:
        failed = [one for one in fleet.machines(tx, "ocr", over=True) if one.status is Status.FAILED]
    assert "NoCapacity: InsufficientInstanceCapacity" in str(failed[0].reason)
    assert failed[0].offer_id not in {one.offer_id for one in machines}
    assert len(day.cloud.alive()) == len(machines)  # what was refused left nothing


def test_closed_leaves_nothing_and_the_ledger_is_what_the_machines_cost(day: Day) -> None:
    machine = ready(day)[0]
    day.schedule = always(0, 0)
    for _ in range(40):
        if not day.tick(30):
            break
    assert day.cloud.alive() == []
    ended = day.machine(machine.id)
    assert ended.status is Status.ENDED
    assert ended.launched_at is not None and ended.ended_at is not None
    seconds = (ended.ended_at - ended.launched_at) // timedelta(seconds=1)
    price = 157_800 if machine.purchase is Purchase.SPOT else 526_000
    assert day.cost_micros(ended, charges.COMPUTE) == price * seconds // 3600


def test_a_start_is_measured_from_the_launch_and_the_p95_opens_in_time(day: Day) -> None:
    day.engines.slow = True
    day.tick()
    for _ in range(9):
        day.tick(30)
    day.engines.slow = False
    machine = ready(day)[0]
    assert machine.launched_at is not None and machine.ready_at is not None
    measured = (machine.ready_at - machine.launched_at).total_seconds()
    with day.ledger.read() as tx:
        assert fleet.start_seconds(tx, "ocr") == measured >= 270
    section = '{"region": "us-east-1", "instance_types": ["g4dn.xlarge"], "image": "ami-1"}'
    hours = '{"timezone": "UTC", "windows": ["Mon-Fri 08:00-20:00"], "prewarm": "auto"}'
    wanted = parse(f'{{"name": "ocr", "model": "ppocr", "provider": "aws", "aws": {section}, "schedule": {hours}}}')
    schedule = wanted.schedule_for(NOW, None, measured)
    assert measured <= schedule.prewarm_seconds <= measured + 120  # it is ready when the day begins


class Restless(VirtualClock):
    """It is another second whenever anybody looks."""

    def now(self) -> datetime:
        self.sleep(1)
        return super().now()


@pytest.mark.parametrize("end", ["taken back", "ended by us"])
def test_a_life_is_as_long_for_us_as_on_ec2s_bill(home: Path, end: str) -> None:
    clock = Restless(NOW)
    with aws.running(clock) as cloud:
        aws.furnish(cloud)
        rented = aws.provider(home, clock)
        provider_id = rented.launch(aws.request(aws.token(home)))
        aws.only(rented)
        if end == "taken back":
            cloud.take_back(bare(provider_id))
        else:
            rented.terminate(provider_id)
        life, seen = cloud.lives[bare(provider_id)], aws.only(rented)
        assert (seen.launched_at, seen.ended_at) == (life.launched_at, life.ended_at)
