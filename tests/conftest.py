"""What all tests share."""

import os
import signal
from collections import Counter

import pytest
from _pytest.nodeid import NodeId
from hypothesis import HealthCheck, settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # run in the background of a shell, which has what it starts ignore it; what tests start would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes is the machine's business: hypothesis' own limits fail on a busy one. CI answers for what it
# is given, with the same examples each time; new ones are looked for wherever else the tests run.
settings.register_profile(
    "halve", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("halve")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each test has an id of its own, with its group behind it, and workers begin with what is slow.

    Of those that bear one id xdist runs one, and schemathesis gives all operations that of their function. xdist writes
    the group where pytest 9.2 no longer looks for it.
    """
    for item in items:
        parent, _, last = item.nodeid.rpartition("::")
        group = item.get_closest_marker("xdist_group")
        last = item.name if last == getattr(item, "originalname", last) else last
        if hasattr(config, "workerinput") and group is not None and "@" not in last:
            last += f"@{group.args[0]}"
        item._id = NodeId.parse(f"{parent}::{last}")
    twice = [name for name, times in Counter(item.nodeid for item in items).items() if times > 1]
    assert not twice, f"several tests of one id, of which xdist would run one: {twice}"
    if hasattr(config, "workerinput"):  # in the end none is left alone with a long one
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)
