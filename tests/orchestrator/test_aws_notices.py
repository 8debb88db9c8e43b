"""Notices that come by EventBridge and SQS, as moto delivers them."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.clock import VirtualClock
from orchestrator.providers import Unreachable, recommended
from orchestrator.providers.aws.notices import REBALANCE, WARNING, told
from orchestrator.providers.aws.provider import AwsProvider
from policies.disruption import RECOMMENDED_FOR
from tests.orchestrator import aws_proxy as aws
from tests.orchestrator.aws_proxy import bare, only, token
from tests.orchestrator.tiny import until

pytest.importorskip("flask", reason="moto's server needs Flask")

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOTICE = timedelta(seconds=120)


@pytest.fixture(scope="module")
def clock() -> VirtualClock:
    return VirtualClock(NOW)


@pytest.fixture(scope="module")
def cloud(clock: VirtualClock) -> Iterator[aws.Cloud]:
    with aws.running(clock) as one:
        aws.furnish(one)
        yield one


@pytest.fixture
def queue(cloud: aws.Cloud, clock: VirtualClock) -> Iterator[str]:
    """One behind a rule like the template's."""
    import boto3

    clock.jump(NOW)
    cloud.refusals.clear()
    sqs, events = boto3.client("sqs"), boto3.client("events")
    url = sqs.create_queue(QueueName="notices")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_rule(Name="all", EventPattern=json.dumps({"source": ["aws.ec2"], "detail-type": [WARNING, REBALANCE]}))
    events.put_targets(Rule="all", Targets=[{"Id": "notices", "Arn": arn}])
    yield url
    sqs.delete_queue(QueueUrl=url)


@pytest.fixture
def rented(queue: str, home: Path, clock: VirtualClock) -> AwsProvider:
    return aws.provider(home, clock, queue=queue)


def machine(provider: AwsProvider, home: Path) -> str:
    """A new one's id, which is listed by now."""
    provider.launch(aws.request(token(home)))
    return bare(only(provider).provider_id)


def left(queue: str) -> int:
    import boto3

    said = boto3.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["ApproximateNumberOfMessages"])
    return int(said["Attributes"]["ApproximateNumberOfMessages"])


def put(queue: str, *bodies: object) -> None:
    import boto3

    for body in bodies:
        boto3.client("sqs").send_message(
            QueueUrl=queue, MessageBody=body if isinstance(body, str) else json.dumps(body)
        )


def warning(instance_id: str, at: datetime = NOW, **changes: Any) -> dict[str, Any]:
    plain = {"source": "aws.ec2", "detail-type": WARNING, "time": f"{at:%Y-%m-%dT%H:%M:%SZ}"}
    return {**plain, "detail": {"instance-id": instance_id, "instance-action": "terminate"}, **changes}


def test_a_notice_of_the_queue_is_one_and_is_deleted_when_it_is_kept(
    cloud: aws.Cloud, rented: AwsProvider, queue: str, home: Path, clock: VirtualClock
) -> None:
    cloud.warn(machine(rented, home))
    assert left(queue) == 1
    assert only(rented).reclaim_at == NOW + NOTICE
    assert left(queue) == 0
    assert only(rented).reclaim_at == NOW + NOTICE  # it is never taken back
    assert only(aws.provider(home, clock)).reclaim_at == NOW + NOTICE  # and is known to whoever comes after


def test_what_is_said_twice_is_heard_once_and_the_earliest_moment_counts(
    cloud: aws.Cloud, rented: AwsProvider, queue: str, home: Path, clock: VirtualClock
) -> None:
    instance_id = machine(rented, home)
    late, early = NOW + timedelta(seconds=30), NOW - timedelta(seconds=30)
    put(queue, warning(instance_id, late), warning(instance_id, early), warning(instance_id, late))
    assert only(rented).reclaim_at == early + NOTICE
    put(queue, warning(instance_id, late))
    assert only(rented).reclaim_at == early + NOTICE
    assert left(queue) == 0
    clock.jump(NOW - timedelta(seconds=60))
    cloud.announce(instance_id)  # the spot request said so earlier
    assert only(rented).reclaim_at == NOW + timedelta(seconds=60)


def test_what_is_not_ours_stays_for_whose_it_is(rented: AwsProvider, queue: str, home: Path) -> None:
    instance_id = machine(rented, home)
    theirs = [warning(f"i-{number:017x}") for number in range(25)]
    nonsense = ["", "hello", "[]", {"source": "aws.ec2"}, warning(instance_id, source="somebody.else")]
    put(queue, *theirs, *(one or "{}" for one in nonsense))
    assert only(rented).reclaim_at is None
    put(queue, warning(instance_id))
    assert until(lambda: only(rented).reclaim_at) == NOW + NOTICE
    until(lambda: left(queue) == 30, why="what was looked at never came back")


def test_a_recommendation_is_no_notice_and_is_kept_as_well(
    cloud: aws.Cloud, rented: AwsProvider, queue: str, home: Path, clock: VirtualClock
) -> None:
    cloud.warn(machine(rented, home), kind=REBALANCE)
    assert (only(rented).reclaim_at, only(rented).rebalance_at) == (None, NOW)
    assert left(queue) == 0
    clock.jump(NOW + NOTICE)
    cloud.warn(bare(only(rented).provider_id), kind=REBALANCE)
    assert only(rented).rebalance_at == NOW  # since then, however often it is said
    assert only(aws.provider(home, clock)).rebalance_at == NOW
    cloud.warn(bare(only(rented).provider_id))
    assert (only(rented).reclaim_at, only(rented).rebalance_at) == (NOW + 2 * NOTICE, NOW)
    clock.jump(NOW + RECOMMENDED_FOR)
    cloud.warn(bare(only(rented).provider_id), kind=REBALANCE)
    assert only(rented).rebalance_at == NOW + RECOMMENDED_FOR  # the first word is old by now: it is another one
    assert only(aws.provider(home, clock)).rebalance_at == NOW + RECOMMENDED_FOR


def test_a_word_that_several_bring_is_one_word() -> None:
    second = timedelta(seconds=1)
    assert recommended(None, None) is None
    assert recommended(NOW + 9 * second, None, NOW) == NOW
    again = NOW + RECOMMENDED_FOR
    assert recommended(NOW, again - second) == NOW
    assert recommended(again + second, NOW + second, again + 2 * second, NOW) == again + second


def test_what_was_kept_but_not_deleted_is_harmless(
    cloud: aws.Cloud, rented: AwsProvider, queue: str, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cloud.warn(machine(rented, home))
    cloud.refuse("DeleteMessage", "AccessDeniedException")
    assert only(rented).reclaim_at == NOW + NOTICE
    assert "halve aws check" in caplog.text
    until(lambda: left(queue) == 1)
    assert only(rented).reclaim_at == NOW + NOTICE
    assert left(queue) == 0


def test_what_cannot_be_kept_is_not_deleted(cloud: aws.Cloud, rented: AwsProvider, queue: str, home: Path) -> None:
    instance_id = machine(rented, home)
    (home / "aws").rename(home / "elsewhere")
    (home / "aws").write_text("in the way")
    cloud.warn(instance_id)
    with pytest.raises(Unreachable):
        rented.instances()
    until(lambda: left(queue) == 1)
    (home / "aws").unlink()
    assert only(rented).reclaim_at == NOW + NOTICE


def test_a_queue_that_does_not_answer_hides_no_machine(
    cloud: aws.Cloud, home: Path, clock: VirtualClock, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    rented = aws.provider(home, clock, queue=f"{queue}-of-nobody")
    machine(rented, home)
    for _ in range(3):
        assert only(rented).reclaim_at is None
    assert caplog.text.count("of-nobody") and caplog.text.count("halve aws check") == 1


@pytest.mark.parametrize("body", ["", "null", "3", "{}", '{"source": "aws.ec2", "detail-type": []}', '{"detail": 1}'])
def test_what_is_no_notice_is_about_nobody(body: str) -> None:
    assert told(body) == ("", None, None)
