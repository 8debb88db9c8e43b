"""halve backtest"""

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from orchestrator.cli.backtest_serve import serve

if TYPE_CHECKING:
    from orchestrator.simulation.backtest import Run, Summary

Number = TypeVar("Number", int, float)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Replay spot policies over traces against the offline optimum.",
)


@app.command()
def job(
    traces: list[Path] | None = typer.Argument(
        None, metavar="TRACE...", help="One file is one zone; of several, any may run it."
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
    policy: str = typer.Option("learned", "--policy", metavar="NAME", help="Or `list`, to see the names."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON; without it, all policies side by side."),
) -> None:
    """Replay a batch under a deadline and compare its cost with the offline optimum.

    What lies before a start is the past from which a policy may learn. A trace is
    {"metadata": {"gap_seconds": G}, "data": [n, ...]} with n instances to be had in that tick.

    Example: halve backtest job us-east-1a.json --task-hours 48 --deadline-hours 60 --starts 24
    """
    from orchestrator.simulation import backtest
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
    trace = load(traces)
    for note in trace.notes:
        typer.echo(f"halve: {note}", err=True)
    task = backtest.task_of(
        trace,
        work_hours=task_hours,
        deadline_hours=deadline_hours,
        overhead_hours=restart_overhead_hours,
        on_demand_price=on_demand_price,
        spot_prices=prices,
    )
    ticks = given if starts is None else backtest.even_starts(trace, task, starts)
    optima = backtest.optima(trace, task, ticks)
    runs = backtest.replay(trace, task, policy, ticks, optima)
    if as_json:
        _print_runs(policy, runs, backtest.summarise(runs), several=starts is not None or len(given) > 1)
        return
    others = {name: backtest.replay(trace, task, name, ticks, optima) for name in POLICIES if name != policy}
    rows = {name: backtest.summarise(found) for name, found in {policy: runs, **others}.items()}
    _print_table(f"{', '.join(trace.names)}: {task_hours:g} h of work in {deadline_hours:g} h", runs, rows)


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


def _print_runs(policy: str, runs: "list[Run]", summary: "Summary", *, several: bool) -> None:
    from json import dumps

    rows = [
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
    report = {
        "policy": policy,
        "runs": [{**row, "start_tick": run.start_tick} for row, run in zip(rows, runs, strict=True)],
        "mean_ratio": summary.mean_ratio,
        "p95_ratio": summary.p95_ratio,
        "worst_ratio": summary.worst_ratio,
        "misses": summary.misses,
    }
    print(dumps(report, indent=2))


def _print_table(title: str, runs: "list[Run]", rows: "dict[str, Summary]") -> None:
    from rich.console import Console
    from rich.table import Table

    optimum = sum(run.optimal_cost for run in runs) / len(runs)
    starts = f"{len(runs)} starts" if len(runs) > 1 else f"start at tick {runs[0].start_tick}"
    table = Table(title=f"{title}\n{starts}; offline optimum {optimum:.2f}; cost / optimum:", title_justify="left")
    table.add_column("policy")
    for column in ("mean", "p95", "worst", "misses", "preemptions", "switches"):
        table.add_column(column, justify="right")
    for name, summary in rows.items():
        ratios = (f"{value:.3f}" for value in (summary.mean_ratio, summary.p95_ratio, summary.worst_ratio))
        table.add_row(name, *ratios, str(summary.misses), str(summary.preemptions), str(summary.switches))
    Console().print(table)
