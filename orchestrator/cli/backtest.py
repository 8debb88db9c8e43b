"""halve backtest"""

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from orchestrator.cli.backtest_serve import serve

if TYPE_CHECKING:
    from orchestrator.simulation.backtest import Run, Task
    from orchestrator.simulation.traces import Trace

Number = TypeVar("Number", int, float)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Replay spot policies over traces against the offline optimum.\n\nExample: halve backtest job us-east-1a.json",
)


@app.command()
def job(
    traces: list[Path] | None = typer.Argument(
        None, metavar="TRACE...", help="One file is one zone; the job may move between several."
    ),
    task_hours: float = typer.Option(48.0, "--task-hours", help="Hours of work."),
    deadline_hours: float = typer.Option(60.0, "--deadline-hours", help="Hours until it must be done."),
    restart_overhead_hours: float = typer.Option(0.2, "--restart-overhead-hours", help="Hours lost by every start."),
    on_demand_price: float = typer.Option(3.06, "--on-demand-price", help="Price of an on-demand hour."),
    spot_price: str = typer.Option(
        "0.9731", "--spot-price", metavar="P[,P...]", help="Spot hour; one, or one per zone."
    ),
    start_tick: str | None = typer.Option(
        None, "--start-tick", metavar="N[,N...]", help="Ticks to start at. Default: 0."
    ),
    starts: int | None = typer.Option(None, "--starts", metavar="N", help="Instead: N starts, evenly over the trace."),
    each: bool = typer.Option(False, "--each", help="Each zone alone instead, all runs in one table."),
    policy: str = typer.Option("learned", "--policy", metavar="NAME", help="Or `list`, to see the names."),
    plot: Path | None = typer.Option(
        None, "--plot", metavar="FILE", help="Draw the policy's first run: .svg, .png or .pdf."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON; without it, all policies side by side."),
) -> None:
    """Replay a batch under a deadline and compare its cost with the offline optimum.

    What lies before a start is the past from which a policy may learn. A trace is
    {"metadata": {"gap_seconds": G}, "data": [n, ...]} with n instances to be had in that tick.

    Example: halve backtest job us-east-1a.json --task-hours 48 --deadline-hours 60 --starts 24 --plot out.svg
    """
    from orchestrator.cli.bar import bar
    from orchestrator.simulation import backtest
    from orchestrator.simulation import plot as pictures
    from orchestrator.simulation.traces import load
    from policies.deadline import POLICIES

    if policy == "list":
        _print_names(list(POLICIES), as_json)
        return
    if not traces:
        raise typer.BadParameter("at least one trace file is needed", param_hint="TRACE...")
    if start_tick is not None and starts is not None:
        raise typer.BadParameter("give --start-tick or --starts, not both", param_hint="--starts")
    prices = _numbers(spot_price, float, "--spot-price")
    given = _numbers(start_tick or "0", int, "--start-tick")
    backtest.require(policy)
    if plot is not None:
        pictures.require(plot)
    together = load(traces)
    for note in together.notes:
        typer.echo(f"halve: {note}", err=True)
    task = backtest.task_of(
        together,
        work_hours=task_hours,
        deadline_hours=deadline_hours,
        overhead_hours=restart_overhead_hours,
        on_demand_price=on_demand_price,
        spot_prices=prices,
    )
    ticks = given if starts is None else backtest.even_starts(together, task, starts)
    markets = backtest.alone(together, task) if each else [(together, task)]
    names = (policy,) if as_json else tuple(dict.fromkeys((policy, *POLICIES)))
    played: dict[str, list[list[Run]]] = {name: [] for name in names}
    with bar("replaying", len(markets) * (1 + len(names)), "replays") as done:
        for number, (trace, asked) in enumerate(markets):
            best = backtest.optima(trace, asked, ticks)
            for step, name in enumerate(names, 1):
                done(number * (1 + len(names)) + step)
                played[name].append(backtest.replay(trace, asked, name, ticks, best))
    found = played[policy]
    if plot is not None:
        pictures.draw_job(plot, *markets[0], found[0][0])
        typer.echo(f"halve: {plot} shows {_names(markets[0][0])} from tick {ticks[0]}", err=True)
    if as_json:
        several = starts is not None or len(given) > 1 or len(markets) > 1
        _print_runs(policy, markets, found, several=several, each=each)
        return
    rows = {name: [run for part in parts for run in part] for name, parts in played.items()}
    where = f"each of {_names(together)} alone" if each else _names(together)
    _print_table(f"{where}: {task_hours:g} h of work in {deadline_hours:g} h", rows, ticks)


app.command()(serve)


@app.command()
def synth(
    out: Path = typer.Argument(metavar="OUT", help="The file to write."),
    mean_up: float = typer.Option(4.0, "--mean-up", metavar="HOURS", help="Mean time with spot machines."),
    mean_down: float = typer.Option(2.0, "--mean-down", metavar="HOURS", help="Mean time without."),
    heavy_tailed: bool = typer.Option(False, "--heavy-tailed", help="Few very long spells, many short ones."),
    ticks: int = typer.Option(10_000, "--ticks", help="Length of the trace."),
    gap: int = typer.Option(195, "--gap", metavar="SECONDS", help="Seconds of a tick."),
    seed: int = typer.Option(0, "--seed", help="The same seed gives the same trace."),
) -> None:
    """Write a synthetic trace of one zone.

    Example: halve backtest synth zone.json --mean-up 6 --mean-down 1 --heavy-tailed --seed 7
    """
    from orchestrator.simulation.synthetic import spells
    from orchestrator.simulation.traces import save

    counts = spells(
        mean_up_hours=mean_up,
        mean_down_hours=mean_down,
        heavy_tailed=heavy_tailed,
        ticks=ticks,
        tick_seconds=gap,
        seed=seed,
    )
    save(out, counts, gap)
    print(f"{out}: {ticks} ticks of {gap} s, spot in {sum(counts) / ticks:.0%} of them")


def _numbers(text: str, kind: type[Number], option: str) -> list[Number]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number, or several with commas", param_hint=option) from None


def _print_names(names: list[str], as_json: bool) -> None:
    from json import dumps

    print(dumps(names) if as_json else "\n".join(names))


def _names(trace: "Trace") -> str:
    names = trace.names
    return ", ".join(names) if len(names) < 4 else f"{len(names)} zones ({names[0]} to {names[-1]})"


def _print_runs(
    policy: str, markets: "list[tuple[Trace, Task]]", found: "list[list[Run]]", *, several: bool, each: bool
) -> None:
    from json import dumps

    from orchestrator.simulation.backtest import summarise

    runs = [run for part in found for run in part]
    rows: list[dict[str, object]] = [
        {
            "policy": run.policy,
            "cost": round(run.cost, 6),
            "optimal_cost": round(run.optimal_cost, 6),
            "finished_hours": run.finished_hours,
            "deadline_missed": run.deadline_missed,
            "preemptions": run.preemptions,
            "switches": run.switches,
        }
        for run in runs
    ]
    if not several:
        print(dumps(rows[0], indent=2))
        return
    for row, run in zip(rows, runs, strict=True):
        row["start_tick"] = run.start_tick
    if each:
        zones = [trace.names[0] for (trace, _), part in zip(markets, found, strict=True) for _ in part]
        for row, zone in zip(rows, zones, strict=True):
            row["trace"] = zone
    total = summarise(runs)
    report = {
        "policy": policy,
        "runs": rows,
        "mean_ratio": total.mean_ratio,
        "p95_ratio": total.p95_ratio,
        "worst_ratio": total.worst_ratio,
        "misses": total.misses,
    }
    print(dumps(report, indent=2))


def _print_table(title: str, rows: "dict[str, list[Run]]", ticks: list[int]) -> None:
    from orchestrator.reports.figures import console, table
    from orchestrator.simulation.backtest import summarise

    starts = f"{len(ticks)} starts" if len(ticks) > 1 else f"start at tick {ticks[0]}"
    columns = ("policy", "mean cost", "mean", "p95", "worst", "missed", "preempted")
    shown = table(*columns, title=f"{title}\n{starts}; mean, p95 and worst are cost / offline optimum")
    best: list[Run] = []
    for name, runs in rows.items():
        total, best = summarise(runs), runs
        ratios = (f"{value:.3f}" for value in (total.mean_ratio, total.p95_ratio, total.worst_ratio))
        cost = sum(run.cost for run in runs) / len(runs)
        shown.add_row(name, f"{cost:.2f}", *ratios, str(total.misses), str(total.preemptions))
    shown.add_row("(offline optimum)", f"{sum(run.optimal_cost for run in best) / len(best):.2f}", *["1.000"] * 3)
    console().print(shown)
