"""What makes the command line pleasant: examples, completion, 80 columns, no colour where none is wanted, Ctrl-C."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.cells import cell_len
from typer.main import get_command

from orchestrator import prices
from orchestrator.cli import COMMANDS, app
from orchestrator.clock import SystemClock
from orchestrator.ledger import jobs
from orchestrator.ledger.store import open_ledger
from orchestrator.scheduler import tick
from orchestrator.simulation.synthetic import spells
from orchestrator.simulation.traces import save
from tests.orchestrator.screen import ROOT, plain, screen
from tests.orchestrator.test_status import ON_DEMAND, opened

EXAMPLES = ROOT / "infra" / "examples"
#: as somebody has it on the path, beside this interpreter
HALVE = Path(sys.executable).with_name("halve")


def commands(group: Any, before: str = "halve") -> Iterator[tuple[str, Any]]:
    """Every command and every group of them, by how it is called."""
    yield before, group
    context = group.make_context("halve", [], resilient_parsing=True)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if hasattr(found, "list_commands"):
            yield from commands(found, f"{before} {name}")
        else:
            yield f"{before} {name}", found


ALL = dict(commands(get_command(app)))


@pytest.mark.parametrize("name", ALL)
def test_every_help_ends_with_an_example(name: str) -> None:
    last = (ALL[name].help or "").strip().splitlines()[-1]
    assert last.startswith(f"Example: {name}"), last
    assert len(last) <= 120


@pytest.mark.parametrize("name", ALL)
def test_every_option_is_explained(name: str) -> None:
    silent = [one.name for one in ALL[name].params if one.param_type_name == "option" and not one.help]
    assert silent == []


# completion


def completed(shell: str, words: str) -> list[str]:
    """What a shell is offered behind these words; it asks so itself, by these variables."""
    asked = {"_HALVE_COMPLETE": f"complete_{shell}", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    asked |= {"_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = subprocess.run([HALVE], env=os.environ | asked, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(not HALVE.exists(), reason="halve is not installed beside this interpreter")
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_offered_commands_and_options(shell: str) -> None:
    def offered(words: str) -> str:
        return "\n".join(completed(shell, words))

    everything = offered("halve ")
    assert all(name in everything for name in COMMANDS)
    assert "submit" in offered("halve job su")
    assert "--month" in offered("halve report --mo")


@pytest.mark.skipif(not HALVE.exists(), reason="halve is not installed beside this interpreter")
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_one(shell: str, tmp_path: Path) -> None:
    environment = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = [str(HALVE), "--show-completion", shell]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "_HALVE_COMPLETE" in done.stdout
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not here: Debian's package of that name has it")
    script = tmp_path / "completion"
    script.write_text(done.stdout)
    read = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert (read.returncode, read.stderr) == (0, "")


@pytest.mark.skipif(not HALVE.exists() or shutil.which("bash") is None, reason="halve is not installed, or no bash")
def test_a_real_bash_completes() -> None:
    script = """
    eval "$(_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION=1 halve --show-completion bash)"
    COMP_WORDS=(halve rep); COMP_CWORD=1
    _halve_completion halve rep halve
    echo "${COMPREPLY[@]}"
    """
    environment = os.environ | {"PATH": f"{HALVE.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["report"], done.stderr


# tables


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a deployment that serves, a job, prices, and a few minutes of money."""
    home = tmp_path_factory.mktemp("home")
    ledger = open_ledger(home)
    prices.seed(ledger)
    clock = SystemClock()
    world = opened(home, ledger, clock, ON_DEMAND.replace("40", "2"))  # type: ignore[arg-type]
    for _ in range(3):
        tick(world)
        time.sleep(1.1)
    with ledger.write() as tx:
        name = "scans of the whole of the last year"
        jobs.create(tx, "ocr", home / name, home / f"results of {name}", (), ["a.png"] * 3, datetime.now(UTC))
        # its folders are printed as they are, to be copied from the screen
        jobs.create(tx, "ocr", Path("/scans"), Path("/results"), (), ["a.png"] * 3, datetime.now(UTC))
    ledger.close()
    return home


@pytest.fixture(scope="module")
def shown(lived_in: Path) -> Callable[[str], str]:
    """What a terminal is sent by a command there, which is run once."""
    return cache(partial(screen, lived_in))


#: the fixtures are shared within a worker
SHOWN = pytest.mark.xdist_group("screens")
DAYTIME, FLEET = "infra/examples/daytime-ocr.yaml", "infra/examples/spot-fleet.yaml"
TRACE = "tests/simulation/sample_trace.json"
TABLES = (
    "status",
    "why ocr",
    "job list",
    "job show 2",
    "prices",
    "prices history",
    "gpus",
    "gpus --model cv_resnet18_ocr-detection --latency 0.3",
    f"plan {FLEET}",
    f"windows {DAYTIME} --from 2026-10-01 --to 2026-10-31",
    "hosts",
    "report",
    "ledger check",
    f"backtest job {TRACE} --task-hours 3 --deadline-hours 5",
    f"backtest serve {TRACE}",
    f"simulate {DAYTIME} --compare --month 2026-10",
    "doctor",
)


@SHOWN
@pytest.mark.slow
@pytest.mark.parametrize("arguments", TABLES, ids=lambda one: " ".join(one.split()[:2]))
def test_it_fits_80_columns(shown: Callable[[str], str], arguments: str) -> None:
    lines = [line.rpartition("\r")[2].rstrip() for line in plain(shown(arguments))]
    assert any(lines)
    assert [line for line in lines if cell_len(line) > 80] == []


COLOURS = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")


@SHOWN
@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["status", "why ocr", "report", "gpus"])
def test_words_and_tables_need_no_colour(shown: Callable[[str], str], arguments: str) -> None:
    """What stands out is bold: it does so on every background, and for whoever sees no colours."""
    said = shown(arguments)
    assert "\x1b[1m" in said
    assert not COLOURS.search(said)


@SHOWN
@pytest.mark.slow
def test_no_colour_where_none_is_wanted(shown: Callable[[str], str], tmp_path: Path) -> None:
    assert COLOURS.search(shown(f"backtest serve {TRACE}"))  # of the bar
    assert not COLOURS.search(screen(tmp_path, f"backtest serve {TRACE}", NO_COLOR="1"))


def test_a_refusal_is_broken_between_words(tmp_path: Path) -> None:
    words = "simulate infra/examples/spot-fleet.yaml --month 2026-10"
    lines = plain(screen(tmp_path, words))
    assert len(lines) > 1
    assert all(cell_len(line) <= 80 for line in lines)
    piped = subprocess.run(
        [sys.executable, "-m", "orchestrator", *words.split()], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    (line,) = piped.stderr.splitlines()
    assert " ".join(lines) == line


# what somebody sees who waits


@SHOWN
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (f"simulate {DAYTIME} --compare --month 2026-10", r"simulating 2026-10 .* days/s .*\d:\d\d:\d\d"),
        ("simulate --seeds 1 --faults loss", r"bad days .* days/s .*\d:\d\d:\d\d"),
        (f"backtest job {TRACE} --task-hours 3 --deadline-hours 5", r"replaying .* replays/s"),
        (f"backtest serve {TRACE}", r"replaying .* replays/s .*\d:\d\d:\d\d"),
    ],
    ids=lambda one: " ".join(one.split()[:2]),
)
def test_a_bar_says_how_fast_it_goes_and_how_long_it_takes(
    shown: Callable[[str], str], arguments: str, words: str
) -> None:
    assert re.search(words, "\n".join(plain(shown(arguments))))


# Ctrl-C


MONTH = f"simulate {FLEET} --month 2026-10 --ledger"
SEEDS = "simulate --seeds 1000"  # the one that has work done by other processes
LONG = (
    f"{MONTH} october.db",
    f"simulate {FLEET} {DAYTIME} --compare --month 2026-10",
    SEEDS,
    "backtest job LONG_TRACE --task-hours 48 --deadline-hours 60 --starts 3000",
    "backtest serve LONG_TRACE",
    "bench --seconds 60",
)


#: of processor time: what is imported by then is at work
AT_WORK_SECONDS = 3.0


def worked(family: Sequence[psutil.Process]) -> float:
    """Processor time that these have taken, in seconds."""
    total = 0.0
    for one in family:
        with suppress(psutil.NoSuchProcess):
            total += sum(one.cpu_times()[:2])
    return total


def interrupted(command: str, place: Path, home: Path, *, everybody: bool) -> tuple[int, str, str]:
    """A command that is at work gets Ctrl-C, which a terminal sends to all of its processes; `kill -INT` to one.

    Its exit code, and what it said on standard output and on standard error. None of its processes is left.
    """
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", *command.split()],
        env=os.environ | {"HALVE_HOME": str(home), "PYTHONPATH": path},
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    first = psutil.Process(process.pid)
    family = [first]
    while worked(family) < AT_WORK_SECONDS:
        assert process.poll() is None, f"it was over before it could be interrupted: {process.communicate()}"
        time.sleep(0.1)
        family = [first, *first.children(recursive=True)]
    (os.killpg if everybody else os.kill)(process.pid, signal.SIGINT)
    try:
        said, complained = process.communicate(timeout=60)
        _, left = psutil.wait_procs(family, timeout=60)
        assert left == []
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, said, complained


@pytest.fixture(scope="module")
def long_trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "zone.json"
    ups = spells(mean_up_hours=4.0, mean_down_hours=2.0, heavy_tailed=False, ticks=100_000, tick_seconds=195, seed=0)
    save(path, ups, 195)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "everybody"),
    [
        *(pytest.param(one, True, id=f"{' '.join(one.split()[:2])}, ctrl-c") for one in LONG),
        pytest.param(SEEDS, False, id="simulate --seeds, kill"),
    ],
)
def test_an_interruption_leaves_nothing_half_done(
    tmp_path: Path, long_trace: Path, arguments: str, everybody: bool
) -> None:
    home, place = tmp_path / "home", tmp_path / "place"
    home.mkdir()
    place.mkdir()
    command = re.sub(r"\b(infra|tests)/", f"{ROOT}/\\1/", arguments).replace("LONG_TRACE", str(long_trace))
    code, said, complained = interrupted(command, place, home, everybody=everybody)
    assert (code, said) == (130, ""), complained
    assert "Traceback" not in complained, complained
    assert [path.name for path in place.iterdir()] == []


@SHOWN
@pytest.mark.slow
def test_a_page_that_is_interrupted_is_not_half_written(tmp_path: Path, lived_in: Path) -> None:
    """It is written whole, beside its place, and then put there."""
    page = tmp_path / "october.html"
    page.write_text("what was there")
    for seconds in (0.3, 0.8, 1.3):
        command = [sys.executable, "-m", "orchestrator", "report", "--html", "--output", str(page)]
        process = subprocess.Popen(
            command, env=os.environ | {"HALVE_HOME": str(lived_in)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        said = page.read_text("utf-8")
        assert said == "what was there" or said.rstrip().endswith("</html>")
