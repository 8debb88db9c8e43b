"""How many items are under way at a replica: what its health says of workers and batches, not a guess."""

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.executors.room import AHEAD, MOST, UNKNOWN, Room, taken_at_once
from tests.inference.sleeper import SleepingReplica
from tests.orchestrator.ports import free_port


@pytest.mark.parametrize(
    ("health", "count"),
    [
        ({"workers": 1, "batches": {}}, 2),
        ({"workers": 16, "batches": {"small": 1, "large": 1}}, 32),
        ({"workers": 1, "batches": {"small": 16, "large": 4}}, 32),  # an accelerator reads so many at once
        ({"workers": 200}, MOST),  # its queue holds no more
        ({"status": "ready"}, UNKNOWN),
        ({"workers": 0, "batches": None}, UNKNOWN),
        ([], UNKNOWN),
        ("a page of somebody else", UNKNOWN),
    ],
)
def test_it_is_twice_what_is_read_at_once(health: Any, count: int) -> None:
    assert taken_at_once(health) == count


@pytest.fixture(scope="module")
def replica() -> Iterator[SleepingReplica]:
    one = SleepingReplica(0.0)
    yield one
    one.kill()


def test_the_real_servers_health_is_understood_and_asked_once(replica: SleepingReplica) -> None:
    room, url = Room(), f"http://127.0.0.1:{replica.port}"
    assert room.of([]) == 0
    assert room.of([url]) == AHEAD * 1  # one worker
    replica.kill()
    assert room.of([url]) == AHEAD * 1  # as long as it counts as ready
    assert room.of([]) == 0
    room.close()


def test_one_that_does_not_answer_or_has_no_address_takes_a_few() -> None:
    room = Room()
    assert room.of([f"http://127.0.0.1:{free_port()}", "sim://a", None]) == 3 * UNKNOWN
    room.close()
