"""Who may talk to a machine: this controller's address and nobody else's."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

import httpx
from botocore.exceptions import ClientError

from orchestrator.providers import Misconfigured, Unreachable
from orchestrator.providers.aws import clients, refusals
from orchestrator.providers.aws.refusals import looking
from orchestrator.providers.aws.settings import ENGINE_PORT, WATCHDOG_PORT, Installation, Settings

#: says which address it is asked from
WHO_AM_I = "https://checkip.amazonaws.com"
#: a controller behind NAT may get another address at any time
REFRESH_SECONDS = 300.0


@dataclass
class Network:
    """The rules of our security groups that are this installation's. Other rules are nobody's business."""

    settings: Settings
    installation: Installation
    _opened: dict[str, tuple[float, str]] = field(default_factory=dict)

    def group(self, region: str, vpc: str) -> str:
        """The security group's id, open to this controller. Raises Misconfigured, Throttled or Unreachable."""
        kept = self._opened.get(region)
        if kept is None or time.monotonic() - kept[0] > REFRESH_SECONDS:
            with looking():
                kept = time.monotonic(), self._open(clients.client("ec2", region), region, vpc)
            self._opened[region] = kept
        return kept[1]

    def _open(self, ec2: Any, region: str, vpc: str) -> str:
        found = find(ec2, self.settings, region, vpc)
        group, mine = str(found["GroupId"]), f"halve {self.installation.tag}"
        own = f"{own_address(self.settings.address)}/32"
        wanted = {(port, own) for port in (ENGINE_PORT, WATCHDOG_PORT)}
        present = {
            (rule.get("FromPort"), one["CidrIp"])
            for rule in found["IpPermissions"]
            for one in rule["IpRanges"]
            if one.get("Description") == mine
        }
        if missing := wanted - present:
            with _already("InvalidPermission.Duplicate"):
                ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=rules(missing, mine))
        if stale := present - wanted:
            with _already("InvalidPermission.NotFound"):
                ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=rules(stale, mine))
        return group


def find(ec2: Any, settings: Settings, region: str, vpc: str) -> Any:
    """The security group of our machines, as EC2 tells it. Raises Misconfigured when there is none."""
    only = [{"Name": "group-name", "Values": [settings.group]}, {"Name": "vpc-id", "Values": [vpc]}]
    groups = list(clients.paged(ec2, "describe_security_groups", "SecurityGroups", Filters=only))
    if len(groups) != 1:
        raise Misconfigured(f"{region}: no security group {settings.group} in {vpc}; halve aws check says what to do")
    return groups[0]


def own_address(said: str, who_am_i: str = WHO_AM_I) -> str:
    """This controller's IPv4 address as machines see it. Raises Unreachable.

    A proxy of the surroundings is left out, for machines are not spoken to through one either.
    """
    if said != "auto":
        return said
    try:
        with httpx.Client(timeout=5.0, trust_env=False) as client:
            return str(IPv4Address(client.get(who_am_i).text.strip()))
    except (httpx.HTTPError, ValueError):
        raise Unreachable(f"{who_am_i} does not say under which IPv4 address we are seen; set aws.address") from None


@contextmanager
def _already(code: str) -> Iterator[None]:
    """Somebody else of ours, at the same moment, has done what was to be done."""
    try:
        yield
    except ClientError as error:
        if refusals.code_of(error) != code:
            raise


def rules(which: set[tuple[Any, str]], description: str) -> list[dict[str, Any]]:
    """In EC2's words: each port, and from where."""
    return [
        {
            "IpProtocol": "tcp",
            "FromPort": port,
            "ToPort": port,
            "IpRanges": [{"CidrIp": cidr, "Description": description}],
        }
        for port, cidr in sorted(which)
    ]
