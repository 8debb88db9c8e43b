"""The machines of a spec that are rented on AWS: where, which, and what each is told at its launch."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.clock import Clock
from orchestrator.errors import Refused
from orchestrator.ledger.store import installation_key
from orchestrator.providers.aws.settings import Installation, Settings, is_container
from orchestrator.spec import Spec
from orchestrator.spec.sections import Aws

if TYPE_CHECKING:  # the SDK is loaded by those alone who rent something
    from orchestrator.providers.aws.check import Finding
    from orchestrator.providers.aws.provider import AwsProvider


def settings(section: Aws) -> Settings:
    """The spec's section in the provider's words."""
    return Settings(
        regions=section.region,
        instance_types=section.instance_types,
        subnets=section.subnets,
        image=section.image,
        bucket=section.bucket,
        lease_seconds=int(section.lease.total_seconds()),
        queue=section.queue,
        stack=section.stack,
        disk_gb=section.disk,
        address=section.address,
    )


def provider(section: Aws, home: Path, clock: Clock) -> "AwsProvider":
    """Its machines are those of this HALVE_HOME."""
    from orchestrator.providers.aws.provider import AwsProvider

    return AwsProvider(home, clock, settings(section), Installation(installation_key(home)))


def frozen(wanted: Spec, home: Path) -> Mapping[str, Any]:
    """What a launch on AWS depends on, for its payload: one that is repeated by a newer halve is sent the same.

    Raises OSError when the wheel cannot be packed.
    """
    if "aws" not in wanted.provider or wanted.aws is None:
        return {}
    own = settings(wanted.aws)
    return {"aws": own.frozen(wheel(home) if own.bucket else None)}


def wheel(home: Path) -> tuple[str, str]:
    """Where this very program lies in the bucket, and its hash."""
    from orchestrator.providers.ssh.wheel import packed

    path = packed(home / "wheels")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"halve/{sha256}/{path.name}", sha256


def findings(wanted: Spec, home: Path) -> "tuple[Finding, ...]":
    """What the account of this spec has and lacks. Raises Refused for a spec without AWS."""
    if wanted.aws is None:
        raise Refused(f"{wanted.name}: the spec has no section aws; add one with region and instance_types")
    check(wanted)
    from orchestrator.providers.aws import check as account
    from orchestrator.providers.aws.wheels import Wheels

    own = settings(wanted.aws)
    packed = wheel(home) if own.bucket else None
    told = None if packed is None else {"key": packed[0], "sha256": packed[1]}
    return tuple(account.check(own, Installation(installation_key(home)), Wheels(home), told))


def check(wanted: Spec) -> None:
    """Raise Refused for what no machine of this spec could start with."""
    section = wanted.aws
    if section is None:
        return
    if section.bucket is None and section.image == "auto":
        raise Refused("aws.bucket: AWS's own image brings no engine: name a bucket of yours, or an image that has it")
    if section.image != "auto" and not is_container(section.image) and len(section.region) > 1:
        raise Refused("aws.image: an image lives in one region; name one region, or use auto")
