"""wrk against the door while its replicas come, drain, go and are killed."""

import re
import shutil
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestrator.door import Door, Replica, ServingSet
from tests.orchestrator.door_asked import PATIENCE, in_flight, status
from tests.orchestrator.door_upstream import Upstream, upstream
from tests.orchestrator.tiny import until

SCRIPT = Path(__file__).with_name("door.lua")
#: it ends when all has happened
AT_MOST_SECONDS = 120

pytestmark = [
    pytest.mark.slow,
    pytest.mark.wrk,
    pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed (Debian: apt-get install wrk)"),
]


def serving(*upstreams: Upstream, starting: bool = True) -> ServingSet:
    replicas = tuple(Replica(id=one.name, url=one.url) for one in upstreams)
    return ServingSet(deployment="ocr", open=True, starting=starting, replicas=replicas)


def answered(door: Door) -> int:
    return sum(status(door)["totals"]["statuses"].values())


def some_more(door: Door) -> None:
    """Let the load go on for a little."""
    before = answered(door)
    until(lambda: answered(door) > before + 100)


def test_no_request_fails_over_add_drain_remove_and_kill(tmp_path: Path) -> None:
    door = Door(tmp_path, "ocr")
    url = door.ensure("127.0.0.1:0").url
    command = [
        "wrk",
        "-t",
        "2",
        "-c",
        "24",
        "-d",
        f"{AT_MOST_SECONDS}s",
        "--timeout",
        f"{PATIENCE:.0f}s",
        "-s",
        str(SCRIPT),
        url,
    ]
    with ExitStack() as stack:
        stack.callback(door.close)
        stack.callback(door.stop)
        a, b, c, d = (stack.enter_context(upstream(name)) for name in "abcd")
        door.publish(serving(a))
        wrk = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(wrk.kill)
        until(lambda: answered(door) > 100)
        door.publish(serving(a, b))  # add
        some_more(door)
        door.publish(serving(b))  # drain: withdrawn first, then told
        a.tell("drain")
        until(lambda: in_flight(door, "a") == 0)
        a.kill()  # remove
        some_more(door)
        door.publish(serving(b, c))
        some_more(door)
        b.kill()  # nobody has told the door
        some_more(door)
        door.publish(serving(c))
        some_more(door)
        c.kill()  # the last one: what comes is held
        until(lambda: status(door)["waiting"] > 0)
        door.publish(serving(d))
        some_more(door)
        assert wrk.poll() is None, "all of it under load"
        wrk.send_signal(signal.SIGINT)  # it says what it has counted
        said, _ = wrk.communicate(timeout=2 * PATIENCE)
        totals = status(door)["totals"]
    found = re.search(r"RESULT requests=(\d+) connect=0 read=0 write=0 status=0 timeout=0 ", said)
    assert found is not None, said
    assert int(found[1]) > 600
    assert set(totals["statuses"]) == {"200"}
    assert totals["again"] > 0 and totals["held"] > 0
