"""Machines on AWS, beyond what every provider does: what EC2 refuses, forgets, hides and takes back."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from orchestrator.clock import VirtualClock
from orchestrator.providers import (
    Misconfigured,
    NoCapacity,
    ProviderError,
    QuotaExceeded,
    State,
    Throttled,
    Unreachable,
)
from orchestrator.providers.aws import market
from orchestrator.providers.aws.network import own_address
from orchestrator.providers.aws.provider import AwsProvider
from policies.snapshot import Purchase
from tests.orchestrator import aws_proxy as aws
from tests.orchestrator.aws_proxy import bare, only, token

pytest.importorskip("flask", reason="moto's server needs Flask")

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
CHINA = "cn-northwest-1"
EUROPE = "eu-central-1"


@pytest.fixture(scope="module")
def clock() -> VirtualClock:
    return VirtualClock(NOW)


@pytest.fixture(scope="module")
def account(clock: VirtualClock) -> Iterator[aws.Cloud]:
    """One account for all tests: each is an installation of its own, and sees nothing of the others."""
    with aws.running(clock) as cloud:
        aws.furnish(cloud, aws.REGION, EUROPE, CHINA)
        yield cloud


@pytest.fixture
def cloud(account: aws.Cloud, clock: VirtualClock) -> aws.Cloud:
    clock.jump(NOW)
    account.refusals.clear()
    account.hidden.clear()
    account.quotas.clear()
    account.page = 0
    return account


@pytest.fixture
def rented(cloud: aws.Cloud, home: Path, clock: VirtualClock) -> AwsProvider:
    return aws.provider(home, clock)


REFUSED = [
    ("capacity, as EC2 says it", "InsufficientInstanceCapacity", 500, NoCapacity),
    ("capacity, as a client error", "InsufficientInstanceCapacity", 400, NoCapacity),
    ("spot prices above the cap", "SpotMaxPriceTooLow", 400, NoCapacity),
    ("a zone without the type", "Unsupported", 400, NoCapacity),
    ("vCPUs on demand", "VcpuLimitExceeded", 400, QuotaExceeded),
    ("vCPUs on spot", "MaxSpotInstanceCountExceeded", 400, QuotaExceeded),
    ("too fast", "RequestLimitExceeded", 503, Throttled),
    ("EC2 stumbles", "InternalError", 500, Unreachable),
    ("EC2 is away", "Unavailable", 503, Unreachable),
    ("credentials that are being renewed", "RequestExpired", 400, Unreachable),
    ("no permission", "UnauthorizedOperation", 403, Misconfigured),
    ("an image that is none", "InvalidAMIID.NotFound", 400, Misconfigured),
    ("a word EC2 does not know", "InvalidParameterValue", 400, Misconfigured),
]


@pytest.mark.parametrize(("code", "status", "kind"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_refused_launch_says_what_to_do_next_and_was_asked_for_once(
    cloud: aws.Cloud, rented: AwsProvider, home: Path, code: str, status: int, kind: type[ProviderError]
) -> None:
    cloud.refuse("RunInstances", code, status, times=9)
    before = cloud.calls.count(("ec2", "RunInstances"))
    with pytest.raises(kind, match=code) as refusal:
        rented.launch(aws.request(token(home)))
    assert type(refusal.value) is kind
    assert cloud.calls.count(("ec2", "RunInstances")) == before + 1
    assert rented.instances() == ()


def test_a_look_is_repeated_by_itself_and_then_said(cloud: aws.Cloud, rented: AwsProvider) -> None:
    cloud.refuse("DescribeInstances", "RequestLimitExceeded", 503)
    assert rented.instances() == ()
    cloud.refuse("DescribeInstances", "UnauthorizedOperation", 403, times=9)
    with pytest.raises(Unreachable, match="UnauthorizedOperation"):
        rented.instances()


def test_an_answer_that_is_lost_leaves_one_machine(cloud: aws.Cloud, rented: AwsProvider, home: Path) -> None:
    cloud.refuse("RunInstances", "InternalError", 500, after=True)
    with pytest.raises(Unreachable):
        rented.launch(aws.request(token(home)))
    provider_id = rented.launch(aws.request(token(home)))
    assert only(rented).provider_id == provider_id
    first, second = cloud.sent[-2:]
    assert first == second  # byte for byte


def test_the_same_token_with_other_words_is_the_machine_that_there_is(
    cloud: aws.Cloud, rented: AwsProvider, home: Path
) -> None:
    provider_id = rented.launch(aws.request(token(home)))
    cloud.hidden.add(bare(provider_id))
    with pytest.raises(Unreachable, match="does not list it yet"):
        rented.launch(aws.request(token(home), model="another"))
    cloud.hidden.clear()
    assert rented.launch(aws.request(token(home), model="another")) == provider_id
    assert len(rented.instances()) == 1


def test_a_token_whose_machine_is_over_is_that_machine_and_never_another(
    cloud: aws.Cloud, rented: AwsProvider, home: Path
) -> None:
    """The answer was lost, and before the launch was repeated the machine had ended: it is billed all the same."""
    cloud.refuse("RunInstances", "InternalError", 500, after=True)
    with pytest.raises(Unreachable):
        rented.launch(aws.request(token(home)))
    cloud.shut_down(cloud.of_token(token(home)))
    cloud.refuse("RunInstances", "IdempotentInstanceTerminated", times=2)
    assert bare(rented.launch(aws.request(token(home)))) == cloud.of_token(token(home))
    assert only(rented).state is State.GONE
    cloud.hidden.add(cloud.of_token(token(home)))  # EC2 lists it for an hour or so
    with pytest.raises(NoCapacity, match="over, and no longer listed"):  # another launch, not this one for ever
        rented.launch(aws.request(token(home)))


def test_a_launch_that_is_frozen_is_sent_the_same_by_a_newer_halve(cloud: aws.Cloud, home: Path, clock: Any) -> None:
    frozen = aws.settings(bucket="wheels").frozen(("wheels/old.whl", "00ff"))
    aws.provider(home, clock).launch(aws.request(token(home), aws=frozen))
    newer = aws.provider(home, clock, image="ami-new", lease_seconds=60, disk_gb=7, bucket="other")
    newer.launch(aws.request(token(home), aws=frozen))
    first, second = cloud.sent[-2:]
    assert first == second


def test_what_is_not_listed_yet_is_not_gone(cloud: aws.Cloud, rented: AwsProvider, home: Path, clock: Any) -> None:
    provider_id = rented.launch(aws.request(token(home)))
    cloud.hidden.add(bare(provider_id))
    assert rented.instances() == ()
    cloud.refuse("TerminateInstances", "InvalidInstanceID.NotFound", times=3)
    for _ in range(2):
        with pytest.raises(Unreachable, match="no proof"):
            rented.terminate(provider_id)
    clock.sleep(rented.listing_deadline_seconds + 1)
    rented.terminate(provider_id)  # by now it would be known
    cloud.hidden.clear()
    assert only(rented).launched_at == NOW  # and what was noted meanwhile is no launch
    rented.terminate(provider_id)


def test_every_page_is_read(cloud: aws.Cloud, rented: AwsProvider, home: Path) -> None:
    names = [token(home, f"m{n}") for n in range(5)]
    for name in names:
        rented.launch(aws.request(name))
    cloud.page = 2
    assert sorted(one.token for one in rented.instances()) == sorted(names)


def test_everything_that_a_launch_makes_bears_our_tags(cloud: aws.Cloud, rented: AwsProvider, home: Path) -> None:
    import boto3

    provider_id = rented.launch(aws.request(token(home)))
    ec2 = boto3.client("ec2", region_name=aws.REGION)
    (reservation,) = ec2.describe_instances(InstanceIds=[bare(provider_id)])["Reservations"]
    (machine,) = reservation["Instances"]
    volume = machine["BlockDeviceMappings"][0]["Ebs"]
    (disk,) = ec2.describe_volumes(VolumeIds=[volume["VolumeId"]])["Volumes"]
    wanted = {"halve:token": token(home), "halve:deployment": "ocr", "halve:digest": "first"}
    for tags in (machine["Tags"], disk["Tags"]):
        said = {tag["Key"]: tag["Value"] for tag in tags}
        assert wanted.items() <= said.items()
        assert said["halve:installation"] and said["halve:offer"] == aws.offer().id
    assert (disk["Encrypted"], volume["DeleteOnTermination"]) == (True, True)
    options = machine["MetadataOptions"]
    assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 1)
    assert cloud.instance(bare(provider_id)).instance_initiated_shutdown_behavior == "terminate"
    sent = cloud.sent[-1]
    assert sent["InstanceMarketOptions.SpotOptions.SpotInstanceType"] == "one-time"
    assert not any("MaxPrice" in name for name in sent)
    assert {"instance", "volume", "network-interface", "spot-instances-request"} <= set(sent.values())


def test_a_container_runs_on_awss_own_image(cloud: aws.Cloud, home: Path, clock: Any) -> None:
    rented = aws.provider(home, clock, image="ghcr.io/some/halve:1")
    rented.launch(aws.request(token(home)))
    assert cloud.sent[-1]["ImageId"].startswith("resolve:ssm:")
    assert cloud.sent[-1]["MetadataOptions.HttpPutResponseHopLimit"] == "1"  # a container is two hops away


def test_two_installations_never_see_each_other(cloud: aws.Cloud, home: Path, tmp_path: Path, clock: Any) -> None:
    mine, theirs = aws.provider(home, clock), aws.provider(tmp_path / "other", clock)
    mine.launch(aws.request(token(home)))
    assert theirs.instances() == ()
    assert len(mine.instances()) == 1


def test_a_spot_machine_that_is_taken_back(cloud: aws.Cloud, rented: AwsProvider, home: Path, clock: Any) -> None:
    provider_id = rented.launch(aws.request(token(home)))
    clock.sleep(600)
    cloud.announce(bare(provider_id))
    noticed = only(rented)
    assert (noticed.state, noticed.reclaim_at) == (State.RUNNING, NOW + timedelta(seconds=720))
    clock.sleep(120)
    cloud.take_back(bare(provider_id))
    clock.sleep(40)  # whoever looks when
    ended = only(rented)
    assert (ended.state, ended.preempted, ended.reclaim_at) == (State.GONE, True, None)
    assert (ended.launched_at, ended.ended_at) == (NOW, NOW + timedelta(seconds=720))
    assert "Spot instance termination" in ended.detail


def test_what_shuts_down_is_over(cloud: aws.Cloud, rented: AwsProvider, home: Path, clock: Any) -> None:
    provider_id = rented.launch(aws.request(token(home)))
    rented.terminate(provider_id)
    machine = cloud.instance(bare(provider_id))
    machine._state.name, machine._state.code = "shutting-down", 32
    assert (only(rented).state, only(rented).preempted) == (State.GONE, False)


def test_an_end_that_ec2_does_not_date_is_when_it_was_first_seen(
    cloud: aws.Cloud, rented: AwsProvider, home: Path, clock: Any
) -> None:
    provider_id = rented.launch(aws.request(token(home)))
    clock.sleep(100)
    cloud.shut_down(bare(provider_id))
    seen = only(rented).ended_at
    assert seen == NOW + timedelta(seconds=100)
    clock.sleep(1000)
    assert only(aws.provider(home, clock)).ended_at == seen


def test_a_machine_is_billed_from_its_first_start_and_its_stops_are_known(
    cloud: aws.Cloud, rented: AwsProvider, home: Path, clock: Any
) -> None:
    what = aws.offer(purchase=Purchase.ON_DEMAND)
    provider_id = bare(rented.launch(aws.request(token(home), what)))
    clock.sleep(600)
    cloud.stop(provider_id)
    clock.sleep(60)
    stopped = only(rented)
    off = NOW + timedelta(seconds=600)
    assert (stopped.state, stopped.stopped_at) == (State.STOPPED, off)
    clock.sleep(540)
    cloud.start(provider_id)
    on = NOW + timedelta(seconds=1200)
    again = only(aws.provider(home, clock))
    assert (again.launched_at, again.stops) == (NOW, ((off, on),))
    clock.sleep(60)
    rented.terminate(f"{aws.REGION}/{provider_id}")
    ended = only(rented)  # EC2 has forgotten its disk and its first start by now; we have not
    assert (ended.launched_at, ended.stops, ended.ended_at) == (NOW, ((off, on),), on + timedelta(seconds=60))


def test_a_first_start_is_known_to_who_sees_a_machine_for_the_first_time(
    cloud: aws.Cloud, rented: AwsProvider, home: Path, clock: Any
) -> None:
    provider_id = bare(rented.launch(aws.request(token(home), aws.offer(purchase=Purchase.ON_DEMAND))))
    clock.sleep(600)
    cloud.stop(provider_id)
    clock.sleep(600)
    cloud.start(provider_id)
    one = only(rented)
    assert one.launched_at == NOW  # its disk was attached then
    assert one.stops == ((NOW + timedelta(seconds=1200),) * 2,)  # for how long it stood still, nobody knows


def test_no_memory_no_listing(cloud: aws.Cloud, rented: AwsProvider, home: Path) -> None:
    rented.launch(aws.request(token(home)))
    (home / "aws").write_text("in the way")
    with pytest.raises(Unreachable, match="aws"):
        rented.instances()
    (home / "aws").unlink()
    assert only(rented).launched_at == NOW


def test_offers_know_the_quota(cloud: aws.Cloud, home: Path, clock: Any) -> None:
    cloud.quotas.update({"L-3819A6DF": 0.0, "L-DB2E81BA": 9.0})  # spot, on demand; a machine has 4 vCPUs
    offers = aws.provider(home, clock, subnets=(cloud.subnet("us-east-1a"),)).offers()
    assert {one.purchase: one.capacity for one in offers} == {Purchase.SPOT: 0, Purchase.ON_DEMAND: 2}


def test_types_with_several_gpus_or_none_are_not_offered(cloud: aws.Cloud, home: Path, clock: Any) -> None:
    kinds = ("g4dn.xlarge", "g4dn.12xlarge", "m5.large", "g5g.xlarge")  # one T4, four, none, and one beside an ARM
    offers = aws.provider(home, clock, instance_types=kinds).offers()
    assert {one.instance_type for one in offers} == {"g4dn.xlarge"}
    assert {one.gpu for one in offers} == {"T4"}


class OldCards:
    """EC2 where it still has such types: the simulated one has none with a single card."""

    def get_paginator(self, _: str) -> "OldCards":
        return self

    def paginate(self, **_: object) -> list[dict[str, Any]]:
        rows = []
        for name, gpu in (("p3.2xlarge", "V100"), ("g3s.xlarge", "M60"), (aws.TYPE, "T4")):
            gpus = {"Gpus": [{"Name": gpu, "Manufacturer": "NVIDIA", "Count": 1}]}
            rows.append({"InstanceType": name, "GpuInfo": gpus, "VCpuInfo": {"DefaultVCpus": 4}})
        return [{"InstanceTypes": rows}]


@pytest.mark.parametrize("image", ["auto", "ghcr.io/some/halve:1", "ami-1"])
def test_a_card_that_aws_own_image_has_no_driver_for_needs_an_image_of_ones_own(cloud: aws.Cloud, image: str) -> None:
    found = {one.gpu for one in market.types(OldCards(), aws.settings(image=image), aws.REGION).values()}
    assert found == ({"T4", "V100"} if image == "ami-1" else {"T4"})  # for an M60 neither set has code


def test_spot_prices_are_those_in_force_then_and_every_one_since(cloud: aws.Cloud, home: Path, clock: Any) -> None:
    hour = timedelta(hours=1)
    moves = [(NOW - n * hour, f"0.{20 + n}") for n in range(6, 0, -1)]
    before, cloud.spot_prices = cloud.spot_prices, {("us-east-1a", aws.TYPE): moves}
    rented = aws.provider(home, clock)
    try:
        spot = [one for one in rented.prices(NOW - 2.5 * hour) or () if one.offer_id.endswith("spot")]
        (offer,) = [one for one in rented.offers() if one.purchase is Purchase.SPOT]
    finally:
        cloud.spot_prices = before
    assert [one.price_per_hour_micros for one in spot] == [230_000, 220_000, 210_000]
    assert (offer.price_per_hour_micros, offer.currency) == (210_000, "USD")


@pytest.mark.parametrize("products", [0, 2], ids=["none", "two"])
def test_a_price_that_the_list_does_not_tell_is_unknown_and_hides_nothing(
    cloud: aws.Cloud, home: Path, clock: Any, products: int, caplog: pytest.LogCaptureFixture
) -> None:
    rented = aws.provider(home, clock)
    provider_id = rented.launch(aws.request(token(home)))
    key = (aws.TYPE, aws.REGION)
    before, cloud.products = cloud.products, {**cloud.products, key: cloud.products[key] * products}
    try:
        blind = aws.provider(home, clock)
        on_demand = [one for one in blind.offers() if one.purchase is Purchase.ON_DEMAND]
        assert {(one.price_per_hour_micros, one.currency) for one in on_demand} == {(None, "")}
        assert only(blind).provider_id == provider_id
    finally:
        cloud.products = before
    assert f"{products} products for g4dn.xlarge in us-east-1" in caplog.text


@pytest.mark.parametrize(
    ("other", "usual"),
    [
        ({"marketoption": "CapacityBlock"}, {"marketoption": "OnDemand"}),  # p5.4xlarge: at 0, for who has paid before
        ({"locationType": "AWS Outposts"}, {"locationType": "AWS Region"}),
    ],
    ids=["paid in advance", "elsewhere"],
)
def test_what_is_no_plain_machine_has_no_say_in_its_price(
    cloud: aws.Cloud, home: Path, clock: Any, other: dict[str, str], usual: dict[str, str]
) -> None:
    key = (aws.TYPE, aws.REGION)
    (plain,) = cloud.products[key]
    both = [{**plain, "product": {"attributes": said}} for said in (other, usual)]
    before, cloud.products = cloud.products, {**cloud.products, key: both}
    try:
        offers = aws.provider(home, clock).offers()
    finally:
        cloud.products = before
    assert {one.price_per_hour_micros for one in offers if one.purchase is Purchase.ON_DEMAND} == {526_000}


def test_a_price_of_nothing_is_no_price(
    cloud: aws.Cloud, home: Path, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    key = (aws.TYPE, aws.REGION)
    before, cloud.products = cloud.products, {one: cloud.products[one] for one in cloud.products if one != key}
    cloud.price(*key, "0.0000000000")
    try:
        on_demand = [one for one in aws.provider(home, clock).offers() if one.purchase is Purchase.ON_DEMAND]
        assert {(one.price_per_hour_micros, one.currency) for one in on_demand} == {(None, "")}
    finally:
        cloud.products = before
    assert "no price in USD for g4dn.xlarge in us-east-1" in caplog.text


def test_regions_beside_each_other(cloud: aws.Cloud, home: Path, clock: Any) -> None:
    both = aws.provider(home, clock, regions=(aws.REGION, EUROPE))
    ids = {both.launch(aws.request(token(home, zone), aws.offer(zone))) for zone in ("us-east-1b", "eu-central-1a")}
    assert {one.provider_id.partition("/")[0] for one in both.instances()} == {aws.REGION, EUROPE}
    for provider_id in ids:
        both.terminate(provider_id)
    assert {one.state for one in both.instances()} == {State.GONE}
    with pytest.raises(Misconfigured, match="none of the spec's regions"):
        both.launch(aws.request(token(home), aws.offer("ap-south-1a")))


def test_china_is_a_partition_of_its_own_and_bills_in_cny(cloud: aws.Cloud, home: Path, clock: Any) -> None:
    rented = aws.provider(home, clock, regions=(CHINA,))
    offers = rented.offers()
    assert {one.currency for one in offers} == {"CNY"}
    provider_id = rented.launch(aws.request(token(home), aws.offer(f"{CHINA}a")))
    assert only(rented).provider_id == provider_id


def test_the_group_is_open_to_this_controller_and_follows_its_address(
    cloud: aws.Cloud, home: Path, tmp_path: Path, clock: Any
) -> None:
    import boto3

    ec2 = boto3.client("ec2", region_name=aws.REGION)

    def rules() -> set[tuple[int, str]]:
        (group,) = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["halve-replica"]}])[
            "SecurityGroups"
        ]
        return {(rule["FromPort"], one["CidrIp"]) for rule in group["IpPermissions"] for one in rule["IpRanges"]}

    others = rules() - {(7860, "198.51.100.1/32"), (7861, "198.51.100.1/32")}
    aws.provider(home, clock, address="198.51.100.1").launch(aws.request(token(home)))
    assert rules() - others == {(7860, "198.51.100.1/32"), (7861, "198.51.100.1/32")}
    aws.provider(home, clock, address="198.51.100.2").instances()  # a new address after a restart
    assert rules() - others == {(7860, "198.51.100.2/32"), (7861, "198.51.100.2/32")}
    aws.provider(tmp_path / "other", clock, address="198.51.100.9").launch(aws.request(token(home, "b")))
    assert {(7860, "198.51.100.2/32"), (7860, "198.51.100.9/32")} <= rules()  # each minds its own


@pytest.mark.parametrize(
    ("body", "seen"),
    [("203.0.113.9\n", "203.0.113.9"), ("2001:db8::1\n", None), ("<html>log in</html>", None), ("0.0.0.0/0", None)],
    ids=["an address", "of the wrong kind", "a portal", "everybody"],
)
def test_our_own_address_is_one_address(
    body: str, seen: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ip").write_text(body)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # machines are not spoken to through it either
    with served(tmp_path) as url:
        if seen is not None:
            assert own_address("auto", f"{url}/ip") == seen
        else:
            with pytest.raises(Unreachable, match=r"set aws\.address"):
                own_address("auto", f"{url}/ip")


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The files of a folder, over HTTP."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_an_offer_of_a_subnet_that_is_gone(cloud: aws.Cloud, home: Path, clock: Any) -> None:
    rented = aws.provider(home, clock, subnets=(cloud.subnet("us-east-1a"),))
    with pytest.raises(Misconfigured, match="no longer on offer"):
        rented.launch(aws.request(token(home), aws.offer("us-east-1b")))


def test_the_bill_knows_the_disk_the_address_and_the_free_first_hour(
    cloud: aws.Cloud, rented: AwsProvider, home: Path, clock: Any
) -> None:
    rented.offers()
    assert (rented.terms.minimum_seconds, rented.terms.first_hour_free) == (60, True)
    disk = 80_000 * 100 // 730  # 0.08 USD per GB and month of 730 hours
    assert rented.terms.disk_per_hour_micros == disk + 5_000  # and 0.005 USD an hour for its address
    china = aws.provider(home, clock, regions=(CHINA,))
    china.offers()
    assert china.terms.disk_per_hour_micros == disk  # in CNY nobody has told what an address costs


def test_a_tag_that_aws_would_cut_is_refused(cloud: aws.Cloud, rented: AwsProvider, home: Path) -> None:
    what = aws.request(token(home))
    with pytest.raises(Misconfigured, match="at most 256"):
        rented.launch(replace(what, payload={**what.payload, "deployment": "x" * 300}))
