"""docs/jobs.md cannot rot: its session is run again, and the tests that it names are there.

python -m tests.orchestrator.test_jobs_page      runs it, and writes what was printed into the page
"""

import json
import re
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator import machine
from orchestrator.ledger import offers
from orchestrator.ledger.store import open_ledger
from policies.snapshot import Profile
from tests.orchestrator.ports import free_port
from tests.orchestrator.tiny import end_all
from tests.orchestrator.told import PAGES, Before, Session, rewritten, scans

PAGE = PAGES / "jobs.md"
SCANS = 6
MEASURED = Profile(
    model="ppocr",
    gpu=machine.device()[0],
    precision="fp32",
    batch=1,
    images_per_second=5.0,
    p95_ms=400.0,
    source="bench",
)


def staged(stack: ExitStack, folder: Path) -> tuple[Session, Before]:
    """A session on a machine that has been measured; the last scan is damaged."""
    address = f"127.0.0.1:{free_port()}"
    session = Session(
        PAGE,
        folder,
        lambda text: text.replace("127.0.0.1:7861", address),
        lambda text: text.replace(address, "127.0.0.1:7861"),
    )
    stack.callback(end_all, session.home)
    images = scans(folder / "scans", SCANS)
    lines = ["path", *(f"scans/{path.name}" for path in sorted(images.iterdir()))]
    (folder / "list.csv").write_text("".join(f"{line}\n" for line in lines))
    ledger = open_ledger(session.home)
    with ledger.write() as tx:  # as `halve bench --record` does
        offers.add_profile(tx, MEASURED, datetime.now(UTC), note="2 threads")
    ledger.close()
    (images / "damaged.png").write_bytes(b"no image")
    return session, lambda command, time: None


@pytest.mark.slow
@pytest.mark.timeout(900)  # most of it is the engine
def test_the_session_is_as_the_page_shows_it(tmp_path: Path) -> None:
    with ExitStack() as stack:
        session, before = staged(stack, tmp_path)
        session.agrees(before)
    found = [json.loads(line) for line in (tmp_path / "results" / "results.jsonl").read_text().splitlines()]
    assert [line["structured_data"]["INVOICE"] for line in found] == [str(1000 + number) for number in range(SCANS)]
    assert len(list((tmp_path / "results").glob("*.png.json"))) == SCANS


def test_every_test_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8")))
    written = {
        name
        for path in Path(__file__).parent.glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(named) >= 10
    assert named <= written


if __name__ == "__main__":
    rewritten(staged)
