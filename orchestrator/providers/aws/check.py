"""What an account lacks before a spec can run on it: asked of AWS itself, starting and opening nothing."""

import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from orchestrator.providers import Misconfigured, ProviderError, Request
from orchestrator.providers.aws import clients, market, network, notices, pricelist, refusals
from orchestrator.providers.aws.boot import folder
from orchestrator.providers.aws.market import QUOTAS, Type
from orchestrator.providers.aws.request import run_instances
from orchestrator.providers.aws.settings import ENGINE_PORT, Installation, Settings
from orchestrator.providers.aws.wheels import Wheels
from policies.snapshot import Offer, Purchase

#: said by EC2 of what would have been done
WOULD_DO = "DryRunOperation"
DENIED = {"UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "AuthFailure"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at. Without a remedy it is as it should be; `stops`: nothing starts until it is."""

    region: str
    what: str
    said: str
    remedy: str = ""
    stops: bool = True


def check(
    settings: Settings, installation: Installation, wheels: Wheels, wheel: Mapping[str, str] | None
) -> Iterator[Finding]:
    """Every finding of every region; what hangs on a missing thing is not asked for.

    The wheel is put into its bucket: there is no other way to know that it may be.
    """
    first = settings.regions[0]
    arn = ""

    def account() -> str:
        nonlocal arn
        said = clients.client("sts", first).get_caller_identity()
        arn = str(said["Arn"])
        return f"{said['Account']} as {arn}"

    who = _asked(first, "account", account, WHO)
    yield who
    if who.remedy:
        return
    for region in settings.regions:
        shared = f" WheelBucket={settings.bucket}" if settings.bucket and region != first else ""
        stack = _deploy(settings, region, f"VpcId=VPC{shared}")
        attach = attaching(settings, region, arn)
        yield from _region(replace(settings, regions=(region,)), region, installation, wheel, stack, attach)
    if settings.queue:
        there = notices.queue_region(settings.queue, first)
        deploy = f"{_deploy(settings, there, 'WithQueue=yes')}; its output Queue is aws.queue"
        yield _asked(there, "queue", partial(_queue, settings.queue, there), deploy, attaching(settings, there, arn))
    if settings.bucket and wheel:
        bucket = settings.bucket

        def put() -> str:
            wheels.ensure(bucket, wheel, first)
            return f"{bucket} holds this version's wheel"

        look = f"aws cloudformation describe-stacks --region {first} --stack-name {settings.stack}"
        remedy = f"{look}: its output Bucket is aws.bucket"
        yield _asked(first, "bucket", put, remedy, attaching(settings, first, arn))


def _queue(queue: str, region: str) -> str:
    notices.look(region, queue)
    return f"{queue} may be heard"


def _region(
    settings: Settings,
    region: str,
    installation: Installation,
    wheel: Mapping[str, str] | None,
    stack: str,
    attach: str,
) -> Iterator[Finding]:
    """`stack`, `attach`: what to run where the stack, or its policy, is missing."""
    ec2 = clients.client("ec2", region)
    found: dict[str, Any] = {}

    def subnets() -> str:
        found["subnets"], found["vpc"] = market.subnets(ec2, settings, region)
        return ", ".join(f"{zone} {subnet}" for zone, subnet in sorted(found["subnets"].items()))

    name = f"name subnets of one network under aws.subnets: aws ec2 describe-subnets --region {region}"
    yield _asked(region, "subnets", subnets, name, attach)

    def types() -> str:
        found["types"] = market.types(ec2, settings, region)
        if missing := [name for name in settings.instance_types if name not in found["types"]]:
            raise Misconfigured(
                f"{', '.join(missing)}: not here, or not one NVIDIA GPU that the image serves beside an x86 processor"
            )
        return ", ".join(f"{one.name} {one.gpu}" for one in found["types"].values())

    yield _asked(region, "types", types, "take them out of aws.instance_types, or name another region", attach)
    for kind in found.get("types", {}).values():
        yield from _quotas(region, kind, attach)
        ask, wait = partial(_price, kind.name, region), "wait, or halve prices import"
        yield replace(_asked(region, f"price {kind.name}", ask, wait, attach), stops=False)

    def group() -> str:
        found["group"] = network.find(ec2, settings, region, found["vpc"])["GroupId"]
        return str(found["group"])

    deploy = stack.replace("VpcId=VPC", f"VpcId={found.get('vpc', 'VPC')}")
    if "vpc" in found:
        yield _asked(region, "group", group, deploy, attach)
    if found.get("types") and found.get("group"):
        zone, subnet = min(found["subnets"].items())
        kind = next(iter(found["types"].values()))
        frozen = settings.frozen((wheel["key"], wheel["sha256"]) if wheel else None)

        def launch() -> str:
            request = Request(token=f"check-{secrets.token_hex(8)}", offer=_offer(zone, kind), payload={})
            arguments = run_instances(request, frozen, installation, region=region, subnet=subnet, group=found["group"])
            return _dry(lambda: clients.launching(region).run_instances(**arguments, DryRun=True))

        yield _asked(region, "launch", launch, deploy, attach)
        for what, call in (
            ("let in", ec2.authorize_security_group_ingress),
            ("let nobody else in", ec2.revoke_security_group_ingress),
        ):
            rules = network.rules({(ENGINE_PORT, "192.0.2.1/32")}, "halve aws check")
            ask = partial(call, GroupId=found["group"], IpPermissions=rules, DryRun=True)
            yield _asked(region, what, partial(_dry, ask), attach, attach)
    if "vpc" in found:
        yield _asked(region, "listing", lambda: _listing(ec2), attach, attach)


def _asked(region: str, what: str, ask: Callable[[], str], remedy: str, attach: str = "") -> Finding:
    """What came of asking. A permission that is missing is called by its name, and `attach` is the remedy for it."""
    try:
        return Finding(region=region, what=what, said=ask())
    except ClientError as error:
        if refusals.code_of(error) in DENIED:
            said = f"no permission to {error.operation_name}"
            return Finding(region=region, what=what, said=said, remedy=attach or remedy)
        return Finding(region=region, what=what, said=f"{refusals.code_of(error)}: {error}", remedy=remedy)
    except (ProviderError, BotoCoreError) as error:
        return Finding(region=region, what=what, said=str(error), remedy=remedy)


WHO = "aws configure, or set AWS_PROFILE; then aws sts get-caller-identity"


def _quotas(region: str, kind: Type, attach: str) -> Iterator[Finding]:
    for purchase, vcpus in kind.quotas.items():
        what = f"quota {purchase} {kind.name}"
        code = QUOTAS.get(kind.name[0], {}).get(purchase)
        if vcpus is None:
            unknown = "not known; a launch will tell"
            asked = _asked(region, what, partial(_granted, region, code), "", attach)
            yield replace(asked, said=asked.said if asked.remedy else unknown, stops=False)
            continue
        ask = (
            f"aws service-quotas request-service-quota-increase --region {region} --service-code ec2 "
            f"--quota-code {code} --desired-value {kind.vcpus}"
        )
        enough = vcpus >= kind.vcpus
        said = f"{vcpus} vCPUs, and one machine has {kind.vcpus}"
        yield Finding(region=region, what=what, said=said, remedy="" if enough else ask, stops=False)


def _granted(region: str, code: str | None) -> str:
    return f"{market.granted(region, code)} vCPUs" if code else ""


def _price(kind: str, region: str) -> str:
    price = pricelist.on_demand(kind, region)
    return f"{price.micros / 1_000_000:.4f} {price.currency} per hour since {price.effective_at:%Y-%m-%d}"


def _listing(ec2: Any) -> str:
    ec2.describe_instances(MaxResults=5)
    ec2.describe_spot_instance_requests(MaxResults=5)
    ec2.describe_spot_price_history(MaxResults=5)
    return "may be looked at"


def _dry(ask: Callable[[], Any]) -> str:
    try:
        ask()
    except ClientError as error:
        if refusals.code_of(error) != WOULD_DO:
            raise
    return "would be done"


def _offer(zone: str, kind: Type) -> Offer:
    return Offer(
        id="check",
        provider="aws",
        zone=zone,
        instance_type=kind.name,
        gpu=kind.gpu,
        purchase=Purchase.SPOT,
    )


def _deploy(settings: Settings, region: str, parameters: str) -> str:
    """Makes the region's stack, or changes these parameters of it."""
    template = folder("cloudformation") / "halve.yaml"
    return (
        f"aws cloudformation deploy --region {region} --stack-name {settings.stack} --template-file {template} "
        f"--capabilities CAPABILITY_NAMED_IAM --parameter-overrides {parameters}"
    )


def attaching(settings: Settings, region: str, arn: str) -> str:
    """How who is asking, by his ARN, gets the policy of the region's stack."""
    _, partition, _, _, account, *rest = (*arn.split(":"), *[""] * 6)
    kind, *names = rest[0].split("/")
    policy = f"arn:{partition}:iam::{account}:policy/{settings.stack}-controller-{region}"
    if kind == "user" and names:
        return f"aws iam attach-user-policy --user-name {names[-1]} --policy-arn {policy}"
    if kind == "assumed-role" and names:
        return f"aws iam attach-role-policy --role-name {names[0]} --policy-arn {policy}"
    return f"attach the policy {policy} to {arn}"
