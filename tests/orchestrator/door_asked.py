"""Questions to a door and through it with a test's patience: a busy machine may take longer than a daemon waits."""

from contextlib import suppress
from functools import partial
from typing import Any

import httpx

from orchestrator.door import Door, ServingSet
from orchestrator.door.loads import Loads
from orchestrator.errors import Refused
from tests.orchestrator.tiny import until

PATIENCE = 60.0

get = partial(httpx.get, timeout=PATIENCE)
post = partial(httpx.post, timeout=PATIENCE)


def calling(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=PATIENCE)


def publish(door: Door, said: ServingSet) -> None:
    door.publish(said)
    status(door)  # it looks before it answers


def status(door: Door) -> dict[str, Any]:
    return dict(until(door.status))


def loads(door: Door) -> Loads:
    said = until(door.loads)
    assert isinstance(said, Loads)
    return said


def in_flight(door: Door, replica_id: str) -> int:
    def said() -> tuple[int] | None:
        with suppress(Refused):  # it does not answer within 2 s
            return (door.in_flight(replica_id),)
        return None

    return int(until(said)[0])
