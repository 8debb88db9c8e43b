"""The processor time of a month report, by the number of charges in the ledger, and how it grows.

Twice: a ledger of two years, whose last month is asked for, and one whose charges all lie in that month.
"""

import math
import tempfile
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import sqlalchemy as sa

from orchestrator import prices
from orchestrator.ledger import tables as t
from orchestrator.ledger.store import Ledger, open_ledger
from orchestrator.reports.month import MonthReport, of_ledger
from orchestrator.reports.terminal import text

SIZES = (10_000, 100_000, 1_000_000)
#: processor time of the report from a ledger of a million charges that we aim at
AIM_SECONDS = 2.0
#: one in so many machines on spot is taken back
LOST = 20
#: charges of one machine: a spot price moves, and each move closes a charge and opens the next
CHARGES_A_MACHINE = 10
MONTH = datetime(2026, 10, 1, tzinfo=UTC)
MONTHS = {"over 24 months": 24, "in one month": 1}
NAMES = tuple(f"d{number}" for number in range(8))
GPUS = ("RTX 3060", "RTX 3090", "T4")
SPEC = """
name: {name}
model: cv_resnet18_ocr-detection
provider: simulated
currency: CNY
baseline: {{gpu: RTX 3090, purchase: on_demand, replicas: 1, always_on: true}}
"""


def main() -> None:
    """Print the processor time of each report, and the law of its growth."""
    for words, months in MONTHS.items():
        found = {size: measured(size, months) for size in SIZES}
        for size, seconds in found.items():
            print(f"{size:9,} charges {words}: {seconds:6.2f} s", flush=True)
        for smaller, larger in pairwise(SIZES):
            law = math.log(found[larger] / found[smaller]) / math.log(larger / smaller)
            print(f"from {smaller:,} to {larger:,} it grows as n^{law:.2f}")
        print(f"that of {SIZES[-1]:,} takes {found[SIZES[-1]] / AIM_SECONDS:.2f} of the {AIM_SECONDS:.0f} s aimed at")


def measured(size: int, months: int) -> float:
    """Seconds of processor time to report the last month of a ledger of `size` charges and print it."""
    with tempfile.TemporaryDirectory() as home:
        ledger = filled(Path(home), size, months)
        started = time.process_time()
        report = reported(ledger)
        page = text(report)
        seconds = time.process_time() - started
        ledger.close()
    assert len(report.rows) == len(NAMES) * len(GPUS) and report.total_micros and "total" in page
    return seconds


def reported(ledger: Ledger) -> MonthReport:
    return of_ledger(ledger, f"{MONTH:%Y-%m}", MONTH + timedelta(days=40))


def filled(home: Path, size: int, months: int) -> Ledger:
    """A ledger of `size` charges spread evenly over the months that end with MONTH's."""
    ledger = open_ledger(home)
    ledger.hurry()
    prices.seed(ledger)
    machines = size // CHARGES_A_MACHINE
    end = MONTH + timedelta(days=31)
    step = timedelta(days=31 * months - 2) / machines
    length = timedelta(hours=3)  # of a charge
    with ledger.write() as tx:
        row = {"source": "", "version": 1, "wanted": "up", "created_at": MONTH, "updated_at": MONTH}
        tx.execute(t.deployments.insert(), [row | {"name": name, "spec": SPEC.format(name=name)} for name in NAMES])
        tick = {"deployment": NAMES[0], "at": MONTH, "target": 1, "reason": "", "plan": []}
        tick_id = tx.scalars(t.ticks.insert().values(tick).returning(t.ticks.c.id)).one()
        intent = {"deployment": NAMES[0], "tick_id": tick_id, "kind": "launch", "instance_id": "", "payload": {}}
        intent |= {"reason": "", "state": "done", "opened_at": MONTH}
        intent_id = tx.scalars(t.intents.insert().values(intent).returning(t.intents.c.id)).one()
        _machines(tx, machines, end, step, length, intent_id)
    return ledger


def _machines(
    tx: sa.Connection, machines: int, end: datetime, step: timedelta, length: timedelta, intent_id: int
) -> None:
    instances, charges = [], []
    for number in range(machines):
        # two are spot, one is not: the price of spot moves, that of the other is charged in as many rows all the same
        name, gpu = NAMES[number % len(NAMES)], GPUS[number // len(NAMES) % len(GPUS)]
        purchase = "on_demand" if gpu == "T4" else "spot"
        last = end - timedelta(days=1) - step * (machines - 1 - number)
        starts = [last - length * place for place in range(CHARGES_A_MACHINE, 0, -1)]
        row = {
            "id": f"m{number}", "deployment": name, "intent_id": intent_id, "token": f"t{number}", "digest": "",
            "provider": "simulated", "offer_id": "o", "zone": "", "instance_type": "", "gpu": gpu,
            "status": "preempted" if purchase == "spot" and number % LOST == 0 else "ended",
            "purchase": purchase, "requested_at": starts[0], "launched_at": starts[0], "ended_at": last,
            "ready_at": starts[0] + timedelta(seconds=90), "draining_at": last,
        }  # fmt: skip
        instances.append(row)
        for place, start in enumerate(starts):
            charge = {
                "instance_id": f"m{number}", "deployment": name, "kind": "compute", "gpu": gpu, "purchase": purchase,
                "price_per_hour_micros": 700_000 + 1_000 * place, "currency": "CNY", "started_at": start,
                "ended_at": start + length,
            }  # fmt: skip
            charges.append(charge)
        if len(charges) >= 100_000 or number == machines - 1:
            tx.execute(t.instances.insert(), instances)
            tx.execute(t.charges.insert(), charges)
            instances.clear()
            charges.clear()


if __name__ == "__main__":
    main()
