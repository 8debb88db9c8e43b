"""Notices that EventBridge has put into a queue: heard also of machines that cannot be asked.

A message that is about no machine of ours is left as it is, for whoever's it may be: another installation's on the same
queue, and with a queue named by mistake another program's. The template's queue forgets everything after five minutes.
"""

import json
import logging
import re
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from orchestrator.providers import earliest, recommended
from orchestrator.providers.aws import clients
from orchestrator.providers.aws.listing import NOTICE
from orchestrator.providers.aws.memory import Memory, Past

log = logging.getLogger("halve.aws")

ASK_SECONDS = 5.0
#: answers of ten messages that are taken at once
ANSWERS_MAX = 10
#: so long a message that was looked at is hidden: the next answer holds others, and whose it is finds it soon
HIDDEN_SECONDS = 2
#: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
WARNING = "EC2 Spot Instance Interruption Warning"
REBALANCE = "EC2 Instance Rebalance Recommendation"
_REGION = re.compile(r"//sqs\.([a-z0-9-]+)\.")


@dataclass
class Notices:
    """The queue's words about our machines, remembered before they are deleted. Safe to use from several threads."""

    queue: str | None  # its URL; None: there is none
    default_region: str
    memory: Memory
    ask_seconds: float = ASK_SECONDS
    _asked_at: float | None = None
    _said: set[str] = field(default_factory=set)

    def hear(self, region: str, machines: Collection[str]) -> Mapping[str, Past]:
        """The pasts of those machines of a region of which the queue has news; they are remembered, too.

        A queue that does not answer is logged, once for each reason, and stops nothing: machines and spot requests say
        the same. Raises Unreachable, as memory does.
        """
        heard: dict[str, Past] = {}
        if self.queue is None or region != queue_region(self.queue, self.default_region) or not machines:
            return heard
        if self._asked_at is not None and time.monotonic() - self._asked_at < self.ask_seconds:
            return heard
        self._asked_at = time.monotonic()
        try:
            sqs = clients.client("sqs", region)
            for message in self._messages(region):
                instance_id, reclaim_at, rebalance_at = told(message.get("Body", ""))
                past = self.memory.of(instance_id) if instance_id in machines else None
                if past is None:
                    continue
                reclaim_at = earliest(reclaim_at, past.reclaim_at)
                rebalance_at = recommended(rebalance_at, past.rebalance_at)
                past = replace(past, reclaim_at=reclaim_at, rebalance_at=rebalance_at)
                heard[instance_id] = self.memory.keep(instance_id, past)
                sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])  # it is kept by now
        except (ClientError, BotoCoreError) as error:
            if str(error) not in self._said:
                self._said.add(str(error))
                log.warning("aws.queue %s: %s; see what is missing with: halve aws check", self.queue, error)
        return heard

    def _messages(self, region: str) -> Iterator[Mapping[str, Any]]:
        """Those that are there, each once, as far as a few answers hold them."""
        seen: set[str] = set()
        for _ in range(ANSWERS_MAX):
            answer = look(region, str(self.queue))
            new = [one for one in answer if one["MessageId"] not in seen]
            if not new:
                return
            seen |= {one["MessageId"] for one in new}
            yield from new


def look(region: str, queue: str) -> list[Mapping[str, Any]]:
    """Some of what lies in a queue, for a moment hidden from everybody else. Raises the SDK's errors."""
    answer = clients.client("sqs", region).receive_message(
        QueueUrl=queue, MaxNumberOfMessages=10, VisibilityTimeout=HIDDEN_SECONDS, WaitTimeSeconds=0
    )
    return list(answer.get("Messages", ()))


def told(body: str) -> tuple[str, datetime | None, datetime | None]:
    """Which machine a message is about, when it will be taken back, and since when leaving it is recommended: one of
    both, the other is None; "", None, None for what is neither.
    """
    try:
        said = json.loads(body)
        if said["source"] != "aws.ec2" or said["detail-type"] not in (WARNING, REBALANCE):
            return "", None, None
        instance_id = str(said["detail"]["instance-id"])
        said_at = datetime.fromisoformat(said["time"]).astimezone(UTC)
        if said["detail-type"] == REBALANCE:
            return instance_id, None, said_at
        return instance_id, said_at + NOTICE, None
    except (ValueError, KeyError, TypeError):
        return "", None, None


def queue_region(queue: str, default: str) -> str:
    """Where a queue lies, by its address."""
    found = _REGION.search(queue)
    return found[1] if found else default
