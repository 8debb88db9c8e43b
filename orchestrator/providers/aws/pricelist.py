"""The published on-demand price of a machine type, from the AWS Price List API.

https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-price-list-query-api.html
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from orchestrator.providers import Unreachable
from orchestrator.providers.aws import clients
from orchestrator.providers.aws.settings import currency_of

#: the API is served from few regions; a partition's own answers for all of it
SERVED_FROM = {"cn-": "cn-northwest-1", "eu-": "eu-central-1", "ap-": "ap-south-1"}
ELSEWHERE = "us-east-1"
#: the plain machine: Linux, nothing preinstalled, shared hardware, no reservation
PLAIN = {
    "operatingSystem": "Linux",
    "preInstalledSw": "NA",
    "tenancy": "Shared",
    "capacitystatus": "Used",
    "licenseModel": "No License required",
}
#: what a product says of itself, if it says anything; not every one does, and a filter would leave those out
USUAL = {"marketoption": "OnDemand", "locationType": "AWS Region"}
#: an hour of a public IPv4 address in use, in every region that bills in USD, since 2024-02-01; what China asks is not
#: known, and nothing is charged for it: https://aws.amazon.com/vpc/pricing/ ("Public IPv4 Address")
ADDRESS_PER_HOUR_MICROS = {"USD": 5_000}


@dataclass(frozen=True, slots=True)
class Published:
    """A price per hour, and since when it is in force."""

    micros: int
    currency: str
    effective_at: datetime


def on_demand(instance_type: str, region: str) -> Published:
    """What a machine of this type costs there. Raises Unreachable unless the list has exactly one price above 0."""
    wanted = {**PLAIN, "instanceType": instance_type, "regionCode": region}
    return _only("AmazonEC2", wanted, region, f"{instance_type} in {region}")


def disk(region: str) -> Published:
    """What a GB of a gp3 volume costs there per month. Raises Unreachable as `on_demand` does."""
    wanted = {"productFamily": "Storage", "volumeApiName": "gp3", "regionCode": region}
    return _only("AmazonEC2", wanted, region, f"a gp3 volume in {region}")


def _only(service: str, wanted: dict[str, str], region: str, what: str) -> Published:
    served_from = next((at for start, at in SERVED_FROM.items() if region.startswith(start)), ELSEWHERE)
    filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
    pages = clients.client("pricing", served_from).get_paginator("get_products")
    products = [
        product
        for page in pages.paginate(ServiceCode=service, Filters=filters, FormatVersion="aws_v1")
        for product in map(json.loads, page["PriceList"])
        if _is_plain(product)
    ]
    if len(products) != 1:
        raise Unreachable(f"the price list has {len(products)} products for {what}, and one was expected")
    return _price(products[0], currency_of(region), what)


def _is_plain(product: dict[str, Any]) -> bool:
    """Not one that was paid in advance (and costs 0 here), nor one of a local zone or somebody's own data centre."""
    attributes = product.get("product", {}).get("attributes", {})
    return all(attributes.get(name, usual) == usual for name, usual in USUAL.items())


def _price(product: dict[str, Any], currency: str, what: str) -> Published:
    terms = list(product.get("terms", {}).get("OnDemand", {}).values())
    dimensions = [(term, one) for term in terms for one in term.get("priceDimensions", {}).values()]
    if len(dimensions) != 1:
        raise Unreachable(f"the price list has {len(dimensions)} prices for {what}, and one was expected")
    ((term, dimension),) = dimensions
    amount = Decimal(dimension.get("pricePerUnit", {}).get(currency, "0"))
    if not amount > 0:
        raise Unreachable(f"the price list has no price in {currency} for {what}")
    effective_at = datetime.fromisoformat(term["effectiveDate"]).astimezone(UTC)
    return Published(int((amount * 1_000_000).to_integral_value()), currency, effective_at)
