"""How AWS is asked. Who we are, where AWS is and its endpoint are the usual AWS environment's affair."""

import os
from collections.abc import Iterator
from functools import lru_cache
from threading import Lock
from typing import Any

CONNECT_SECONDS = 5
ANSWER_SECONDS = 30
#: of calls that only look, by the SDK's standard mode
ATTEMPTS = 4
#: rows of one page, where the service lets us choose
PAGE = 200
_ONE_AT_A_TIME = Lock()  # a session is not made for several threads; its clients are


def client(service: str, region: str, *, attempts: int = ATTEMPTS) -> Any:
    """A client of one service in one region. Safe to use from several threads. Raises botocore's errors."""
    surroundings = (os.environ.get(name, "") for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_ACCESS_KEY_ID"))
    with _ONE_AT_A_TIME:
        return _client(service, region, attempts, tuple(surroundings))


def launching(region: str) -> Any:
    """EC2 asked once: EC2 calls a lack of capacity a server error, which retries would only make us wait for."""
    return client("ec2", region, attempts=1)


def paged(ec2: Any, operation: str, key: str, **arguments: Any) -> Iterator[Any]:
    """Every row of a listing, page after page."""
    for page in ec2.get_paginator(operation).paginate(**arguments):
        yield from page[key]


@lru_cache(maxsize=64)
def _client(service: str, region: str, attempts: int, surroundings: tuple[str, ...]) -> Any:
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=ANSWER_SECONDS,
        retries={"mode": "standard", "total_max_attempts": attempts},
        user_agent_extra="halve",
    )
    return _session(surroundings).client(service, region_name=region, config=config)


@lru_cache(maxsize=4)
def _session(surroundings: tuple[str, ...]) -> Any:
    import boto3

    return boto3.session.Session()
