"""The SQL of jobs and items, held against a model of it in memory."""

import shutil
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from orchestrator.executors import Outcome, Verdict
from orchestrator.jobs.retry import FAILURES_MAX, next_step
from orchestrator.ledger import items, jobs
from orchestrator.ledger import tables as t
from orchestrator.ledger.items import Item, Step, given_back
from orchestrator.ledger.jobs import ItemState, State
from orchestrator.ledger.store import Ledger, Stale
from tests.orchestrator.batch import NOW, find, generation, opened

LEASE = timedelta(seconds=60)
ME, OTHER = "g0000000001.me", "g0000000001.other"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return opened(tmp_path)


def created(ledger: Ledger, count: int, deployment: str = "ocr") -> int:
    names = [f"{number}.png" for number in range(1, count + 1)]
    with ledger.write() as tx:
        return jobs.create(tx, deployment, Path("/in"), Path(f"/out-{deployment}"), ("甲方",), names, NOW)


def leased(
    ledger: Ledger, job_id: int, limit: int = 10, owner: str = ME, now: datetime = NOW, *, suspects: bool = False
) -> list[Item]:
    with ledger.write() as tx:
        return items.lease(tx, job_id, owner, limit, now, now + LEASE, suspects=suspects)


def settled(ledger: Ledger, *steps: Step, owner: str = ME, now: datetime = NOW) -> tuple[Step, ...]:
    with ledger.write() as tx:
        return items.settle(tx, owner, steps, now)


def done(item: Item) -> Step:
    return Step(item=item, state=ItemState.DONE, failures=item.failures)


def test_a_job_comes_back_as_it_was_submitted(ledger: Ledger) -> None:
    job = find(ledger, created(ledger, 3))
    assert (job.source, job.destination, job.fields) == (Path("/in"), Path("/out-ocr"), ("甲方",))
    assert (job.state, job.total, job.done, job.failed, job.left) == (State.RUNNING, 3, 0, 0, 3)


def test_items_go_out_first_come_first_and_once(ledger: Ledger) -> None:
    job_id = created(ledger, 5)
    assert [item.number for item in leased(ledger, job_id, 2)] == [1, 2]
    assert [item.name for item in leased(ledger, job_id, 9, OTHER)] == ["3.png", "4.png", "5.png"]
    assert leased(ledger, job_id, 9) == []


def test_a_late_acknowledgement_from_a_lost_owner_changes_nothing(ledger: Ledger) -> None:
    job_id = created(ledger, 1)
    (late,) = leased(ledger, job_id)
    later = NOW + 2 * LEASE
    with ledger.write() as tx:
        assert items.reclaim(tx, "g0000000001", later) == 1
    (again,) = leased(ledger, job_id, owner=OTHER, now=later)
    assert settled(ledger, done(late)) == ()
    with ledger.read() as tx:
        assert items.held(tx, ME, [late]) == frozenset()
        assert items.held(tx, OTHER, [again]) == {again.key}
    assert find(ledger, job_id).done == 0
    assert len(settled(ledger, done(again), owner=OTHER)) == 1
    assert settled(ledger, done(again), owner=OTHER) == ()  # nor does the same one said twice
    assert find(ledger, job_id).done == 1


def test_the_same_owner_is_fenced_by_its_attempt(ledger: Ledger) -> None:
    job_id = created(ledger, 1)
    (first,) = leased(ledger, job_id)
    settled(ledger, *given_back([first]))
    (second,) = leased(ledger, job_id)
    assert second.attempt == first.attempt + 1
    assert settled(ledger, done(first)) == ()
    assert settled(ledger, done(second)) == (done(second),)


def test_nobody_settles_what_another_holds(ledger: Ledger) -> None:
    (item,) = leased(ledger, created(ledger, 1))
    assert settled(ledger, done(item), owner=OTHER) == ()
    assert settled(ledger, done(item)) == (done(item),)


def test_what_failed_goes_behind_what_never_went(ledger: Ledger) -> None:
    job_id = created(ledger, 3)
    (first,) = leased(ledger, job_id, 1)
    settled(ledger, next_step(first, Outcome(verdict=Verdict.FAULT, reason="why"), NOW))
    later = NOW + timedelta(minutes=1)
    assert [item.number for item in leased(ledger, job_id, 1, now=later)] == [2]
    assert [item.number for item in leased(ledger, job_id, 9, now=later)] == [1, 3]


def test_items_of_an_older_generation_are_taken_over_at_once(ledger: Ledger) -> None:
    job_id = created(ledger, 2)
    leased(ledger, job_id, 1, "g0000000009.dead")
    leased(ledger, job_id, 1, "g0000000010.live")
    with ledger.write() as tx:
        assert items.reclaim(tx, "g0000000010", NOW) == 1
    assert [item.number for item in leased(ledger, job_id, owner="g0000000010.live")] == [1]


def test_an_item_whose_owners_keep_dying_is_handed_out_alone(ledger: Ledger) -> None:
    job_id = created(ledger, 1)
    for death in range(items.DEATHS):
        assert len(leased(ledger, job_id, owner=f"g000000000{death}.x")) == 1
        with ledger.write() as tx:
            items.reclaim(tx, "g0000000009", NOW)
    assert leased(ledger, job_id) == []
    assert [item.suspect for item in leased(ledger, job_id, suspects=True)] == [True]


def test_renewing_holds_what_is_mine_and_nothing_else(ledger: Ledger) -> None:
    job_id = created(ledger, 2)
    (mine,) = leased(ledger, job_id, 1)
    (theirs,) = leased(ledger, job_id, 1, OTHER)
    later = NOW + 2 * LEASE
    with ledger.write() as tx:
        items.renew(tx, ME, [mine, theirs], later + LEASE)
        assert items.reclaim(tx, "g0000000001", later) == 1
        assert items.held(tx, ME, [mine]) == {mine.key}


@pytest.mark.parametrize("pause", ["paused", "cancelled"])
def test_nothing_is_handed_out_of_a_job_that_does_not_run(ledger: Ledger, pause: str) -> None:
    job_id = created(ledger, 2)
    with ledger.write() as tx:
        assert jobs.pause(tx, job_id, "") if pause == "paused" else jobs.cancel(tx, job_id, NOW)
    assert leased(ledger, job_id) == []
    with ledger.read() as tx:
        assert items.leasable(tx, job_id, NOW) == frozenset()
        assert jobs.demand(tx, "ocr", NOW) == ()


def test_what_is_under_way_counts_when_paused_and_not_when_cancelled(ledger: Ledger) -> None:
    job_id = created(ledger, 2)
    first, second = leased(ledger, job_id)
    with ledger.write() as tx:
        jobs.pause(tx, job_id, "")
    assert len(settled(ledger, done(first))) == 1
    with ledger.write() as tx:
        jobs.cancel(tx, job_id, NOW)
    assert settled(ledger, done(second)) == ()
    assert (find(ledger, job_id).done, find(ledger, job_id).finished_at) == (1, NOW)


def test_a_job_that_paused_itself_never_overrules_its_user(ledger: Ledger) -> None:
    job_id = created(ledger, 1)
    with ledger.write() as tx:
        assert jobs.pause(tx, job_id, "no room", NOW + LEASE)
        assert jobs.pause(tx, job_id, "lunch")
        assert not jobs.resume(tx, job_id, by_itself=True)
        assert not jobs.pause(tx, job_id, "no room", NOW + LEASE)
        assert not jobs.postpone(tx, job_id, NOW + LEASE)
    assert find(ledger, job_id).reason == "lunch"
    with ledger.write() as tx:
        assert jobs.resume(tx, job_id)
    assert find(ledger, job_id).state is State.RUNNING


def test_a_job_is_not_done_before_every_item_is_settled(ledger: Ledger) -> None:
    job_id = created(ledger, 1)
    (item,) = leased(ledger, job_id)
    with ledger.write() as tx:
        assert not jobs.finish(tx, job_id, "", NOW)
    settled(ledger, done(item))
    with ledger.write() as tx:
        assert jobs.finish(tx, job_id, "", NOW)
        assert not jobs.cancel(tx, job_id, NOW)


def test_demand_is_what_running_jobs_of_that_deployment_still_want(tmp_path: Path) -> None:
    ledger = opened(tmp_path, "a", "b")
    first, other, second = created(ledger, 3, "a"), created(ledger, 5, "b"), created(ledger, 2, "a")
    (item,) = leased(ledger, first, 1)
    settled(ledger, done(item))
    with ledger.read() as tx:
        assert [(want.id, want.items_left) for want in jobs.demand(tx, "a", NOW)] == [(first, 2), (second, 2)]
        assert [(want.id, want.items_left) for want in jobs.demand(tx, "b", NOW)] == [(other, 5)]


def test_progress_gives_the_pace_of_the_last_minute(ledger: Ledger) -> None:
    job_id = created(ledger, 100)
    job = find(ledger, job_id)
    with ledger.read() as tx:
        assert jobs.progress(tx, job, NOW).items_per_second is None
    batch = leased(ledger, job_id, 21)
    settled(ledger, done(batch[0]), now=NOW - timedelta(minutes=5))
    for second, item in enumerate(batch[1:]):
        settled(ledger, done(item), now=NOW + timedelta(seconds=second))
    leased(ledger, job_id, 4)
    with ledger.read() as tx:
        seen = jobs.progress(tx, find(ledger, job_id), NOW + timedelta(seconds=19))
    assert (seen.waiting, seen.leased, seen.done, seen.failed) == (75, 4, 21, 0)
    assert seen.items_per_second == pytest.approx(1.0)
    assert seen.eta_seconds == pytest.approx(79.0)


def test_a_stale_daemon_leases_and_settles_nothing(tmp_path: Path) -> None:
    stale = generation(opened(tmp_path))
    job_id = created(stale, 1)
    (item,) = leased(stale, job_id)
    generation(opened(tmp_path))
    with pytest.raises(Stale):
        settled(stale, done(item))
    with pytest.raises(Stale):
        leased(stale, job_id)
    assert find(stale, job_id).done == 0


NAMES = {
    "spaces": "a b  c.png",
    "a newline": "a\nb.png",
    "quotes and a backslash": "a\"'\\b.png",
    "Chinese": "发票/甲方 2026.png",
    "bytes that are not UTF-8": b"caf\xe9\xff.png".decode("utf-8", "surrogateescape"),
    "dots": "sub/..a..png",
    "an emoji": "🧾.png",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_every_name_comes_back_byte_for_byte(ledger: Ledger, name: str) -> None:
    with ledger.write() as tx:
        job_id = jobs.create(tx, "ocr", Path("/in") / name, Path("/out") / name, (), [name], NOW)
    (item,) = leased(ledger, job_id)
    assert item.name == name
    assert find(ledger, job_id).source == Path("/in") / name
    settled(ledger, done(item))
    with ledger.read() as tx:
        assert [outcome.name for outcome in items.outcomes(tx, job_id, 0)] == [name]
        raw = tx.execute(sa.select(t.items.c.path)).scalar_one()
    assert raw.isascii() and "\n" not in raw


JUDGEMENTS = {
    # verdict, suspect, failures before -> state, failures after
    "read": (Verdict.READ, False, 0, ItemState.DONE, 0),
    "refused is final at once": (Verdict.REFUSED, False, 0, ItemState.FAILED, 1),
    "a fault is tried again": (Verdict.FAULT, False, 0, ItemState.WAITING, 1),
    "the last fault settles it": (Verdict.FAULT, False, FAILURES_MAX - 1, ItemState.FAILED, FAILURES_MAX),
    "lost among others is not counted": (Verdict.LOST, False, 0, ItemState.SUSPECT, 0),
    "lost among others never settles it": (Verdict.LOST, False, FAILURES_MAX - 1, ItemState.SUSPECT, FAILURES_MAX - 1),
    "lost alone is counted": (Verdict.LOST, True, 0, ItemState.SUSPECT, 1),
    "lost alone too often settles it": (Verdict.LOST, True, FAILURES_MAX - 1, ItemState.FAILED, FAILURES_MAX),
    "unavailable changes nothing": (Verdict.UNAVAILABLE, False, 2, ItemState.WAITING, 2),
    "unavailable to a suspect changes nothing": (Verdict.UNAVAILABLE, True, 2, ItemState.SUSPECT, 2),
    "barred changes nothing": (Verdict.BARRED, False, 2, ItemState.WAITING, 2),
}


@pytest.mark.parametrize(("verdict", "suspect", "before", "state", "after"), JUDGEMENTS.values(), ids=JUDGEMENTS.keys())
def test_what_an_attempt_leads_to(verdict: Verdict, suspect: bool, before: int, state: ItemState, after: int) -> None:
    item = Item(job_id=1, number=1, name="a.png", attempt=7, failures=before, suspect=suspect)
    step = next_step(item, Outcome(verdict=verdict, reason="why"), NOW)
    assert (step.state, step.failures) == (state, after)
    counted = step.failures > before and step.state not in items.SETTLED
    assert (step.not_before is not None and step.not_before > NOW) == counted  # backs off when it counts


@dataclass
class Row:
    """An item, as the model has it."""

    number: int
    state: ItemState = ItemState.WAITING
    owner: str | None = None
    attempt: int = 0
    failures: int = 0
    not_before: datetime = NOW
    until: datetime | None = None


class LeaseMachine(RuleBasedStateMachine):
    """Two owners and a clock against one job: whatever they do, the ledger does what twenty lines of Python do."""

    held = Bundle("held")

    @initialize(count=st.integers(1, 6))
    def submit(self, count: int) -> None:
        self.home = Path(tempfile.mkdtemp())
        self.ledger = opened(self.home)
        self.job_id = created(self.ledger, count)
        self.rows = {number: Row(number) for number in range(1, count + 1)}
        self.job = State.RUNNING
        self.now = NOW

    def teardown(self) -> None:
        self.ledger.close()
        shutil.rmtree(self.home)

    @rule(seconds=st.sampled_from([1, 30, 61]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(target=held, owner=st.sampled_from([ME, OTHER]), limit=st.integers(1, 3), suspects=st.booleans())
    def lease(self, owner: str, limit: int, suspects: bool):
        found = leased(self.ledger, self.job_id, limit, owner, self.now, suspects=suspects)
        queue = ItemState.SUSPECT if suspects else ItemState.WAITING
        ready = [row for row in self.rows.values() if row.state is queue and row.not_before <= self.now]
        ready = sorted(ready, key=lambda row: (row.not_before, row.number))[:limit] if self.job is State.RUNNING else []
        for row in ready:
            row.state, row.owner, row.attempt, row.until = ItemState.LEASED, owner, row.attempt + 1, self.now + LEASE
        assert {(item.number, item.attempt) for item in found} == {(row.number, row.attempt) for row in ready}
        return multiple(*((owner, item) for item in found))

    @rule(lease=consumes(held), verdict=st.sampled_from(Verdict), twice=st.booleans())
    def settle(self, lease: tuple[str, Item], verdict: Verdict, twice: bool) -> None:
        owner, item = lease
        step = next_step(item, Outcome(verdict=verdict, reason="why"), self.now)
        counted = settled(self.ledger, *[step] * (1 + twice), owner=owner, now=self.now)
        row = self.rows[item.number]
        mine = (row.state, row.owner, row.attempt) == (ItemState.LEASED, owner, item.attempt)
        assert len(counted) == mine
        if mine:
            row.state, row.failures, row.owner, row.until = step.state, step.failures, None, None
            row.not_before = step.not_before or row.not_before

    @rule(lease=held)
    def renew(self, lease: tuple[str, Item]) -> None:
        owner, item = lease
        with self.ledger.write() as tx:
            items.renew(tx, owner, [item], self.now + LEASE)
        row = self.rows[item.number]
        if (row.state, row.owner, row.attempt) == (ItemState.LEASED, owner, item.attempt):
            row.until = self.now + LEASE

    @rule(newer=st.booleans())
    def reclaim(self, newer: bool) -> None:
        with self.ledger.write() as tx:
            freed = items.reclaim(tx, "g0000000002" if newer else "g0000000001", self.now)
        mine = [row for row in self.rows.values() if row.state is ItemState.LEASED]
        over = [row for row in mine if newer or (row.until is not None and row.until < self.now)]
        for row in over:
            row.state = ItemState.SUSPECT if row.attempt >= items.DEATHS else ItemState.WAITING
            row.owner = row.until = None
        assert freed == len(over)

    @rule(what=st.sampled_from(["pause", "resume", "cancel", "finish"]))
    def steer(self, what: str) -> None:
        with self.ledger.write() as tx:
            match what:
                case "pause":
                    changed, after, possible = jobs.pause(tx, self.job_id, ""), State.PAUSED, jobs.OPEN
                case "resume":
                    changed, after, possible = jobs.resume(tx, self.job_id), State.RUNNING, (State.PAUSED,)
                case "cancel":
                    changed, after, possible = jobs.cancel(tx, self.job_id, self.now), State.CANCELLED, jobs.OPEN
                case _:
                    all_settled = all(row.state in items.SETTLED for row in self.rows.values())
                    changed, after = jobs.finish(tx, self.job_id, "", self.now), State.DONE
                    possible = (State.RUNNING,) if all_settled else ()
        assert changed == (self.job in possible)
        if changed:
            self.job = after
        if changed and what == "cancel":
            for row in self.rows.values():
                if row.state is ItemState.LEASED:
                    row.state, row.owner, row.until = ItemState.WAITING, None, None

    @invariant()
    def the_ledger_is_the_model(self) -> None:
        c = t.items.c
        with self.ledger.read() as tx:
            columns = (c.number, c.state, c.owner, c.attempt, c.failures, c.not_before, c.leased_until)
            found = tx.execute(sa.select(*columns).order_by(c.number))
            rows = [Row(row[0], ItemState(row[1]), *row[2:]) for row in found]
            assert rows == list(self.rows.values())
        job = find(self.ledger, self.job_id)
        states = [row.state for row in rows]
        assert job.state is self.job
        assert (job.done, job.failed) == (states.count(ItemState.DONE), states.count(ItemState.FAILED))


TestLeases = LeaseMachine.TestCase
TestLeases.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
