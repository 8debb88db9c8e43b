"""`halve backtest --plot`: a picture of one run, the same every time, and one clear line when there can be none."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.errors import Refused
from orchestrator.simulation import plot
from orchestrator.simulation.synthetic import spells
from orchestrator.simulation.traces import save

pytest.importorskip("matplotlib", reason="pictures need the extra `plot`")

JOB = ("job", "--task-hours", "10", "--deadline-hours", "14", "--start-tick", "300")
SERVE = ("serve", "--replicas", "3", "--availability", "0.97")


@pytest.fixture
def zones(tmp_path: Path) -> list[str]:
    files = [tmp_path / f"zone-{number}.json" for number in range(2)]
    for number, file in enumerate(files):
        counts = spells(
            mean_up_hours=2, mean_down_hours=1, heavy_tailed=True, ticks=900, tick_seconds=300, seed=number + 3
        )
        save(file, counts, 300)
    return [str(file) for file in files]


def draw(arguments: tuple[str, ...], zones: list[str], picture: Path) -> str:
    found = CliRunner().invoke(app, ["backtest", *arguments, *zones, "--json", "--plot", str(picture)])
    assert found.exit_code == 0, found.exception
    assert str(picture) in found.stderr and str(picture) not in found.stdout
    return found.stdout


def words(picture: Path) -> str:
    return " ".join(text.strip() for text in ElementTree.parse(picture).getroot().itertext())


def test_a_batch_shows_zones_progress_deadline_and_cost(zones: list[str], tmp_path: Path) -> None:
    picture = tmp_path / "job.svg"
    draw(JOB, zones, picture)
    shown = words(picture)
    assert "learned: 10 h of work in 14 h, done after" in shown
    for word in ("zone-0", "zone-1", "on-demand", "preempted", "work done", "deadline", "paid", "offline optimum"):
        assert word in shown


def test_what_goes_on_is_one_bar_however_often_it_was_decided() -> None:
    ran = [(0.0, 1.0, 2), (1.0, 0.5, 2), (1.5, 1.0, -1), (2.5, 0.5, 2)]
    assert list(plot._lasting(ran)) == [(0.0, 1.5, 2), (1.5, 1.0, -1), (2.5, 0.5, 2)]


def test_a_service_shows_zones_kinds_and_what_was_short(zones: list[str], tmp_path: Path) -> None:
    picture = tmp_path / "serve.svg"
    draw(SERVE, zones, picture)
    shown = words(picture)
    assert "hazard: 3 replicas for 97% of the time" in shown
    for word in ("zone-0", "zone-1", "on-demand", "replicas paid", "3 asked for", "minutes short", "days"):
        assert word in shown


@pytest.mark.parametrize("arguments", [JOB, SERVE])
def test_the_same_run_is_the_same_picture(arguments: tuple[str, ...], zones: list[str], tmp_path: Path) -> None:
    first, again = tmp_path / "a.svg", tmp_path / "b.svg"
    assert draw(arguments, zones, first) == draw(arguments, zones, again)
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_other_formats(suffix: str, magic: bytes, zones: list[str], tmp_path: Path) -> None:
    picture = tmp_path / f"out{suffix}"
    draw(JOB, zones, picture)
    assert picture.read_bytes().startswith(magic)


@pytest.mark.parametrize(
    ("name", "word"), [("out.doc", ".svg"), ("out", ".svg"), ("none/out.svg", "no folder"), ("folder.svg", "written")]
)
def test_what_cannot_be_drawn_is_refused(name: str, word: str, zones: list[str], tmp_path: Path) -> None:
    (tmp_path / "folder.svg").mkdir()
    found = CliRunner().invoke(app, ["backtest", *JOB, *zones, "--plot", str(tmp_path / name)])
    assert isinstance(found.exception, Refused)
    assert word in str(found.exception) and name in str(found.exception) and "\n" not in str(found.exception)


def test_without_matplotlib_one_line_says_what_to_install(tmp_path: Path) -> None:
    """In a process of its own, to which the library is as good as not installed."""
    hidden = (
        "import sys, importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'matplotlib' else find(name, *more)\n"
        "from orchestrator.cli import main; sys.argv = ['halve', *sys.argv[1:]]; main()"
    )
    asked = ["backtest", "job", "none.json", "--plot", str(tmp_path / "out.svg")]
    found = subprocess.run([sys.executable, "-c", hidden, *asked], capture_output=True, text=True, timeout=250)
    assert found.returncode == 1
    assert found.stderr.strip() == "halve: --plot needs matplotlib: pip install 'halve[plot]'"


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    assert plot.FORMATS
    asked = "import sys, orchestrator.simulation.plot; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], timeout=250).returncode == 0
