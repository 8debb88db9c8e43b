"""What EC2 says of a machine, in our words."""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from orchestrator.providers import Listed, State, Tags, earliest, recommended
from orchestrator.providers.aws.memory import Memory, Past
from orchestrator.providers.aws.settings import ENGINE_PORT, TAG

#: `shutting-down` is over for us: it costs nothing from then on, and nothing brings it back
STATES = {
    "pending": State.STARTING,
    "running": State.RUNNING,
    "stopping": State.STOPPED,
    "stopped": State.STOPPED,
    "shutting-down": State.GONE,
    "terminated": State.GONE,
}
#: codes of a machine's end that say that EC2 has taken it back
#: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html
TAKEN_BACK = {"Server.SpotInstanceTermination", "Server.SpotInstanceShutdown"}
#: of a spot request: EC2 has announced, and will have taken it two minutes later
#: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-request-status.html
MARKED = {"marked-for-termination", "marked-for-stop"}
NOTICE = timedelta(seconds=120)
#: a machine is attached to its disk so soon after its start, and before it
ATTACHING = timedelta(minutes=1)
#: "User initiated (2026-11-20 12:01:30 GMT)"
_MOMENT = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)")


Row = Mapping[str, Any]


def read(region: str, row: Row, request: Row | None, memory: Memory, now: datetime) -> Listed:
    """One row of DescribeInstances, with its spot request where it has one. Raises Unreachable, as memory does."""
    tags = {tag["Key"].removeprefix(TAG): tag["Value"] for tag in row.get("Tags", ()) if tag["Key"].startswith(TAG)}
    state = STATES.get(row["State"]["Name"], State.STARTING)
    reason = row.get("StateReason", {})
    past = memory.keep(row["InstanceId"], _past(row, state, request, memory.of(row["InstanceId"]), now))
    preempted = reason.get("Code") in TAKEN_BACK
    address = row.get("PublicIpAddress") or row.get("PrivateIpAddress")
    return Listed(
        provider_id=f"{region}/{row['InstanceId']}",
        token=tags.get("token", ""),
        state=state,
        launched_at=past.launched_at,
        ended_at=past.ended_at,
        preempted=preempted and state is State.GONE,
        reclaim_at=None if state is State.GONE else earliest(_marked(request), past.reclaim_at),
        rebalance_at=None if state is State.GONE else past.rebalance_at,
        url=f"https://{address}:{ENGINE_PORT}" if address else None,
        detail=str(reason.get("Message", "")) if state is State.GONE else "",
        tags=Tags(
            deployment=tags.get("deployment", ""),
            offer_id=tags.get("offer", ""),
            digest=tags.get("digest", ""),
        ),
        stops=past.stops,
    )


def told(machine: Listed, past: Past) -> Listed:
    """The same machine, of whose past something was heard since it was read."""
    return replace(
        machine,
        reclaim_at=earliest(machine.reclaim_at, past.reclaim_at),
        rebalance_at=recommended(machine.rebalance_at, past.rebalance_at),
    )


def _past(row: Row, state: State, request: Row | None, before: Past | None, now: datetime) -> Past:
    started_at = row["LaunchTime"].astimezone(UTC)
    # a stop and a start move LaunchTime; the network interface and the root volume were attached once
    interfaces = [one.get("Attachment", {}).get("AttachTime") for one in row.get("NetworkInterfaces", ())]
    volumes = [one.get("Ebs", {}).get("AttachTime") for one in row.get("BlockDeviceMappings", ())]
    first = min([started_at, *(at.astimezone(UTC) for at in (*interfaces, *volumes) if at is not None)])
    past = before or Past(launched_at=first, started_at=started_at if started_at - first < ATTACHING else first)
    if past.missing_since is not None:  # it was asked for before it was listed: nothing was known of it then
        past = replace(past, launched_at=min(past.launched_at, first), started_at=min(past.started_at, started_at))
        past = replace(past, missing_since=None)
    transition = _moment(row.get("StateTransitionReason", ""))
    past = past.started(started_at)
    if state is State.STOPPED:
        return past.stopped(transition or now)
    if state is not State.GONE or past.ended_at is not None:
        return past
    ended_at = transition or _ended(request) or now  # the first sight of its end, where EC2 does not say more
    return replace(past, ended_at=max(ended_at, past.started_at))


def _marked(request: Row | None) -> datetime | None:
    """When EC2 will have taken it, as its spot request says."""
    status = (request or {}).get("Status", {})
    if status.get("Code") not in MARKED or "UpdateTime" not in status:
        return None
    at: datetime = status["UpdateTime"]
    return at.astimezone(UTC) + NOTICE


def _ended(request: Row | None) -> datetime | None:
    """When its spot request says that it ended."""
    status = (request or {}).get("Status", {})
    over = str(status.get("Code", "")).startswith("instance-terminated")
    return status["UpdateTime"].astimezone(UTC) if over and "UpdateTime" in status else None


def _moment(reason: str) -> datetime | None:
    found = _MOMENT.search(reason)
    return datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) if found else None
