"""What could be had of EC2, and its prices: every zone, type and purchase that the spec and the account allow."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from orchestrator import cards
from orchestrator.clock import Clock
from orchestrator.providers import Misconfigured, Priced, ProviderError, Unreachable
from orchestrator.providers.aws import clients, pricelist
from orchestrator.providers.aws.pricelist import ADDRESS_PER_HOUR_MICROS, Published
from orchestrator.providers.aws.refusals import looking
from orchestrator.providers.aws.settings import Settings, currency_of
from policies.snapshot import Offer, Purchase

log = logging.getLogger("halve.aws")

#: what zones and types there are, what they cost on demand, and what the account may have: asked for so often
GROUND_SECONDS = 3600.0
#: spot prices move a few times a day
SPOT_SECONDS = 300.0
LINUX = "Linux/UNIX"
#: vCPUs at once, by the first letters of a type's family (Service Quotas, service ec2): spot, on demand
QUOTAS = {
    "g": {Purchase.SPOT: "L-3819A6DF", Purchase.ON_DEMAND: "L-DB2E81BA"},
    "p": {Purchase.SPOT: "L-7212CCBC", Purchase.ON_DEMAND: "L-417A185B"},
}
#: compute capability of cards that CUDA 13 does not serve, as EC2 names them (https://developer.nvidia.com/cuda-gpus)
OLD_CARDS: Mapping[str, cards.Capability] = {"V100": (7, 0), "M60": (5, 2), "K80": (3, 7), "K520": (3, 0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Type:
    """A machine type of ours: one GPU, for a replica uses one."""

    name: str
    gpu: str
    vcpus: int
    quotas: Mapping[Purchase, int | None]  # vCPUs; None: not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What changes rarely in a region."""

    subnets: Mapping[str, str]  # zone -> subnet
    vpc: str
    types: Mapping[str, Type]
    pools: frozenset[tuple[str, str]]  # (zone, type) that exist
    published: Mapping[str, Published | None]  # by type; None: the list does not say
    disk: Published | None

    @property
    def keeps_seconds(self) -> float:
        """What is not known is asked for sooner."""
        return GROUND_SECONDS if self.disk and all(self.published.values()) else SPOT_SECONDS


@dataclass
class Market:
    """Asks rarely and remembers. Safe to use from several threads: at worst two ask the same."""

    settings: Settings
    clock: Clock
    spot_seconds: float = SPOT_SECONDS
    _grounds: dict[str, tuple[float, Ground]] = field(default_factory=dict)
    _spot: tuple[float, datetime, tuple[Priced, ...]] | None = None

    def offers(self) -> Sequence[Offer]:
        """Every pool, at its price now. A spot pool without a price is not one. Raises Unreachable or Throttled."""
        found = []
        for region in self.settings.regions:
            ground = self.ground(region)
            found += [
                self._offer(region, zone, ground.types[kind], Purchase.ON_DEMAND) for zone, kind in sorted(ground.pools)
            ]
        return tuple(found) + self._spot_offers()

    def prices(self, since: datetime) -> Sequence[Priced]:
        """What each pool has cost since, oldest first; on demand only what the list says now. Raises Unreachable."""
        published = []
        for region in self.settings.regions:
            ground = self.ground(region)
            for zone, kind in ground.pools:
                price = ground.published[kind]
                if price is not None:
                    offer_id = _id(zone, kind, Purchase.ON_DEMAND)
                    published.append(_priced(offer_id, price.micros, price.currency, price.effective_at))
        return sorted((*published, *self._spot_prices(since)), key=lambda one: (one.effective_at, one.offer_id))

    def region_of(self, zone: str) -> str:
        """Raises Misconfigured for a zone in no region of ours."""
        # us-east-1a and the local zone us-east-1-bos-1a; no region's name begins with another's
        found = next((region for region in self.settings.regions if zone.startswith(region)), None)
        if found is None:
            raise Misconfigured(f"{zone} lies in none of the spec's regions: {', '.join(self.settings.regions)}")
        return found

    def ground(self, region: str) -> Ground:
        """What changes rarely, asked for once an hour. Raises Unreachable or Throttled."""
        kept = self._grounds.get(region)
        if kept is None or time.monotonic() - kept[0] > kept[1].keeps_seconds:
            try:
                with looking():
                    kept = time.monotonic(), _survey(self.settings, region)
            except ProviderError:
                if kept is None:
                    raise
                kept = time.monotonic(), kept[1]  # as it was; what runs must be seen whatever else cannot
            self._grounds[region] = kept
        return kept[1]

    def beside_per_hour_micros(self) -> int:
        """What comes with every machine: its volume, where it is dearest (0 until the price is known), and its address.

        Both are paid from launch to end, and also in a first hour that is free.
        """
        months = [ground.disk.micros for _, ground in self._grounds.values() if ground.disk is not None]
        volume = max(months, default=0) * self.settings.disk_gb // 730  # AWS's month has 730 hours
        return volume + ADDRESS_PER_HOUR_MICROS.get(currency_of(self.settings.regions[0]), 0)

    def _offer(self, region: str, zone: str, kind: Type, purchase: Purchase) -> Offer:
        quota = kind.quotas[purchase]
        price = self._grounds[region][1].published[kind.name]
        return Offer(
            id=_id(zone, kind.name, purchase),
            provider="aws",
            zone=zone,
            instance_type=kind.name,
            gpu=kind.gpu,
            purchase=purchase,
            price_per_hour_micros=None if price is None else price.micros,
            currency="" if price is None else price.currency,
            capacity=None if quota is None else quota // kind.vcpus,
        )

    def _spot_offers(self) -> tuple[Offer, ...]:
        now = self.clock.now()
        last = {one.offer_id: one for one in self._spot_prices(now)}
        found = []
        for region in self.settings.regions:
            ground = self.ground(region)
            for zone, kind in sorted(ground.pools):
                offer = self._offer(region, zone, ground.types[kind], Purchase.SPOT)
                price = last.get(offer.id)
                if price is not None:
                    found.append(
                        replace(offer, price_per_hour_micros=price.price_per_hour_micros, currency=price.currency)
                    )
        return tuple(found)

    def _spot_prices(self, since: datetime) -> tuple[Priced, ...]:
        """Those in force since then, the one at that moment included."""
        kept = self._spot
        if kept is None or since < kept[1] or time.monotonic() - kept[0] > self.spot_seconds:
            asked = min(since, self.clock.now() - timedelta(days=1))
            try:
                with looking():
                    rows = [row for region in self.settings.regions for row in self._spot_rows(region, asked)]
                kept = time.monotonic(), asked, tuple(sorted(rows, key=lambda one: one.effective_at))
            except ProviderError:
                if kept is None or since < kept[1]:
                    raise
                kept = time.monotonic(), kept[1], kept[2]
            self._spot = kept
        return _since(kept[2], since)

    def _spot_rows(self, region: str, since: datetime) -> Iterable[Priced]:
        ground = self.ground(region)
        rows = clients.paged(
            clients.client("ec2", region),
            "describe_spot_price_history",
            "SpotPriceHistory",
            StartTime=since,
            EndTime=max(since, self.clock.now()),
            InstanceTypes=sorted(ground.types),
            ProductDescriptions=[LINUX],
        )
        for row in rows:
            zone, kind = row["AvailabilityZone"], row["InstanceType"]
            if (zone, kind) in ground.pools and row["ProductDescription"] == LINUX:
                micros = int((Decimal(row["SpotPrice"]) * 1_000_000).to_integral_value())
                at = row["Timestamp"].astimezone(UTC)
                yield _priced(_id(zone, kind, Purchase.SPOT), micros, currency_of(region), at)


def _survey(settings: Settings, region: str) -> Ground:
    ec2 = clients.client("ec2", region)
    zones, vpc = subnets(ec2, settings, region)
    kinds = types(ec2, settings, region)
    offered = clients.paged(
        ec2,
        "describe_instance_type_offerings",
        "InstanceTypeOfferings",
        LocationType="availability-zone",
        Filters=[{"Name": "instance-type", "Values": sorted(kinds)}],
    )
    pools = {(row["Location"], row["InstanceType"]) for row in offered} if kinds else set()
    return Ground(
        subnets=zones,
        vpc=vpc,
        types=kinds,
        pools=frozenset((zone, kind) for zone, kind in pools if zone in zones and kind in kinds),
        published={name: _told(partial(pricelist.on_demand, name, region)) for name in kinds},
        disk=_told(partial(pricelist.disk, region)),
    )


def _told(ask: Callable[[], Published]) -> Published | None:
    """A price that the list does not have is unknown, and no reason to be blind to everything else."""
    try:
        with looking():
            return ask()
    except ProviderError as error:
        log.warning("%s", error)
        return None


def subnets(ec2: Any, settings: Settings, region: str) -> tuple[dict[str, str], str]:
    """The first subnet of each zone, all in one network."""
    only: dict[str, Any] = {"Filters": [{"Name": "default-for-az", "Values": ["true"]}]}
    if settings.subnets:  # by filter: one of another region is no error there
        only = {"Filters": [{"Name": "subnet-id", "Values": list(settings.subnets)}]}
    rows = sorted(clients.paged(ec2, "describe_subnets", "Subnets", **only), key=lambda row: str(row["SubnetId"]))
    networks = sorted({row["VpcId"] for row in rows})
    if len(networks) != 1:
        raise Unreachable(f"{region}: the subnets lie in {len(networks)} networks, and one was expected: aws.subnets")
    return {row["AvailabilityZone"]: row["SubnetId"] for row in reversed(rows)}, str(networks[0])


def types(ec2: Any, settings: Settings, region: str) -> dict[str, Type]:
    """Those of the spec's types that this region has, and that carry one NVIDIA GPU beside an x86 processor.

    Cards before Turing only with an image of one's own: AWS's has a driver that does not know them.
    """
    only = [{"Name": "instance-type", "Values": list(settings.instance_types)}]
    found = {}
    for row in clients.paged(ec2, "describe_instance_types", "InstanceTypes", Filters=only):
        gpus = row.get("GpuInfo", {}).get("Gpus", [])
        processors = row.get("ProcessorInfo", {}).get("SupportedArchitectures", ["x86_64"])
        if [one.get("Count") for one in gpus] == [1] and gpus[0].get("Manufacturer", "NVIDIA") == "NVIDIA":
            if "x86_64" not in processors or not settings.serves(OLD_CARDS.get(str(gpus[0]["Name"]))):
                continue
            name = str(row["InstanceType"])
            found[name] = Type(
                name=name,
                gpu=str(gpus[0]["Name"]),
                vcpus=int(row["VCpuInfo"]["DefaultVCpus"]),
                quotas=_quotas(region, name),
            )
    return found


def _quotas(region: str, name: str) -> dict[Purchase, int | None]:
    codes = QUOTAS.get(name[0], {})
    return {
        purchase: quota(region, codes[purchase]) if purchase in codes else None
        for purchase in (Purchase.SPOT, Purchase.ON_DEMAND)
    }


def quota(region: str, code: str) -> int | None:
    """vCPUs that the account may have at once; None: not known, then the launch will tell."""
    try:
        return granted(region, code)
    except (ClientError, BotoCoreError):
        return None


def granted(region: str, code: str) -> int:
    """As Service Quotas says it. Raises the SDK's errors."""
    said = clients.client("service-quotas", region).get_service_quota(ServiceCode="ec2", QuotaCode=code)
    return int(said["Quota"]["Value"])


def _since(rows: Sequence[Priced], since: datetime) -> tuple[Priced, ...]:
    """Of rows in the order of time, what was in force at a moment and what came after it."""
    in_force = {one.offer_id: one for one in rows if one.effective_at <= since}
    return (*in_force.values(), *(one for one in rows if one.effective_at > since))


def _id(zone: str, kind: str, purchase: Purchase) -> str:
    return f"aws/{zone}/{kind}/{purchase}"


def _priced(offer_id: str, micros: int, currency: str, at: datetime) -> Priced:
    return Priced(offer_id=offer_id, price_per_hour_micros=micros, currency=currency, effective_at=at)
