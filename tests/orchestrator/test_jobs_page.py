"""docs/jobs.md cannot rot: its session is run again, and the tests that it names are there.

python -m tests.orchestrator.test_jobs_page      runs it, and writes what was printed into the page
"""

import json
import re
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.orchestrator.sshd import free_port
from tests.orchestrator.tiny import end_all
from tests.orchestrator.told import PAGES, Session, scans, without_figures

PAGE = PAGES / "jobs.md"
SCANS = 6


def staged(stack: ExitStack, folder: Path) -> tuple[Session, Callable[[str, int], None]]:
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
    session.run("halve bench --images scans --record --workers 1 --seconds 0.5")
    (images / "damaged.png").write_bytes(b"no image")
    return session, lambda command, time: None


@pytest.mark.slow
@pytest.mark.timeout(900)  # most of it is the engine
def test_the_session_is_as_the_page_shows_it(tmp_path: Path) -> None:
    with ExitStack() as stack:
        session, before = staged(stack, tmp_path)
        for command, shown, printed in session.played(before):
            assert without_figures(printed) == without_figures(shown), command
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


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        session, before = staged(stack, Path(folder))
        session.rewrite(before)


if __name__ == "__main__":
    main()
