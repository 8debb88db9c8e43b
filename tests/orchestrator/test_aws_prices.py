"""EC2's prices, against botocore's own stubs: they check each request and answer by the service's model."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from orchestrator.providers import Misconfigured, Throttled
from orchestrator.providers.aws_prices import LINUX, PLAIN, on_demand, price_list_region, spot
from policies.snapshot import Purchase
from tests.orchestrator.report_ledger import utc

NOW = utc("2026-11-01 12:00")


def client(service: str, region: str = "us-east-1") -> Any:
    return boto3.client(service, region_name=region, aws_access_key_id="x", aws_secret_access_key="x")


def product(*prices: str, currency: str = "USD") -> str:
    dimensions = {f"d{n}": {"unit": "Hrs", "pricePerUnit": {currency: price}} for n, price in enumerate(prices)}
    return json.dumps({"product": {"sku": "S"}, "terms": {"OnDemand": {"S.T": {"priceDimensions": dimensions}}}})


@pytest.fixture
def pricing() -> Iterator[tuple[Any, Stubber]]:
    made = client("pricing")
    with Stubber(made) as stubber:
        yield made, stubber


def answers(stubber: Stubber, *pages: list[str], instance_type: str = "g4dn.xlarge") -> None:
    wanted = {**PLAIN, "instanceType": instance_type, "regionCode": "us-east-1"}
    request: dict[str, Any] = {
        "ServiceCode": "AmazonEC2",
        "Filters": [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()],
    }
    for number, page in enumerate(pages):
        more = {"NextToken": f"t{number + 1}"} if number + 1 < len(pages) else {}
        before = {"NextToken": f"t{number}"} if number else {}
        stubber.add_response("get_products", {"FormatVersion": "aws_v1", "PriceList": page, **more}, request | before)


def test_exactly_one_product_is_the_price(pricing: tuple[Any, Stubber]) -> None:
    made, stubber = pricing
    answers(stubber, [], [product("0.5260000000")])  # a page may be empty and not the last
    found = on_demand(made, "us-east-1", "g4dn.xlarge", NOW)
    assert (found.price_per_hour_micros, found.currency, found.zone_id) == (526_000, "USD", "")
    assert found.purchase is Purchase.ON_DEMAND and found.effective_at == NOW
    stubber.assert_no_pending_responses()


@pytest.mark.parametrize(
    ("pages", "words"),
    [
        ([[]], "no products for g4dn.xlarge in us-east-1"),
        ([[product("0.5"), product("0.6")]], "2 products for g4dn.xlarge"),
        ([[product("0.5")], [product("0.6")]], "2 products for g4dn.xlarge"),
        ([[product("0.0000000000")]], "costs 0.0000000000; what costs nothing is not believed"),
        ([[product("0.0000000001")]], "what costs nothing is not believed"),
        ([[product()]], "no prices"),
        ([[product("0.5", "0.6")]], "2 prices"),
        ([[json.dumps({"product": {}, "terms": {}})]], "no prices"),
    ],
)
def test_a_price_that_is_not_certain_is_none(pricing: tuple[Any, Stubber], pages: list[list[str]], words: str) -> None:
    made, stubber = pricing
    answers(stubber, *pages)
    with pytest.raises(Misconfigured, match=words.replace(".", r"\.")):
        on_demand(made, "us-east-1", "g4dn.xlarge", NOW)


def test_what_amazon_refuses_is_an_error_the_loop_knows(pricing: tuple[Any, Stubber]) -> None:
    made, stubber = pricing
    stubber.add_client_error("get_products", "ThrottlingException", "slow down")
    with pytest.raises(Throttled, match="slow down"):
        on_demand(made, "us-east-1", "g4dn.xlarge", NOW)
    stubber.add_client_error("get_products", "AccessDeniedException", "not yours")
    with pytest.raises(Misconfigured, match="not yours"):
        on_demand(made, "us-east-1", "g4dn.xlarge", NOW)


@pytest.mark.parametrize(
    ("region", "endpoint"),
    [
        ("us-west-2", "us-east-1"),
        ("sa-east-1", "us-east-1"),
        ("eu-west-1", "eu-central-1"),
        ("ap-southeast-1", "ap-south-1"),
        ("cn-north-1", "cn-northwest-1"),
    ],
)
def test_where_the_price_list_answers(region: str, endpoint: str) -> None:
    assert price_list_region(region) == endpoint
    assert endpoint in boto3.session.Session().get_available_regions("pricing", "aws-cn" if "cn-" in region else "aws")


def change(price: str, at: str, zone: str = "use1-az1") -> dict[str, Any]:
    return {
        "AvailabilityZone": "us-east-1a", "AvailabilityZoneId": zone, "InstanceType": "g4dn.xlarge",
        "ProductDescription": LINUX, "SpotPrice": price, "Timestamp": utc(at),
    }  # fmt: skip


def test_the_spot_history_page_by_page_oldest_first() -> None:
    made = client("ec2")
    since = NOW - timedelta(hours=1)
    request = {
        "InstanceTypes": ["g4dn.xlarge"],
        "ProductDescriptions": [LINUX],
        "StartTime": since,
        "EndTime": NOW,
    }
    pages = [
        [change("0.1711", "2026-11-01 11:30"), change("0.1599", "2026-11-01 11:10", "use1-az2")],
        [change("0.1650", "2026-10-30 04:00")],  # in force before `since`
    ]
    with Stubber(made) as stubber:
        stubber.add_response(
            "describe_spot_price_history", {"SpotPriceHistory": pages[0], "NextToken": "more"}, request
        )
        stubber.add_response(
            "describe_spot_price_history",
            {"SpotPriceHistory": pages[1], "NextToken": ""},
            request | {"NextToken": "more"},
        )
        found = spot(made, ["g4dn.xlarge"], since, NOW, "USD")
    assert [(one.zone_id, one.price_per_hour_micros) for one in found] == [
        ("use1-az1", 165_000), ("use1-az2", 159_900), ("use1-az1", 171_100),
    ]  # fmt: skip
    assert found[0].effective_at == utc("2026-10-30 04:00") and found[0].purchase is Purchase.SPOT


def test_a_spot_price_of_nothing_is_not_believed() -> None:
    made = client("ec2")
    with Stubber(made) as stubber:
        answer = {"SpotPriceHistory": [change("0.0000000", "2026-11-01 11:30")]}
        stubber.add_response("describe_spot_price_history", answer)
        with pytest.raises(Misconfigured, match="on spot in use1-az1"):
            spot(made, ["g4dn.xlarge"], NOW, NOW, "USD")
