"""What AWS's error codes mean to the loop: what to try next, what to wait for, what to tell a person.

Codes: EC2 API reference, "Error codes for the Amazon EC2 API".
"""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError, ClientError

from orchestrator.providers import (
    Misconfigured,
    NoCapacity,
    ProviderError,
    QuotaExceeded,
    Throttled,
    Unreachable,
)

CAPACITY = {
    "InsufficientInstanceCapacity",
    "InsufficientHostCapacity",
    "InsufficientCapacity",
    "InsufficientCapacityOnHost",
    "InsufficientReservedInstanceCapacity",
    "InsufficientFreeAddressesInSubnet",
    "InsufficientAddressCapacity",
    "InsufficientVolumeCapacity",
    "UnfulfillableCapacity",
    "SpotMaxPriceTooLow",
}
#: this zone does not have this type, or not on these terms: another pool may
UNSUPPORTED = {"Unsupported", "UnsupportedOperation", "UnsupportedHostConfiguration"}
#: waiting heals none of these: a person asks AWS for more
QUOTA = {
    "VcpuLimitExceeded",
    "MaxSpotInstanceCountExceeded",
    "SpotInstanceRequestLimitExceeded",
    "InstanceLimitExceeded",
    "VolumeLimitExceeded",
    "MaxIOPSLimitExceeded",
    "NetworkInterfaceLimitExceeded",
    "AddressLimitExceeded",
    "ResourceLimitExceeded",
    "PendingVerification",
}
THROTTLE = {
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "TooManyRequestsException",
    "EC2ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "BandwidthLimitExceeded",
    "SlowDown",
    "PriorRequestNotComplete",
}
#: who we are is known again soon, by itself
PASSING = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "RequestTimeout"}
#: the token was used with other words: the machine is there, whatever we say now
MISMATCH = "IdempotentParameterMismatch"
#: the token's machine was there, and is over
OVER = "IdempotentInstanceTerminated"
NOT_FOUND = {"InvalidInstanceID.NotFound"}
NEVER_WAS = {"InvalidInstanceID.Malformed"}


def code_of(error: ClientError) -> str:
    """AWS's own name of what went wrong."""
    return str(error.response.get("Error", {}).get("Code", ""))


def of_launch(error: ClientError | BotoCoreError) -> ProviderError:
    """What a refused launch means."""
    if not isinstance(error, ClientError):
        return Unreachable(str(error))
    code, words = code_of(error), _words(error)
    if code in CAPACITY:
        return NoCapacity(words)
    if code in UNSUPPORTED:
        return NoCapacity(f"not to be had there at all: {words}")
    if code in QUOTA:
        return QuotaExceeded(words)
    passing = of_look(error)
    is_certain = 400 <= _status(error) < 500 and code not in PASSING and not isinstance(passing, Throttled)
    return Misconfigured(words) if is_certain else passing


def of_look(error: ClientError | BotoCoreError) -> ProviderError:
    """What it means that a listing or a change of what is there was refused."""
    if isinstance(error, ClientError) and code_of(error) in THROTTLE:
        return Throttled(_words(error))
    return Unreachable(_words(error) if isinstance(error, ClientError) else str(error))


@contextmanager
def looking() -> Iterator[None]:
    """Nothing of the SDK's leaves. Raises Throttled or Unreachable."""
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise of_look(error) from None


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))


def _words(error: ClientError) -> str:
    return f"{code_of(error)}: {error.response.get('Error', {}).get('Message', '')}"[:300]
