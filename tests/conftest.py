"""What all tests share."""

import signal

import pytest
from hypothesis import settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # run in the background of a shell, which has what it starts ignore it; what tests start would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)

# how long an example takes is the machine's business: hypothesis' own limit of 200 ms fails on a busy one
settings.register_profile("halve", deadline=None)
settings.load_profile("halve")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Workers begin with what is slow: in the end none is left alone with a long one."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)
