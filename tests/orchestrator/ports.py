"""Ports for what has to be told its port before it listens."""

import random
import socket
from contextlib import suppress
from pathlib import Path

LOWEST, HIGHEST = 20_000, 30_000
#: bound, and not listening: who sets SO_REUSEADDR, as servers do, may listen there, and nobody else is given it
_held: list[socket.socket] = []


def free_port() -> int:
    """One that nobody has, below those that the system hands out to whoever asks for any.

    It stays ours as long as this process lives, while a server there is killed and started again too.
    """
    handed_out = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(LOWEST, max(handed_out, HIGHEST))
        held = socket.socket()
        with suppress(OSError):
            held.bind(("127.0.0.1", port))
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not before: of two who do one would not know
            _held.append(held)
            return port
        held.close()
