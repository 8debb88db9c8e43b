"""A batch with a deadline: what cannot be promised is refused, and the real loop keeps what was promised."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator import deployment, spec
from orchestrator.errors import Refused
from orchestrator.jobs import promise, submit
from orchestrator.ledger import deployments, items, jobs, offers
from orchestrator.ledger.jobs import ItemState
from orchestrator.ledger.store import Ledger, open_ledger
from orchestrator.providers.simulated import Outage
from policies.snapshot import Purchase
from tests.orchestrator.batch import folder, numbered
from tests.orchestrator.scene import NOW, SPOT, Scene, always, offer

SPEC = """
name: ocr
model: ppocr
provider: simulated
simulated: {price_per_hour: 1.80, spot_price_per_hour: 0.60, images_per_second: 0.01}
replicas: {min: 0, max: MAX}
schedule: {timezone: Asia/Shanghai, windows: ["Mon-Fri 08:00-21:00"]}
spot: {}
"""
# NOW is Friday 20:00 in Shanghai: an hour is left today


@pytest.fixture
def ledger(tmp_path: Path) -> Callable[..., Ledger]:
    def opened(most: int, instead: tuple[str, str] = ("", "")) -> Ledger:
        found = open_ledger(tmp_path / "home")
        text = SPEC.replace("MAX", str(most)).replace(*instead)
        wanted = spec.parse(text, "ocr.yaml")
        with found.write() as tx:
            deployments.put_up(tx, "ocr", text, "ocr.yaml", NOW)
            offers.record(tx, deployment.simulated_offers(wanted), "provider", NOW)
        deployment.record_simulated_speed(found, wanted, [wanted.simulated.gpu], NOW)
        return found

    return opened


def test_a_deadline_that_can_be_met_is_taken(tmp_path: Path, ledger: Callable[..., Ledger]) -> None:
    due = NOW + timedelta(minutes=50)
    job = submit(ledger(1), None, folder(tmp_path / "in", numbered(20)), tmp_path / "out", [], NOW, due)
    assert job.deadline_at == due


def test_one_that_cannot_is_refused_with_the_earliest(tmp_path: Path, ledger: Callable[..., Ledger]) -> None:
    known = ledger(1)
    source = folder(tmp_path / "in", numbered(90))  # 10,000 s at nine tenths of the speed, and a start
    with pytest.raises(Refused, match=r"90 images cannot be read with certainty by then; .*2026-11-23 09:5. \(CST\)"):
        submit(known, None, source, tmp_path / "out", [], NOW, datetime(2026, 11, 23, 1, tzinfo=UTC))
    with known.read() as tx:
        assert jobs.known(tx) == ()
    assert not (tmp_path / "out").exists()
    assert submit(known, None, source, tmp_path / "out", [], NOW, datetime(2026, 11, 23, 2, tzinfo=UTC)).total == 90
    with pytest.raises(Refused, match="2026-11-23 12:"):  # behind what is in the queue
        submit(known, None, source, tmp_path / "more", [], NOW, datetime(2026, 11, 23, 2, tzinfo=UTC))


def test_more_machines_can_promise_more(tmp_path: Path, ledger: Callable[..., Ledger]) -> None:
    source = folder(tmp_path / "in", numbered(90))
    assert submit(ledger(4), None, source, tmp_path / "out", [], NOW, NOW + timedelta(minutes=55)).total == 90


ONE_MACHINE = {
    "some are up anyway": ("min: 0", "min: 1"),
    "a later window has fewer": ('["Mon-Fri 08:00-21:00"]', '["Fri 08:00-20:02", {when: "Fri 20:02-21:00", max: 1}]'),
}


@pytest.mark.parametrize("why", ONE_MACHINE)
def test_no_more_is_promised_than_one_machine_can(tmp_path: Path, ledger: Callable[..., Ledger], why: str) -> None:
    """Found by a review: it promised for `replicas.max` machines where a batch gets one."""
    source = folder(tmp_path / "in", numbered(90))
    with pytest.raises(Refused, match="cannot be read with certainty"):
        submit(ledger(4, ONE_MACHINE[why]), None, source, tmp_path / "out", [], NOW, NOW + timedelta(minutes=55))


@pytest.mark.parametrize("without_spot", [("spot: {}", ""), (", spot_price_per_hour: 0.60", "")])
def test_without_spot_as_many_are_promised_as_are_launched_for_it(
    tmp_path: Path, ledger: Callable[..., Ledger], without_spot: tuple[str, str]
) -> None:
    source = folder(tmp_path / "in", numbered(90))
    due = NOW + timedelta(minutes=55)
    assert submit(ledger(4, without_spot), None, source, tmp_path / "out", [], NOW, due).total == 90


def test_where_others_wait_without_a_deadline_a_batch_has_one_machine(
    tmp_path: Path, ledger: Callable[..., Ledger]
) -> None:
    known = ledger(4)
    submit(known, None, folder(tmp_path / "first", numbered(1)), tmp_path / "a", [], NOW)
    with pytest.raises(Refused, match="cannot be read with certainty"):
        source = folder(tmp_path / "in", numbered(90))
        submit(known, None, source, tmp_path / "b", [], NOW, NOW + timedelta(minutes=55))


def test_a_window_with_fewer_machines_after_it_is_done_takes_nothing_away(
    tmp_path: Path, ledger: Callable[..., Ledger]
) -> None:
    fewer = ('["Mon-Fri 08:00-21:00"]', '["Fri 08:00-21:00", {when: "Sat 08:00-20:00", max: 1}]')
    source = folder(tmp_path / "in", numbered(90))
    assert submit(ledger(4, fewer), None, source, tmp_path / "out", [], NOW, NOW + timedelta(minutes=55)).total == 90


def test_one_that_no_opening_is_long_enough_for_is_refused(tmp_path: Path, ledger: Callable[..., Ledger]) -> None:
    """Found by a review: it was taken, as if nothing were known."""
    once = ('["Mon-Fri 08:00-21:00"]', '[], open: ["2026-11-23 09:00-10:00"]')
    source = folder(tmp_path / "in", numbered(90))
    with pytest.raises(Refused, match="ocr is not open for long enough to read 90 images"):
        submit(ledger(1, once), None, source, tmp_path / "out", [], NOW, NOW + timedelta(days=30))


def test_what_nobody_has_measured_is_taken_and_no_promise(tmp_path: Path, ledger: Callable[..., Ledger]) -> None:
    known = ledger(1)
    assert not promise.is_unmeasured(known, "ocr", NOW)
    with known.write() as tx:
        tx.exec_driver_sql("DELETE FROM profiles")
    assert promise.is_unmeasured(known, "ocr", NOW)
    source = folder(tmp_path / "in", numbered(90))
    assert submit(known, None, source, tmp_path / "out", [], NOW, NOW + timedelta(minutes=1)).total == 90


def test_one_that_has_passed_is_refused(tmp_path: Path, ledger: Callable[..., Ledger]) -> None:
    source = folder(tmp_path / "in", numbered(1))
    with pytest.raises(Refused, match="has passed already"):
        submit(ledger(1), None, source, tmp_path / "out", [], NOW, NOW)


MINUTE = timedelta(minutes=1)
POOLS = (offer(1, SPOT, 300_000), offer(2, SPOT, 300_000), offer(9, price=1_000_000))
#: both pools come and go, and are gone together for an hour
OUTAGES = tuple(
    Outage(zone=f"sim-{zone}", start=NOW + start * MINUTE, end=NOW + end * MINUTE)
    for zone, start, end in ((1, 20, 60), (2, 35, 130), (1, 70, 135))
)


def read(scene: Scene, job_id: int, seconds: float) -> int:
    """Each ready replica reads two images a second, through the door; returns what is left."""
    count = int(2 * seconds) * len(scene.ready())
    now = scene.clock.now()
    with scene.ledger.write() as tx:
        leased = items.lease(tx, job_id, "test", count, now, now + MINUTE) if count else ()
        done = [items.Step(item=item, state=ItemState.DONE, failures=0) for item in leased]
        items.settle(tx, "test", done, now)
        job = jobs.get(tx, job_id)
    assert job is not None
    minute = now.replace(second=0)
    before = sum(row["images"] for row in scene.door.minutes if row["at"] == minute)
    scene.door.minutes = [row for row in scene.door.minutes if row["at"] != minute][-20:]
    scene.door.minutes.append({"deployment": "ocr", "instance_id": "ocr-1", "at": minute, "images": before + count})
    scene.door.images_per_second = count / seconds
    return job.left


def test_the_loop_meets_it_on_spot_and_on_demand_and_then_rests(home: Path) -> None:
    scene = Scene(
        home,
        offers=POOLS,
        outages=OUTAGES,
        notice_seconds=0.0,
        policy={"schedule": always(0, 2), "start_seconds": 20.0},
    )
    due = NOW + timedelta(hours=2.5)
    with scene.ledger.write() as tx:
        names = [f"{number}.png" for number in range(2 * 3600)]
        job_id = jobs.create(tx, "ocr", home / "in", home / "out", [], names, NOW, due)
    left, bought, reasons = len(names), set(), set()
    while left and scene.clock.now() < due:
        scene.tick()
        bought |= {machine.purchase for machine in scene.machines()}
        reasons |= {plan.target.reason for plan in scene.plans[-1:]}
        assert len(scene.live()) <= 2
        scene.clock.sleep(20)
        scene.longest_tick = 20.0
        left = read(scene, job_id, 20.0)
    assert left == 0
    assert bought == {SPOT, Purchase.ON_DEMAND}
    assert any("spot in sim-1" in reason for reason in reasons)
    with scene.ledger.write() as tx:
        jobs.finish(tx, job_id, "", scene.clock.now())
    scene.door.images_per_second = 0.0
    scene.run(60, 20)
    assert scene.market.running() == (), "a batch that is done is no load to hold machines for"
    (kept,) = (row.memory for row in scene.rows("beliefs") if row.policy == "deadline")
    assert kept["begun"] is None and kept["outlooks"]["T4"]["belief"]["hours"] > 0.5
    scene.settle()
