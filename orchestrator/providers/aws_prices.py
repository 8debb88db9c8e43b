"""What EC2 costs: on demand by the Price List API, on spot by its price history. Reads only; clients are arguments.

Sources: the Price List Query API (GetProducts) and EC2's DescribeSpotPriceHistory, whose StartTime = EndTime = now
yields the price in force. Published figures of one type differ by up to 79 %, so nothing is written down here.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from orchestrator.providers import Misconfigured, Throttled, Unreachable
from policies.snapshot import Purchase

LINUX = "Linux/UNIX"
#: of a plain Linux machine, its image without licences, paid by the hour, and none that was reserved
PLAIN = {
    "operatingSystem": "Linux",
    "preInstalledSw": "NA",
    "tenancy": "Shared",
    "capacitystatus": "Used",
    "licenseModel": "No License required",
}
THROTTLED = {"RequestLimitExceeded", "Throttling", "ThrottlingException", "TooManyRequestsException"}
#: where the Price List API answers, by the beginning of a region's name
ENDPOINTS = (("cn-", "cn-northwest-1"), ("eu-", "eu-central-1"), ("ap-", "ap-south-1"), ("", "us-east-1"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ec2Price:
    """What an hour of an instance type costs from a moment on. `zone_id` is "" on demand: all zones cost the same."""

    instance_type: str
    zone_id: str
    purchase: Purchase
    price_per_hour_micros: int
    currency: str
    effective_at: datetime


def price_list_region(region: str) -> str:
    """The region whose Price List endpoint serves this one; China has its own."""
    return next(endpoint for start, endpoint in ENDPOINTS if region.startswith(start))


def on_demand(pricing: Any, region: str, instance_type: str, now: datetime) -> Ec2Price:
    """The on-demand price of a Linux machine in a region, in the currency it is billed in (USD, in China CNY).

    `pricing` is boto3's client of that name. Raises Misconfigured when there is not exactly one such product, or when
    it costs nothing: a price that is not certain is none. Raises Throttled or Unreachable.
    """
    wanted = {**PLAIN, "instanceType": instance_type, "regionCode": region}
    filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
    products: list[Mapping[str, Any]] = []
    with _told():
        pages = pricing.get_paginator("get_products").paginate(ServiceCode="AmazonEC2", Filters=filters)
        for page in pages:
            products += [json.loads(item) for item in page["PriceList"]]
    where = f"{instance_type} in {region}"
    if len(products) != 1:
        raise Misconfigured(f"the price list has {len(products) or 'no'} products for {where}, not exactly one")
    found = [
        (currency, amount)
        for term in products[0].get("terms", {}).get("OnDemand", {}).values()
        for dimension in term["priceDimensions"].values()
        for currency, amount in dimension["pricePerUnit"].items()
    ]
    if len(found) != 1:
        raise Misconfigured(f"the price list has {len(found) or 'no'} prices for {where}, not exactly one")
    ((currency, amount),) = found
    return Ec2Price(
        instance_type=instance_type,
        zone_id="",
        purchase=Purchase.ON_DEMAND,
        price_per_hour_micros=_micros(amount, where),
        currency=currency,
        effective_at=now,
    )


def spot(
    ec2: Any, instance_types: Sequence[str], since: datetime, now: datetime, currency: str
) -> tuple[Ec2Price, ...]:
    """Every spot price in force since `since`, by zone id, oldest first; that of `since` itself included.

    `ec2` is boto3's client of a region, `currency` what its account is billed in, for the history does not say. EC2
    keeps 90 days. Raises Misconfigured for a price of nothing, Throttled or Unreachable.
    """
    found = []
    with _told():
        pages = ec2.get_paginator("describe_spot_price_history").paginate(
            InstanceTypes=list(instance_types), ProductDescriptions=[LINUX], StartTime=since, EndTime=now
        )
        for page in pages:
            for one in page["SpotPriceHistory"]:
                # zone names are each account's own; ids mean the same for everybody
                zone = one.get("AvailabilityZoneId") or one["AvailabilityZone"]
                price = Ec2Price(
                    instance_type=one["InstanceType"],
                    zone_id=zone,
                    purchase=Purchase.SPOT,
                    price_per_hour_micros=_micros(one["SpotPrice"], f"{one['InstanceType']} on spot in {zone}"),
                    currency=currency,
                    # the last change before `since` is told too: with its own date, or the history would be untrue
                    effective_at=one["Timestamp"].astimezone(UTC),
                )
                found.append(price)
    return tuple(sorted(found, key=lambda one: (one.effective_at, one.instance_type, one.zone_id)))


def _micros(amount: str, where: str) -> int:
    micros = round(Decimal(amount) * 1_000_000)
    if micros <= 0:
        raise Misconfigured(f"the price list says that {where} costs {amount}; what costs nothing is not believed")
    return micros


@contextmanager
def _told() -> Iterator[None]:
    """botocore's errors as those that the loop learns from."""
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        words = f"{code}: {error.response.get('Error', {}).get('Message', '')}"
        raise (Throttled if code in THROTTLED else Misconfigured)(words) from None
    except BotoCoreError as error:
        raise Unreachable(str(error)) from None
