"""What a job costs, what it may cost, and how long before its deadline it ends."""

import json
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.errors import Refused
from orchestrator.executors import Executor, Outcome, Task, Verdict
from orchestrator.jobs import JobRunner, asking, costs, submit
from orchestrator.ledger import deployments, items, jobs, shares
from orchestrator.ledger.items import Step
from orchestrator.ledger.jobs import ItemState, Job, State
from orchestrator.ledger.store import Ledger
from tests.orchestrator.batch import NOW, HurriedClock, find, folder, generation, numbered, opened, runner, until
from tests.orchestrator.report_ledger import Rows
from tests.orchestrator.test_jobs_cli import halve

SPEC = """
name: ocr
model: ppocr
provider: simulated
currency: CNY
rates: {USD: {rate: 7.10, as_of: 2026-11-01, source: a bank}}
"""
HOUR = timedelta(hours=1)
CNY = 1_000_000


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    found = opened(tmp_path / "home")
    with found.write() as tx:
        deployments.put_up(tx, "ocr", SPEC, "ocr.yaml", NOW)
    return generation(found)


def created(ledger: Ledger, count: int, budget: int | None = None) -> Job:
    """A job that runs since NOW."""
    with ledger.write() as tx:
        names = list(map(str, numbered(count)))
        job_id = jobs.create(
            tx, "ocr", Path("/in"), Path(f"/out{count}"), (), names, NOW, currency="CNY", budget_micros=budget
        )
    account(ledger, job_id, [], NOW)
    return find(ledger, job_id)


def account(ledger: Ledger, job_id: int, ran: list[int], at: object) -> None:
    with ledger.write() as tx:
        both = [job for one in (ran or [job_id]) if (job := jobs.get(tx, one)) is not None]
        job = jobs.get(tx, job_id)
        assert job is not None
        costs.account(tx, job, both, at)


def settle(ledger: Ledger, job: Job, count: int, at: object) -> None:
    with ledger.write() as tx:
        leased = items.lease(tx, job.id, "me", count, NOW, NOW + HOUR)
        items.settle(tx, "me", [Step(item=item, state=ItemState.DONE, failures=0) for item in leased], at)


def loads(ledger: Ledger, images: int, at: object) -> None:
    with ledger.write() as tx:
        deployments.record_loads(tx, [{"deployment": "ocr", "instance_id": "ocr-1", "at": at, "images": images}])


def rented(ledger: Ledger, price: int | None = 6 * CNY, currency: str = "CNY") -> None:
    rows = Rows(ledger)
    rows.charge(rows.machine("ocr", ready=(NOW - HOUR, None)), NOW - HOUR, None, price, currency)


def test_alone_it_pays_for_what_ran(ledger: Ledger) -> None:
    rented(ledger)
    job = created(ledger, 10)
    settle(ledger, job, 10, NOW + HOUR / 2)
    account(ledger, job.id, [], NOW + HOUR)
    assert find(ledger, job.id).cost_micros == 6 * CNY
    assert find(ledger, job.id).costed_at == NOW + HOUR


def test_it_pays_its_share_of_the_images(ledger: Ledger) -> None:
    rented(ledger)
    job, other = created(ledger, 10), created(ledger, 20)
    settle(ledger, job, 10, NOW + HOUR / 2)
    settle(ledger, other, 20, NOW + HOUR / 2)
    loads(ledger, 60, NOW + HOUR / 2)  # half of them were nobody's job
    for one in (job, other):
        account(ledger, one.id, [job.id, other.id], NOW + HOUR)
    assert [find(ledger, one.id).cost_micros for one in (job, other)] == [1 * CNY, 2 * CNY]


def test_while_nobody_reads_the_running_jobs_pay_alike(ledger: Ledger) -> None:
    rented(ledger)
    job, other = created(ledger, 10), created(ledger, 20)
    account(ledger, job.id, [job.id, other.id], NOW + HOUR)
    assert find(ledger, job.id).cost_micros == 3 * CNY


def test_while_others_read_and_it_does_not_it_pays_nothing(ledger: Ledger) -> None:
    rented(ledger)
    job = created(ledger, 10)
    loads(ledger, 60, NOW + HOUR / 2)
    account(ledger, job.id, [], NOW + HOUR)
    assert find(ledger, job.id).cost_micros == 0


def test_parts_add_up_to_the_whole(ledger: Ledger) -> None:
    rented(ledger, 7_777_777)
    job = created(ledger, 60)
    for minute in range(1, 61):
        settle(ledger, job, 1, NOW + timedelta(minutes=minute) - timedelta(seconds=1))
        account(ledger, job.id, [], NOW + timedelta(minutes=minute))
    assert find(ledger, job.id).cost_micros == 7_777_777


def test_a_pause_costs_nothing(ledger: Ledger) -> None:
    rented(ledger)
    job = created(ledger, 10)
    account(ledger, job.id, [], NOW + HOUR)
    with ledger.write() as tx:
        jobs.pause(tx, job.id, "by its user")
        jobs.resume(tx, job.id)
    account(ledger, job.id, [], NOW + 9 * HOUR)
    account(ledger, job.id, [], NOW + 10 * HOUR)
    assert find(ledger, job.id).cost_micros == 12 * CNY


def test_another_currency_by_the_rate_of_the_spec(ledger: Ledger) -> None:
    rented(ledger, 1 * CNY, "USD")
    job = created(ledger, 10)
    account(ledger, job.id, [], NOW + HOUR)
    assert find(ledger, job.id).cost_micros == 7_100_000


@pytest.mark.parametrize(("price", "currency"), [(None, "CNY"), (None, ""), (1 * CNY, "EUR")])
def test_what_has_no_known_price_is_unknown_and_never_nothing(ledger: Ledger, price: int | None, currency: str) -> None:
    rented(ledger, price, currency)
    job = created(ledger, 10)
    account(ledger, job.id, [], NOW + HOUR)
    with ledger.read() as tx:
        found = asking.values(find(ledger, job.id), jobs.progress(tx, job, NOW), NOW)
    assert (found["cost_micros"], found["cost_to_go_micros"]) == (None, None)


def test_the_rest_costs_what_the_first_part_did(ledger: Ledger) -> None:
    rented(ledger)
    job = created(ledger, 10)
    assert job.cost_to_go_micros is None
    settle(ledger, job, 4, NOW + HOUR / 2)
    account(ledger, job.id, [], NOW + HOUR)
    assert find(ledger, job.id).cost_to_go_micros == 9 * CNY


class Slow(Executor):
    """Takes its time, and notes what it was sent."""

    def __init__(self) -> None:
        self.sent = 0
        self.quick = threading.Event()

    def read(self, task: Task) -> Outcome:
        self.sent += 1
        self.quick.wait(0.05)
        return Outcome(verdict=Verdict.READ, result={"recognized_text": ""})


def test_a_budget_stops_the_job_and_a_larger_one_goes_on(
    tmp_path: Path, ledger: Ledger, running: list[JobRunner]
) -> None:
    rented(ledger, 3600 * CNY)  # a unit a second
    slow = Slow()
    source = folder(tmp_path / "in", numbered(400))
    job = submit(ledger, None, source, tmp_path / "out", [], NOW, budget="100 CNY")
    running.append(runner(ledger, slow, in_flight=2, clock=HurriedClock()))
    running[0].start()
    until(lambda: find(ledger, job.id).state is State.PAUSED)
    stopped = find(ledger, job.id)
    assert "its budget of 100.00 CNY is spent" in stopped.reason and "--budget" in stopped.reason
    assert 100 * CNY <= stopped.cost_micros <= 190 * CNY  # it looks once a minute
    assert stopped.resumes_at is None and 0 < stopped.done < 400
    until(lambda: leased(ledger, job) == 0)
    sent = slow.sent
    with ledger.read() as tx:
        assert jobs.demand(tx, "ocr", NOW + 10 * HOUR) == ()  # nobody launches anything for it
    with pytest.raises(Refused, match=r"has cost .* of its budget of 100.00 CNY; name a larger one with --budget"):
        asking.resume(ledger, job.id, NOW)
    with pytest.raises(Refused, match="larger one"):
        asking.resume(ledger, job.id, NOW, "100")
    assert find(ledger, job.id).state is State.PAUSED and slow.sent == sent
    slow.quick.set()
    asking.resume(ledger, job.id, NOW, "9000")
    until(lambda: find(ledger, job.id).state is State.DONE)
    done = find(ledger, job.id)
    assert (done.done, slow.sent, done.budget_micros) == (400, 400, 9000 * CNY)
    assert stopped.cost_micros < done.cost_micros < 9000 * CNY


def leased(ledger: Ledger, job: Job) -> int:
    with ledger.read() as tx:
        return jobs.progress(tx, find(ledger, job.id), NOW).leased


def test_what_it_cost_is_known_when_it_is_done(tmp_path: Path, ledger: Ledger, running: list[JobRunner]) -> None:
    rented(ledger, 3600 * CNY)
    job = submit(ledger, None, folder(tmp_path / "in", numbered(20)), tmp_path / "out", [], NOW)
    running.append(runner(ledger, Slow(), in_flight=2, clock=HurriedClock()))
    running[0].start()
    until(lambda: find(ledger, job.id).state is State.DONE)
    done = find(ledger, job.id)
    assert done.finished_at is not None and done.costed_at == done.finished_at
    assert 0 < done.cost_micros <= (done.finished_at - NOW) / timedelta(seconds=1) * CNY


BUDGETS = {
    "nothing": ("0", "nothing can be read for nothing"),
    "below nothing": ("-3", "--budget -3"),
    "no amount": ("much", "--budget much"),
    "another currency": ("20 USD", "counts in CNY"),
}


@pytest.mark.parametrize(("budget", "says"), BUDGETS.values(), ids=BUDGETS.keys())
def test_a_budget_that_is_none_is_refused(tmp_path: Path, ledger: Ledger, budget: str, says: str) -> None:
    source = folder(tmp_path / "in", numbered(1))
    with pytest.raises(Refused, match=says):
        submit(ledger, None, source, tmp_path / "out", [], NOW, budget=budget)
    assert not (tmp_path / "out").exists()


def test_show_says_the_cost_the_budget_and_the_margin(tmp_path: Path, ledger: Ledger) -> None:
    from orchestrator.clock import SystemClock

    now = SystemClock().now()
    with ledger.write() as tx:
        names = list(map(str, numbered(100)))
        where = Path("/in"), Path("/out")
        due = now + 2 * HOUR
        job_id = jobs.create(tx, "ocr", *where, (), names, now, due, currency="CNY", budget_micros=20 * CNY)
        leased = items.lease(tx, job_id, "me", 40, now, now + HOUR)
        steps = [Step(item=item, state=ItemState.DONE, failures=0) for item in leased]
        items.settle(tx, "me", steps[:1], now - timedelta(seconds=40))
        items.settle(tx, "me", steps[1:], now - timedelta(seconds=1))
        job = jobs.get(tx, job_id)
        assert job is not None
        shares.charge(tx, job, 4 * CNY, False, now)
    home = tmp_path / "home"
    said = halve(home, "show", job_id).stdout
    assert "images/s" in said and "left" in said
    assert "cost so far 4.00 CNY, about 6.00 CNY to go, budget 20.00 CNY" in said
    assert "at this pace it ends 1h 5" in said and "before that" in said
    found = json.loads(halve(home, "show", job_id, "--json").stdout)
    assert (found["cost_micros"], found["cost_to_go_micros"], found["budget_micros"]) == (4 * CNY, 6 * CNY, 20 * CNY)
    assert 6900 < found["margin_seconds"] < 7200
    assert all(len(line) <= 80 for line in said.splitlines())
    assert "name a larger one" in halve(home, "resume", job_id, "--budget", "3", check=1).stderr


def test_watching_follows_it_to_its_end(tmp_path: Path, ledger: Ledger, running: list[JobRunner]) -> None:
    job = submit(ledger, None, folder(tmp_path / "in", numbered(30)), tmp_path / "out", [], NOW)
    running.append(runner(ledger, Slow(), in_flight=1))
    running[0].start()
    watched = halve(tmp_path / "home", "show", job.id, "--watch")
    assert find(ledger, job.id).state is State.DONE
    assert f"job {job.id} is done: 30 read, 0 failed" in watched.stderr
    assert "30 done" in watched.stdout
