"""A launch, byte for byte the same however often it is repeated: a function of what was frozen, and of the network."""

from collections.abc import Mapping
from typing import Any

from orchestrator.providers import Misconfigured, Request
from orchestrator.providers.aws import boot
from orchestrator.providers.aws.settings import TAG, Installation, is_container
from policies.snapshot import Purchase

#: AWS's own image with NVIDIA's driver, found anew by EC2 at each launch
AUTO_IMAGE = "resolve:ssm:/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
#: of that image; another image's has to be the same, or it gets a second disk and too small a first one
ROOT_DEVICE = "/dev/sda1"
TAGGED = ("instance", "volume", "network-interface")
TAG_MAX = 256


def run_instances(
    request: Request, frozen: Mapping[str, Any], installation: Installation, *, region: str, subnet: str, group: str
) -> Mapping[str, Any]:
    """The arguments of EC2's RunInstances; `frozen` as Settings.frozen has it.

    Raises Misconfigured for what EC2 could never take.
    """
    spot = request.offer.purchase is Purchase.SPOT
    kinds = (*TAGGED, "spot-instances-request") if spot else TAGGED
    tags, image = _tags(request, installation), str(frozen["image"])
    arguments: dict[str, Any] = {
        "ImageId": AUTO_IMAGE if image == "auto" or is_container(image) else image,
        "InstanceType": request.offer.instance_type,
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": request.token,
        "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in kinds],
        "UserData": boot.user_data(request.payload, frozen, installation, request.token, region),
        "IamInstanceProfile": {"Name": f"{frozen['stack']}-replica-{region}"},
        "InstanceInitiatedShutdownBehavior": "terminate",  # the watchdog ends a machine by switching it off
        "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        "BlockDeviceMappings": [
            {
                "DeviceName": ROOT_DEVICE,
                "Ebs": {
                    "VolumeSize": int(frozen["disk_gb"]),
                    "VolumeType": "gp3",
                    "Encrypted": True,
                    "DeleteOnTermination": True,
                },
            }
        ],
        "NetworkInterfaces": [
            {
                "DeviceIndex": 0,
                "SubnetId": subnet,
                "Groups": [group],
                "AssociatePublicIpAddress": True,
                "DeleteOnTermination": True,
            }
        ],
    }
    if spot:
        # no MaxPrice: AWS advises against one, it only makes for more interruptions
        options = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        arguments["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": options}
    return arguments


def _tags(request: Request, installation: Installation) -> list[dict[str, str]]:
    said = {
        "installation": installation.tag,
        "token": request.token,
        **{name: str(request.payload.get(name, "")) for name in ("deployment", "offer", "digest")},
    }
    if too_long := [name for name, value in said.items() if len(value) > TAG_MAX]:
        raise Misconfigured(f"{', '.join(too_long)}: a tag on AWS has at most {TAG_MAX} characters")
    named = [{"Key": "Name", "Value": f"halve {said['deployment']}".strip()}]
    return named + [{"Key": TAG + name, "Value": value} for name, value in said.items()]
