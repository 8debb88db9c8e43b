"""Ports for what has to be told its port before it listens."""

import random
import socket
from contextlib import suppress
from pathlib import Path

LOWEST, HIGHEST = 20_000, 30_000


def free_port() -> int:
    """One that nobody has, below those that the system hands out to whoever asks for any: still free a while later."""
    handed_out = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(LOWEST, max(handed_out, HIGHEST))
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
