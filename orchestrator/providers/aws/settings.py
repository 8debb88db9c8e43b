"""What a spec says of machines on AWS, and whose they are."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator import cards, pinning

#: of every tag that we set
TAG = "halve:"
#: where an engine listens, and where its machine's watchdog does
ENGINE_PORT = 7860
WATCHDOG_PORT = 7861


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where and what to rent. `lease_seconds`: a machine that has not heard from us for so long ends itself."""

    regions: tuple[str, ...]
    instance_types: tuple[str, ...]
    subnets: tuple[str, ...] = ()  # none: the default one of each zone
    image: str = "auto"  # AWS's own with a driver; or an AMI that brings the engine, or a container image that is it
    bucket: str | None = None  # where machines fetch their wheel; None: the image brings it
    lease_seconds: int = 1800
    queue: str | None = None
    stack: str = "halve"  # the CloudFormation stack that made the role and the security group
    disk_gb: int = 100
    address: str = "auto"  # of this controller, as machines see it

    @property
    def group(self) -> str:
        """The security group's name."""
        return f"{self.stack}-replica"

    def profile(self, region: str) -> str:
        """The instance profile's name: IAM has no regions, and stacks do."""
        return f"{self.stack}-replica-{region}"

    def serves(self, old: cards.Capability | None) -> bool:
        """Whether a card's machine can start; None: no old card. One of before Turing needs an image with its driver
        (AWS's own has one without it, also under a container), and what its packages have kernels for.
        """
        own = self.image != "auto" and not is_container(self.image)
        return old is None or (own and old >= cards.CUDA12_SERVES)

    def frozen(self, wheel: tuple[str, str] | None) -> Mapping[str, Any]:
        """What of it a launch depends on, for the payload: a launch that is repeated later is sent the same."""
        return {
            "image": self.image,
            "bucket": self.bucket,
            "lease_seconds": self.lease_seconds,
            "disk_gb": self.disk_gb,
            "stack": self.stack,
            "wheel": None if wheel is None else {"key": wheel[0], "sha256": wheel[1]},
        }


@dataclass(frozen=True, slots=True)
class Installation:
    """Whose machines are ours. The key is a secret, and so is a machine's word; the tag and the certificate are not."""

    key: bytes

    @property
    def tag(self) -> str:
        """The same for as long as HALVE_HOME lives; two installations on one account never see each other."""
        return self._derived("installation")[:32]

    @property
    def certificate(self) -> str:
        """The controller's, by which machines know it (PEM)."""
        return pinning.own(self.key)[1]

    def word(self, token: str) -> str:
        """What a machine's watchdog renews its lease for. The machine itself knows only its hash."""
        return self._derived(f"watchdog:{token}")

    def _derived(self, what: str) -> str:
        return hmac.new(self.key, what.encode(), hashlib.sha256).hexdigest()


def is_container(image: str) -> bool:
    """Whether a spec's image is a container's (registry.example/halve:1.0) and not a machine's (auto, ami-0abc)."""
    return "/" in image or ":" in image


def currency_of(region: str) -> str:
    """In which currency a region bills: China is a partition of its own, with accounts of its own."""
    return "CNY" if region.startswith("cn-") else "USD"
