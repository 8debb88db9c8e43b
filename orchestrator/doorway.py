"""The loop's side of the door: the seam of world.py over the door's client."""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from orchestrator.dashboard.process import Starter
from orchestrator.door.client import Door
from orchestrator.door.process import Files
from orchestrator.door.serving import RateLimit, Replica, ServingSet, from_json
from orchestrator.errors import Refused
from orchestrator.spec import Spec
from orchestrator.world import DoorLoad

#: simulated replicas are counted, but nobody can be sent to them
SIMULATED = "sim://"

Weigh = Callable[[tuple[Replica, ...]], tuple[Replica, ...]]


class HttpDoor:
    """One deployment's door process. Its counts are asked for once a tick."""

    def __init__(self, home: Path, deployment: str, weigh: Weigh | None = None) -> None:
        """`weigh` gives replicas their weight; without it they are all alike."""
        self._home = home
        self._deployment = deployment
        self._weigh = weigh
        self._rate_limit: RateLimit | None = None
        self._door = Door(home, deployment)
        self._dashboard = Starter(home)
        self._in_flight: dict[str, int] | None = None

    def ensure(self, wanted: Spec) -> str:
        """Have the door's process up; return its local address. Raises Refused when its address is taken."""
        if wanted.dashboard is not None:
            self._dashboard.ensure()
        door = wanted.door
        limit = door.rate_limit
        self._rate_limit = RateLimit(per_second=limit.per_second, burst=limit.at_once) if limit else None
        token_file = None
        if door.token is not None:
            token_file = self._home / "doors" / f"{self._deployment}.token"
            write_secret(token_file, door.token)
        certificate, key = (Path(door.tls.certificate), Path(door.tls.key)) if door.tls else (None, None)
        return self._door.ensure(door.listen, token_file=token_file, tls_cert=certificate, tls_key=key).url

    def publish(self, serving: ServingSet) -> None:
        reachable = tuple(one for one in serving.replicas if not one.url.startswith(SIMULATED))
        if self._weigh is not None and len(reachable) > 1:
            reachable = self._weigh(reachable)
        self._door.publish(replace(serving, replicas=reachable, rate_limit=self._rate_limit))

    def load(self, after: datetime) -> DoorLoad | None:
        status = self._door.status()
        self._in_flight = None if status is None else dict(status["in_flight"])
        loads = self._door.loads(after)
        if loads is None:
            return None
        rows = []
        for minute in loads.minutes:
            rows += [
                {"deployment": self._deployment, "instance_id": replica, "at": minute.at, "images": images}
                for replica, images in minute.images_by_replica.items()
            ]
            total = {
                "deployment": self._deployment,
                "instance_id": "",  # what no single replica answers for
                "at": minute.at,
                "images": 0,
                "requests": minute.requests,
                "failed": minute.failed,
                "refused": minute.refused,
                "latency_ms_sum": minute.latency_ms_sum,
                "latency_ms_p95": minute.latency_ms_p95,
                "queue_max": minute.queue_max,
            }
            rows.append(total)
        current = loads.current
        return DoorLoad(
            minutes=tuple(rows),
            images_per_second=current.images_per_second,
            waiting=current.waiting,
            counted_since=min((minute.at for minute in loads.minutes), default=None),
        )

    def in_flight(self, replica_id: str) -> int | None:
        return None if self._in_flight is None else self._in_flight.get(replica_id, 0)

    def is_open(self) -> bool:
        """Whether the door's process is up."""
        return self._door.running() is not None

    def stop(self) -> None:
        """Close the door's process; its in-flight requests finish first."""
        self._door.stop()

    def close(self) -> None:
        """Let go of the connection; the door's process goes on."""
        self._door.close()


def published(home: Path, deployment: str) -> ServingSet | None:
    """What the door was last told; None when it was told nothing yet."""
    try:
        return from_json(Files.of(home, deployment).serving.read_bytes())
    except (OSError, ValueError):
        return None


def write_secret(path: Path, secret: str) -> None:
    """Write a file that only its owner may read. Raises Refused when it cannot."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secret)
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}; it keeps the door's token") from None
