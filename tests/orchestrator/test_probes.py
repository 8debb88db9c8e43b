"""What a replica says of itself, as probes hear it."""

import json
from contextlib import closing
from datetime import UTC, datetime

import httpx
import pytest

from orchestrator.probes import Health, HttpProbes

NOTICED = datetime(2026, 11, 20, 12, 2, tzinfo=UTC)


def heard(**said: object) -> Health | None:
    body = json.dumps({"status": "ready", "in_flight": 2, **said}).encode()
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=body))
    with closing(HttpProbes(transport)) as probes:
        return probes.health("http://replica")


def test_a_notice_and_a_recommendation_come_with_its_health() -> None:
    found = heard(reclaim_at="2026-11-20T12:02:00Z", rebalance_at="2026-11-20T13:02:00+01:00")
    assert found == Health(ready=True, draining=False, in_flight=2, reclaim_at=NOTICED, rebalance_at=NOTICED)


@pytest.mark.parametrize("moment", [None, "", "soon", 7, []])
def test_a_notice_that_nobody_understands_does_not_make_it_dead(moment: object) -> None:
    found = heard(reclaim_at=moment)
    assert found == Health(ready=True, draining=False, in_flight=2)
