"""Who goes first, who gets how much, and who has had enough."""

import asyncio
import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.door import Replica, ServingSet
from orchestrator.door.limits import Limits
from orchestrator.door.rate_limit import Bucket
from orchestrator.door.roster import WAITING_BATCH_MAX, WAITING_MAX
from orchestrator.door.serving import RateLimit
from orchestrator.doorway import HttpDoor, published
from orchestrator.ledger import offers
from orchestrator.ledger.store import open_ledger
from orchestrator.spec import parse
from orchestrator.weights import weighed
from tests.orchestrator.door_inside import Inside, door, engine, until
from tests.orchestrator.report_ledger import Rows
from tests.orchestrator.scene import MODEL, SPEED


def recognition(*headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"POST /v1/ocr HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}Content-Length: 1\r\n\r\nx".encode()


BATCH = recognition("X-Halve-Priority: batch")


async def statuses(inside: Inside, request: bytes, times: int) -> list[int]:
    said = await asyncio.gather(*(inside.ask(request) for _ in range(times)))
    return [int(one.split(b" ", 2)[1]) for one in said]


def test_a_batch_takes_half_the_room_and_who_is_online_goes_first(tmp_path: Path) -> None:
    order: list[str] = []

    async def replica(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        order.append("batch" if b"X-Halve-Priority: batch" in head else "online")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(replica, "127.0.0.1", 0, backlog=1000)
        async with door(tmp_path) as inside:
            roster = inside.front.roster
            inside.publish(starting=True)
            batch = [asyncio.create_task(statuses(inside, BATCH, 1)) for _ in range(WAITING_BATCH_MAX)]
            await until(lambda: roster.waiting == WAITING_BATCH_MAX)
            assert await statuses(inside, BATCH, 2) == [503, 503]
            online = [
                asyncio.create_task(statuses(inside, recognition(), 1)) for _ in range(WAITING_MAX - WAITING_BATCH_MAX)
            ]
            await until(lambda: roster.waiting == WAITING_MAX)
            assert await statuses(inside, recognition(), 2) == [503, 503]
            inside.publish(Replica(id="a", url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
            assert await asyncio.gather(*batch, *online) == [[200]] * WAITING_MAX
        server.close()
        late = [place for place, who in enumerate(order) if who == "online"]
        assert max(late) < len(online) + 8  # but for a few that overtook on the way to the replica

    asyncio.run(run())


def test_who_waits_too_long_is_told_when_to_come_again(tmp_path: Path) -> None:
    async def run() -> None:
        async with door(tmp_path, Limits(hold=0.3)) as inside:
            inside.publish(starting=True)
            said = await inside.ask(recognition("X-Request-Id: mine"))
            assert said.startswith(b"HTTP/1.1 503 ") and b"\r\nX-Request-Id: mine\r\n" in said
            assert re.search(rb"\r\nRetry-After: [1-9]\d*\r\n", said)
            assert inside.front.roster.waiting == 0

    asyncio.run(run())


def test_at_its_hour_it_opens_although_nobody_says_so(tmp_path: Path) -> None:
    """The daemon may be away at that moment: what was promised for it waits for a replica."""
    now = datetime.now(UTC)
    opens_at = now + timedelta(hours=1)

    async def run() -> None:
        nonlocal now
        async with door(tmp_path, now=lambda: now) as inside, engine("a") as a:
            inside.publish(open=False, opens_at=opens_at)
            said = await inside.ask(recognition())
            seconds = re.search(rb"\r\nRetry-After: (\d+)\r\n", said)
            assert said.startswith(b"HTTP/1.1 503 ") and seconds is not None
            assert (opens_at - datetime.now(UTC)).total_seconds() <= int(seconds[1]) <= 3600
            now = opens_at
            held = asyncio.create_task(inside.ask(recognition()))
            await until(lambda: inside.front.roster.waiting == 1)
            inside.publish(a)
            assert b'"replica": "a"' in await held

    asyncio.run(run())


def test_a_bucket_lets_through_what_it_should() -> None:
    now = 100.0
    bucket = Bucket(lambda: now)
    limit = RateLimit(per_second=2.0, burst=3)
    assert [bucket.wait(limit) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    now += 0.25
    assert bucket.wait(limit) == pytest.approx(0.25)
    passed = 0
    for _ in range(1000):
        now += 0.01
        passed += bucket.wait(limit) == 0.0
    assert passed == pytest.approx(20, abs=1)
    now += 1000
    assert [bucket.wait(limit) for _ in range(4)][:3] == [0.0, 0.0, 0.0]  # no more than a burst is saved up
    assert bucket.wait(limit) > 0
    assert bucket.wait(replace(limit, burst=1)) == 0.0  # another limit starts afresh
    assert bucket.wait(None) == 0.0


def test_more_than_the_rate_limit_is_sent_away_and_is_no_demand(tmp_path: Path) -> None:
    async def run() -> None:
        async with door(tmp_path) as inside, engine("a") as a:
            inside.publish(a, rate_limit=RateLimit(per_second=0.01, burst=3))
            begun = time.monotonic()
            assert sorted(await statuses(inside, recognition(), 5)) == [200, 200, 200, 429, 429]
            said = await inside.ask(recognition())
            seconds = re.search(rb"\r\nRetry-After: (\d+)\r\n", said)
            assert b"\r\nX-Request-Id: " in said and seconds is not None
            assert 100 - (time.monotonic() - begun) <= int(seconds[1]) <= 100
            assert await statuses(inside, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 3) == [200] * 3
            assert await statuses(inside, BATCH, 3) == [200] * 3
            minutes = inside.front.counts.loads(None).minutes
            assert (sum(one.requests for one in minutes), sum(one.refused for one in minutes)) == (6, 0)
            assert inside.front.counts.totals.statuses == {200: 9, 429: 3}

    asyncio.run(run())


def test_the_rate_limit_of_the_spec_reaches_the_door_without_closing_it(tmp_path: Path) -> None:
    through = HttpDoor(tmp_path, "ocr")
    text = "name: ocr\nmodel: ppocr\nprovider: local\ndoor: {listen: 127.0.0.1:0%s}\n"
    try:
        opened = []
        for said in ("", ", rate_limit: {per_second: 2.5}", ", rate_limit: {per_second: 2.5, burst: 40}", ""):
            opened.append(through.ensure(parse(text % said, "spec.yaml")))
            through.publish(published(tmp_path, "ocr") or _serving())
        assert len(set(opened)) == 1
        limits = []
        for said in (", rate_limit: {per_second: 2.5}", ", rate_limit: {per_second: 2.5, burst: 40}", ""):
            through.ensure(parse(text % said, "spec.yaml"))
            through.publish(_serving())
            now = published(tmp_path, "ocr")
            assert now is not None
            limits.append(now.rate_limit)
        assert limits == [RateLimit(per_second=2.5, burst=3), RateLimit(per_second=2.5, burst=40), None]
    finally:
        through.stop()
        through.close()


def test_replicas_weigh_what_their_gpus_are_measured_to_read(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    rows = Rows(ledger)
    ids = [rows.machine(gpu=gpu) for gpu in ("T4", "L4", "RTX 3060", "T4")]
    replicas = tuple(Replica(id=one, url="http://127.0.0.1:1") for one in (*ids, "unknown"))
    assert weighed(ledger, "ocr", MODEL, replicas) == replicas  # nobody measured any
    with ledger.write() as tx:
        for gpu, speed in (("T4", 20.0), ("L4", 60.0)):
            offers.add_profile(tx, replace(SPEED, gpu=gpu, images_per_second=speed), datetime(2026, 1, 1, tzinfo=UTC))
    usual = (20 + 60 + 20) / 3
    weights = [one.weight for one in weighed(ledger, "ocr", MODEL, replicas)]
    assert weights == [20, 60, pytest.approx(usual), 20, pytest.approx(usual)]
    through = HttpDoor(tmp_path, "ocr", lambda them: weighed(ledger, "ocr", MODEL, them))
    through.publish(replace(_serving(), replicas=replicas))
    said = published(tmp_path, "ocr")
    assert said is not None and [one.weight for one in said.replicas] == weights
    through.close()


def _serving() -> ServingSet:
    return ServingSet(deployment="ocr", open=False)
