"""What `halve status` says of the runaway bound and of pools that are left alone, and how it looks on a terminal."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator import deployment
from orchestrator.clock import VirtualClock
from orchestrator.holder import identity
from orchestrator.ledger import backup, deployments, fleet, leases, offers
from orchestrator.ledger.store import Ledger, open_ledger
from orchestrator.providers.simulated import Conditions, Kind, Outage, SimulatedProvider, Trouble
from orchestrator.scheduler import tick
from orchestrator.status import status
from orchestrator.world import World
from policies.lifecycle import Status
from policies.plan import Launch
from policies.snapshot import Purchase
from tests.orchestrator.bent import Hiding
from tests.orchestrator.screen import plain, screen
from tests.orchestrator.test_control import done, halve

START = datetime(2026, 11, 20, 8, tzinfo=UTC)
LATER = START + timedelta(hours=9)
DROUGHT = Trouble(kind=Kind.DROUGHT, start=START, end=LATER)
ON_DEMAND = "simulated: {price_per_hour: 1.80, boot: 1s, zones: 40}"
SPOT = "simulated: {price_per_hour: 1.80, spot_price_per_hour: 0.60, boot: 1s, zones: 1}\nspot: {}"


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    opened = open_ledger(home)
    yield opened
    opened.close()


def opened(home: Path, ledger: Ledger, clock: VirtualClock, market: str, **conditions: Any) -> World:
    """A deployment in a market that behaves like that."""
    text = f"name: ocr\nmodel: ppocr\nprovider: simulated\n{market}\n"
    with ledger.write() as tx:
        deployments.put_up(tx, "ocr", text, "ocr.yaml", clock.now())
        row = deployments.get(tx, "ocr")
    assert row is not None
    running = deployment.open_running(home, clock, ledger, row)
    market_offers = deployment.simulated_offers(running.spec)
    provider = SimulatedProvider(clock, Conditions(offers=market_offers, boot_seconds=1.0, **conditions))
    return replace(running.world, providers={"simulated": provider}, probes=provider)


def shown(home: Path, ledger: Ledger, clock: VirtualClock) -> dict[str, Any]:
    (found,) = status(home, ledger, clock.now())["deployments"]
    return dict(found)


def test_the_runaway_bound_is_said_and_when_it_ends(home: Path, ledger: Ledger) -> None:
    clock = VirtualClock(START)
    world = opened(home, ledger, clock, ON_DEMAND, troubles=(DROUGHT,))
    for _ in range(10):
        tick(world)
        clock.sleep(1)
    assert shown(home, ledger, clock)["launches"] == {"last_hour": 10, "bound": 30, "resumes_at": None}
    for _ in range(25):
        tick(world)
        clock.sleep(1)
    said = shown(home, ledger, clock)
    assert said["launches"] == {"last_hour": 30, "bound": 30, "resumes_at": "2026-11-20T09:00:00Z"}
    assert any("runaway bound" in note for note in said["notes"])
    clock.jump(START + timedelta(hours=1, seconds=-1))
    assert not tick(world).actions
    clock.sleep(1)
    assert shown(home, ledger, clock)["launches"]["resumes_at"] is None
    assert tick(world).actions  # it is true


def test_a_clock_that_was_set_back_counts_no_launches_of_the_future(home: Path, ledger: Ledger) -> None:
    clock = VirtualClock(START)
    tick(opened(home, ledger, clock, ON_DEMAND))
    clock.jump(START - timedelta(minutes=10))
    assert shown(home, ledger, clock)["launches"]["last_hour"] == 0


def test_an_offer_that_refuses_is_named_with_its_words_and_its_time(home: Path, ledger: Ledger) -> None:
    clock = VirtualClock(START)
    world = opened(home, ledger, clock, ON_DEMAND.replace("40", "1"), troubles=(DROUGHT,))
    assert shown(home, ledger, clock)["left_alone"] == []
    for seconds, refusals in ((10, 1), (20, 2), (40, 3)):
        asked_at = clock.now()
        assert tick(world).actions
        (pool,) = shown(home, ledger, clock)["left_alone"]
        until = asked_at + timedelta(seconds=seconds)
        assert pool == {
            "offer": "simulated/ocr/sim-1/rtx-3060/on_demand",
            "until": f"{until:%Y-%m-%dT%H:%M:%SZ}",
            "refusals": refusals,
            "why": f"refused {refusals} time{'s' * (refusals > 1)}: NoCapacity: no capacity in sim-1",
        }
        clock.jump(until)
        assert shown(home, ledger, clock)["left_alone"] == []


def test_an_end_that_the_provider_forgot_is_said_to_who_pays(home: Path, ledger: Ledger) -> None:
    clock = VirtualClock(START)
    world = opened(home, ledger, clock, ON_DEMAND, listed_after_end_seconds=60.0)
    market = world.providers["simulated"]
    assert isinstance(market, SimulatedProvider)
    for _ in range(3):
        tick(world)
        clock.sleep(5)
    assert shown(home, ledger, clock)["ends_unseen"] == []
    (token,) = market.running()
    market.crash(token)
    clock.sleep(3600)  # nobody looks, and the end is listed for a minute
    missed = clock.now()
    for _ in range(4):
        tick(world)
        clock.sleep(5)
    assert shown(home, ledger, clock)["ends_unseen"] == [
        {"instance": "ocr-1", "booked_until": f"{missed:%Y-%m-%dT%H:%M:%SZ}"}
    ]
    clock.jump(START + timedelta(days=30))
    assert shown(home, ledger, clock)["ends_unseen"] == [], "it is another month's"


def test_an_end_that_is_seen_late_is_no_news(home: Path, ledger: Ledger) -> None:
    clock = VirtualClock(START)
    world = opened(home, ledger, clock, ON_DEMAND)
    market = world.providers["simulated"]
    assert isinstance(market, SimulatedProvider)
    for _ in range(3):
        tick(world)
        clock.sleep(5)
    (token,) = market.running()
    hidden = replace(world, providers={"simulated": Hiding(market, {token})})
    for _ in range(4):
        tick(hidden)
        clock.sleep(5)
    assert len(shown(home, ledger, clock)["ends_unseen"]) == 1
    tick(world)
    assert shown(home, ledger, clock)["ends_unseen"] == []


def test_another_deployments_refusals_are_not_told(home: Path, ledger: Ledger) -> None:
    clock = VirtualClock(START)
    tick(opened(home, ledger, clock, ON_DEMAND, troubles=(DROUGHT,)))
    with ledger.write() as tx:
        text = "{name: aside, model: ppocr, provider: simulated, simulated: {price_per_hour: 1.80}}"
        deployments.put_up(tx, "aside", text, "a.yaml", START)
    aside, ocr = status(home, ledger, clock.now())["deployments"]
    assert (aside["left_alone"], len(ocr["left_alone"])) == ([], 1)


def test_a_spot_pool_that_took_a_machine_back_is_named(home: Path, ledger: Ledger) -> None:
    """The placement policy has a memory of its own; what is shown is what it does."""
    clock = VirtualClock(START)
    outage = Outage(zone="sim-1", start=START + timedelta(minutes=1), end=START + timedelta(minutes=2), notice=False)
    world = opened(home, ledger, clock, SPOT, outages=(outage,))
    found: list[dict[str, Any]] = []
    for _ in range(40):
        tick(world)
        found = shown(home, ledger, clock)["left_alone"]
        if found:
            break
        clock.sleep(5)
    (pool,) = found
    assert (pool["offer"], pool["why"]) == ("simulated/ocr/sim-1/rtx-3060/spot", "it took a machine back")
    until = datetime.fromisoformat(pool["until"])
    asked: list[datetime] = []
    while not asked:
        plan = tick(world)
        asked += [clock.now() for one in plan.actions if isinstance(one, Launch) and one.offer.id == pool["offer"]]
        assert clock.now() < until + timedelta(minutes=1)
        clock.sleep(1)
    assert asked[0] >= until
    assert shown(home, ledger, clock)["left_alone"] == []


def test_a_spot_pool_that_is_to_be_left_by_its_providers_word_is_named(home: Path, ledger: Ledger) -> None:
    clock = VirtualClock(START)
    world = opened(home, ledger, clock, SPOT)
    for _ in range(40):
        tick(world)
        clock.sleep(100)
    with ledger.write() as tx:
        (machine, *_) = [one for one in fleet.machines(tx, "ocr") if one.purchase is Purchase.SPOT]
        fleet.save(tx, replace(machine, rebalance_at=clock.now()))
    tick(world)
    (pool,) = shown(home, ledger, clock)["left_alone"]
    assert (pool["offer"], pool["why"]) == (machine.offer_id, "its provider recommends to leave it")
    assert pool["until"] == f"{clock.now() + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"


def test_the_contracts_keys_are_there_whatever_else_is(home: Path, ledger: Ledger) -> None:
    clock = VirtualClock(START)
    tick(opened(home, ledger, clock, ON_DEMAND))
    with ledger.write() as tx:
        leases.take(tx, identity(), os.getpid(), START + timedelta(seconds=15))
        deployments.put_up(tx, "broken", "{name: broken, provider: moon}", "b.yaml", START)
    said = json.loads(json.dumps(status(home, ledger, START)))
    assert {"daemon", "deployments"} <= said.keys()
    assert {"pid", "generation", "last_tick_at", "tick_errors", "last_error"} <= said["daemon"].keys()
    for one in said["deployments"]:
        keys = {"name", "open", "next_edge_at", "target", "door", "instances", "spend", "launches", "left_alone"}
        assert keys | {"ends_unseen"} <= one.keys()
    assert {"month_micros", "currency"} <= said["deployments"][0]["spend"].keys()


# on a terminal


def test_it_fits_a_terminal_of_80_columns_and_is_whole_in_a_pipe(home: Path, ledger: Ledger) -> None:
    now = datetime.now(UTC)
    clock = VirtualClock(now - timedelta(seconds=30))
    drought = replace(DROUGHT, start=now - timedelta(hours=1), end=now + timedelta(hours=1), zone="sim-1")
    world = opened(home, ledger, clock, ON_DEMAND.replace("40", "2"), troubles=(drought,))
    for _ in range(3):
        tick(world)
        clock.sleep(9)
    with ledger.write() as tx:
        ledger.generation = leases.take(tx, identity(), os.getpid(), now + timedelta(hours=9))
        trouble = "ocr: port 7860 on 127.0.0.1 is taken by somebody else, and that is a line that does not fit"
        leases.ticked(tx, now, trouble)
        for _ in range(11):  # it is left alone for longer than this takes
            offers.refused(tx, "simulated/ocr/sim-1/rtx-3060/on_demand", "NoCapacity: no capacity in sim-1", now)
        (machine,) = fleet.machines(tx, "ocr")
        fleet.save(tx, replace(machine, status=Status.LOST, missing_since=now))
    copied_at = now - timedelta(hours=1)
    backup.keep(backup.place(home), home, copied_at)
    lines = plain(screen(home, "status"))
    assert max(map(len, lines)) <= 80, lines
    assert lines[1].startswith("  1 tick failed, the last: ")
    assert lines[2].startswith("  ")  # it goes on under its own beginning
    assert f"ledger copied {copied_at:%Y-%m-%d %H:%M:%S} UTC" in lines
    assert any(line.strip() == "2 of at most 30 launches in the last hour" for line in lines), lines
    at = lines.index("  left alone: simulated/ocr/sim-1/rtx-3060/on_demand")
    assert lines[at + 1].startswith("    until ")
    assert any(line.split()[:1] == ["ocr-2"] for line in lines)
    piped = done(halve(home, "status"))
    line, unseen = [line for line in piped.splitlines() if "until" in line]
    assert unseen == f"  nobody saw the end of ocr-2: it is booked until {now:%Y-%m-%d %H:%M:%S} UTC, see its bill"
    assert line.endswith(" UTC, refused 12 times: NoCapacity: no capacity in sim-1")


def test_a_notice_and_a_recommendation_stand_beside_their_machine(home: Path, ledger: Ledger) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    clock = VirtualClock(now - timedelta(seconds=30))
    world = opened(home, ledger, clock, f"{ON_DEMAND}\nreplicas: {{min: 3, max: 3}}")
    for _ in range(3):
        tick(world)
        clock.sleep(9)
    with ledger.write() as tx:
        one, other, calm = fleet.machines(tx, "ocr")
        fleet.save(tx, replace(one, reclaim_at=now, rebalance_at=now))
        fleet.save(tx, replace(other, rebalance_at=now))
    taken, leaving = f"taken back {now:%Y-%m-%d %H:%M:%S} UTC", f"leaving recommended since {now:%Y-%m-%d %H:%M:%S} UTC"
    piped = done(halve(home, "status", COLUMNS="200")).splitlines()
    at = next(place for place, line in enumerate(piped) if line.split()[:1] == [one.id])
    assert piped[at].rstrip().endswith(taken) and piped[at + 1].strip() == leaving
    assert piped[at + 2].split()[0] == other.id and piped[at + 2].rstrip().endswith(leaving)
    assert piped[at + 3].split() == [calm.id, "simulated", "RTX", "3060", "on", "demand", str(calm.status)]
    lines = plain(screen(home, "status"))
    assert max(map(len, lines)) <= 80, lines
    assert {word for line in lines for word in line.split()} >= set(f"{taken} {leaving}".split())
    said = {one["id"]: one for one in shown(home, ledger, clock)["instances"]}
    moment = f"{now:%Y-%m-%dT%H:%M:%SZ}"
    assert (said[one.id]["reclaim_at"], said[one.id]["rebalance_at"]) == (moment, moment)
    assert (said[other.id]["reclaim_at"], said[other.id]["rebalance_at"]) == (None, moment)


def test_of_many_that_are_left_alone_a_few_are_shown(home: Path, ledger: Ledger) -> None:
    now = datetime.now(UTC)
    clock = VirtualClock(now - timedelta(seconds=5))
    drought = replace(DROUGHT, start=now - timedelta(hours=1), end=now + timedelta(hours=1))
    world = opened(home, ledger, clock, ON_DEMAND, troubles=(drought,))
    for _ in range(9):
        tick(world)
        with ledger.write() as tx:
            for offer in shown(home, ledger, clock)["left_alone"]:
                for _ in range(8):  # for longer than this takes
                    offers.refused(tx, offer["offer"], "none", clock.now())
    said = done(halve(home, "status"))
    assert said.count("left alone: ") == 4
    assert "and 5 more are left alone, the last until" in said
