"""The public certificate authorities, for clients of whatever address they are given.

Loaded once for the process: 0.7 MiB and 13 ms for each client otherwise, and a daemon has three new ones whenever a
deployment is changed.
"""

import ssl
from functools import cache

import httpx


@cache
def authorities() -> ssl.SSLContext:
    """Read only: it is shared by all threads."""
    return httpx.create_ssl_context(trust_env=False)
