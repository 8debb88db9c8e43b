"""halve simulate"""

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import timedelta

    from orchestrator.simulation.bad_day import Fault
    from orchestrator.simulation.month import Recorded


def simulate(
    paths: list[Path] | None = typer.Argument(
        None, metavar="[SPEC]...", help="The deployment's YAML file, several with --compare; not with --seeds."
    ),
    month: str | None = typer.Option(None, "--month", metavar="YYYY-MM", help="The month to live through."),
    ledger: Path | None = typer.Option(None, "--ledger", metavar="FILE", help="Where the simulated ledger is written."),
    compare: bool = typer.Option(False, "--compare", help="Several specs in the same month, side by side."),
    load: Path | None = typer.Option(None, "--load", metavar="CSV", help="Recorded load: columns at, images."),
    trace: list[Path] | None = typer.Option(
        None, "--trace", metavar="JSON", help="Recorded spot availability, once for each zone of the market."
    ),
    seed: int = typer.Option(1, "--seed", help="Of the market and of the demand; with --story, of the bad day."),
    seeds: int | None = typer.Option(None, "--seeds", metavar="N", help="Instead: N bad days, an invariant each tick."),
    first_seed: int = typer.Option(1, "--first-seed", metavar="K", help="The first of them."),
    faults: str = typer.Option("all", "--faults", metavar="NAMES", help="What goes wrong: all, or names with commas."),
    story: bool = typer.Option(False, "--story", help="Tell the bad day of --seed in words."),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Run the loop on a virtual clock: a month, or bad days.

    A month: every provider is replaced by a market at the spec's prices, and only FILE is written, marked as
    simulated; `halve report --ledger FILE` reads it. With --compare nothing is written: each spec lives through the
    same month, under the same load, and a table says what it came to. Bad days: markets, daemons and clocks in which
    everything goes wrong, each from its seed; exit code 1 when an invariant breaks, and `--seed K --story` tells how.

    Example: halve simulate infra/examples/spot-fleet.yaml --month 2026-10 --ledger october.db
    """
    from orchestrator.errors import Refused
    from orchestrator.simulation.bad_day import faults_of

    if story:
        _tell(seed, faults_of(faults))
    elif seeds is not None:
        _live(seeds, first_seed, faults_of(faults), json)
    elif compare and paths and month is not None and ledger is None:
        _compare(paths, month, seed, load, trace or [], json)
    elif compare or paths is None or len(paths) != 1 or month is None or ledger is None:
        raise Refused(
            "simulate: want SPEC --month YYYY-MM --ledger FILE, or --compare SPEC... --month YYYY-MM, or --seeds N, "
            "or --seed K --story"
        )
    else:
        _month(paths[0], month, ledger, seed, load, trace or [], json)


def _compare(paths: list[Path], month: str, seed: int, load: Path | None, traces: list[Path], json: bool) -> None:
    from json import dumps

    from orchestrator.reports.figures import console
    from orchestrator.simulation import side_by_side

    with _watched(month, len(paths)) as each:
        found = side_by_side.compare(paths, month, seed, _recorded(load, traces, month), each)
    if json:
        print(dumps(side_by_side.to_json(found), ensure_ascii=False))
        return
    console().print(side_by_side.table(found))
    console().print("SIMULATED: no machine ran and no money was spent.", style="dim")


def _recorded(load: Path | None, traces: list[Path], month: str) -> "Recorded":
    from orchestrator.simulation import recorded
    from orchestrator.simulation.month import Recorded

    return Recorded(images=None if load is None else recorded.load(load, month), traces=tuple(traces))


@contextmanager
def _watched(month: str, times: int = 1) -> "Iterator[Callable[[timedelta], None]]":
    """A bar over so many lives of a month; yields what is to be told how much time was lived through."""
    from datetime import timedelta

    from orchestrator.cli.bar import bar
    from orchestrator.simulation.month import calendar_month

    first, following = calendar_month(month)
    day = timedelta(days=1)
    with bar(f"simulating {month}", (following - first) * times / day, "days") as done:
        yield lambda lived: done(lived / day)


def _month(path: Path, month: str, ledger: Path, seed: int, load: Path | None, traces: list[Path], json: bool) -> None:
    from dataclasses import asdict
    from json import dumps

    from orchestrator import spec
    from orchestrator.simulation.month import simulate as run

    wanted = spec.load(path)
    with _watched(month) as each:
        text = path.read_text(encoding="utf-8")
        found = run(wanted, text, str(path), month, ledger, seed, _recorded(load, traces, month), each)
    if json:
        print(dumps(asdict(found)))
        return
    print(
        f"simulated {month}: {found.ticks} ticks, {found.launches} launches, {found.preemptions} preemptions, "
        f"{found.images} images read, {found.refused} refused"
    )
    print(f"read it with: halve report --month {month} --ledger {ledger}")


def _live(seeds: int, first: int, faults: "frozenset[Fault]", json: bool) -> None:
    from itertools import count
    from json import dumps

    from orchestrator.cli.bar import bar
    from orchestrator.simulation.trials import run

    lived = count(1)
    with bar("bad days", seeds, "days") as done:
        report = run(first, seeds, faults, each=lambda: done(next(lived)))
    if json:
        print(dumps(report.to_json(), ensure_ascii=False))
    else:
        happened = ", ".join(f"{count} {name}" for name, count in sorted(report.faults.items()))
        print(f"{report.seeds} bad days, {report.ticks} ticks, {report.launches} launches")
        print(f"what went wrong: {happened or 'nothing'}")
        for one in report.violations:
            print(f"BROKEN seed {one.seed}, tick {one.tick}: {one.invariant}")
            print(f"  {one.story.splitlines()[-1]}")
            print(f"  the whole story: halve simulate --seed {one.seed} --story")
        if not report.violations:
            print("no invariant was broken")
    raise SystemExit(1 if report.violations else 0)


def _tell(seed: int, faults: "frozenset[Fault]") -> None:
    from orchestrator.simulation.trials import story

    text, violation = story(seed, faults)
    print(text)
    raise SystemExit(0 if violation is None else 1)
