"""What all tests share."""

import signal
from collections import Counter

import pytest
from _pytest.nodeid import NodeId
from hypothesis import settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # run in the background of a shell, which has what it starts ignore it; what tests start would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)

# how long an example takes is the machine's business: hypothesis' own limit of 200 ms fails on a busy one
settings.register_profile("halve", deadline=None)
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
