"""halve backtest serve"""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from orchestrator.simulation.serving import Served, Service
    from orchestrator.simulation.traces import Trace


def serve(
    traces: list[Path] | None = typer.Argument(
        None, metavar="TRACE...", help="One file is one zone; replicas may run in all."
    ),
    replicas: int = typer.Option(4, "--replicas", help="Replicas that must be ready."),
    cold_start_seconds: float = typer.Option(180.0, "--cold-start-seconds", help="From launch to ready; billed."),
    spot_ratio: float = typer.Option(0.3, "--spot-ratio", help="Spot price over on-demand price."),
    notice_seconds: int = typer.Option(0, "--notice-seconds", help="How long before a loss it is said."),
    availability: str = typer.Option(
        "0.99",
        "--availability",
        metavar="SHARE",
        help="Share of time with all replicas ready, such as 0.995 or 99.5%, to keep at least cost.",
    ),
    guard: bool = typer.Option(False, "--guard", help="Survive the loss of any one zone."),
    policy: str = typer.Option("hazard", "--policy", metavar="NAME", help="Or `list`, to see the names."),
    plot: Path | None = typer.Option(None, "--plot", metavar="FILE", help="Draw the policy's run: .svg, .png or .pdf."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON; without it, all policies side by side."),
) -> None:
    """Replay a service on spot machines and compare its cost with on-demand and with the omniscient bound.

    If no file exceeds 1, a zone that is up holds any number of replicas; otherwise a value is how many it holds, and
    the newest are lost first. Steps of 60 s; the first hour is not scored.

    Example: halve backtest serve us-east-1a.json us-east-1b.json --replicas 4 --availability 0.995
    """
    from json import dumps

    from orchestrator.cli.bar import bar
    from orchestrator.simulation import plot as pictures
    from orchestrator.simulation import serving, serving_bound
    from orchestrator.simulation.traces import load
    from policies.placement import POLICIES

    names = list(POLICIES)
    if policy == "list":
        print(dumps(names) if as_json else "\n".join(names))
        return
    if not traces:
        raise typer.BadParameter("at least one trace file is needed", param_hint="TRACE...")
    goal = _share(availability)
    serving.require(policy)
    if plot is not None:
        pictures.require(plot)
    trace = load(traces)
    for note in trace.notes:
        typer.echo(f"halve: {note}", err=True)
    service = serving.service_of(
        trace,
        replicas=replicas,
        cold_start_seconds=cold_start_seconds,
        spot_ratio=spot_ratio,
        notice_seconds=notice_seconds,
        availability=goal,
        guard=guard,
    )
    wanted = [policy] if as_json else list(dict.fromkeys((policy, *names)))
    with bar("replaying", 1 + len(wanted), "replays") as done:
        bound = serving_bound.bound(trace, service)
        rows = []
        for step, name in enumerate(wanted, 1):
            done(step)
            rows.append(serving.replay(trace, service, name))
    served = rows[0]
    if plot is not None:
        pictures.draw_serving(plot, trace, service, served, bound)
        typer.echo(f"halve: {plot} shows {policy}", err=True)
    if as_json:
        print(dumps(_report(served, bound), indent=2))
        return
    _print_table(_title(trace, service), rows, bound)


def _share(text: str) -> float:
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a share such as 0.995 or 99.5%", param_hint="--availability"
        ) from None


def _report(served: "Served", bound: float) -> dict[str, str | float | int]:
    return {
        "policy": served.policy,
        "relative_cost": round(served.relative_cost, 6),
        "availability": round(served.availability, 6),
        "capacity": round(served.capacity, 6),
        "preemptions": served.preemptions,
        "worst_hour": round(served.worst_hour, 6),
        "bound": round(bound, 6),
    }


def _title(trace: "Trace", service: "Service") -> str:
    names = trace.names
    zones = ", ".join(names) if len(names) < 4 else f"{len(names)} zones ({names[0]} to {names[-1]})"
    notice = f", notice {service.notice_seconds} s" if service.notice_seconds else ""
    return (
        f"{zones}\n{service.goal.replicas} replicas for {service.goal.availability * 100:.4g}% of the time, "
        f"cold start {service.goal.cold_start_seconds:g} s, spot at {service.spot_ratio:g} of on-demand{notice}"
    )


def _print_table(title: str, rows: "list[Served]", bound: float) -> None:
    from orchestrator.reports.figures import console, table

    columns = ("policy", "cost", "available", "capacity", "worst hour", "on-demand", "losses")
    shown = table(*columns, title=f"{title}\ncost: on-demand alone is 1")
    for one in rows:
        shares = (f"{value:.2%}" for value in (one.availability, one.capacity))
        shown.add_row(
            one.policy,
            f"{one.relative_cost:.3f}",
            *shares,
            f"{one.worst_hour:.0%}",
            f"{one.on_demand_share:.1%}",
            str(one.preemptions),
        )
    shown.add_row("(omniscient bound)", f"{bound:.3f}")
    console().print(shown)
