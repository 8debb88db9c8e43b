"""What a process holds of the system's memory once it has freed what it used. In processes of their own: each heap has
its history."""

import ctypes
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="no glibc here: its heap has its own rules"
)

BEGIN = """
import psutil, random, sys
from orchestrator import heap

def held():
    return psutil.Process().memory_info().rss >> 20

drawn = random.Random(1)

def work(least, most):
    \"\"\"Some 200 MiB in blocks between which something small stays in use.\"\"\"
    blocks, stay, left = [], [], 200 * 2**20
    while left > 0:
        blocks.append(b"x" * drawn.randint(least, most))
        stay.append(b"x" * (least // 10))
        left -= len(blocks[-1])
    return stay
"""


def said(program: str) -> list[int]:
    """What a process prints, as numbers."""
    found = subprocess.run([sys.executable, "-c", BEGIN + program], capture_output=True, text=True, check=True)
    return [int(word) for word in found.stdout.split()]


def test_what_lies_between_things_in_use_is_given_back() -> None:
    before, freed, given = said(
        "print(held()); stay = work(10_000, 90_000); print(held()); heap.give_back(); print(held())"
    )
    assert freed - before > 150  # of 200 that nobody uses
    assert given - before < 50


LONG = "last = b'x' * (20 << 20); del last; print(held()); stay = work(600_000, 1_000_000); print(held())"


def test_long_blocks_are_the_system_s_again_at_once() -> None:
    """After one of 20 MiB, glibc would take shorter ones from the heap for ever."""
    before, freed = said(LONG)
    assert freed - before > 150
    before, freed = said(f"heap.settle(); {LONG}")
    assert freed - before < 50


CLIENTS = """
from orchestrator.executors.http import HttpExecutor
from orchestrator.executors.room import Room
from orchestrator.probes import HttpProbes

def opened():
    return HttpProbes(), Room(), HttpExecutor("http://127.0.0.1:1/v1/ocr")

first = opened()
print(held())
more = [opened() for _ in range(40)]
print(held())
"""


def test_a_deployment_s_connections_cost_next_to_nothing() -> None:
    """Each client of its own would load all public authorities: 80 MiB for these."""
    before, opened = said(CLIENTS)
    assert opened - before < 20
