"""One backtest as a picture: what could be had, what ran there, and whether the promise was kept.

matplotlib draws it; it is an extra (`halve[plot]`), loaded when a picture is asked for.
"""

from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import Refused
from orchestrator.simulation import backtest, serving
from orchestrator.simulation.backtest import Run, Task
from orchestrator.simulation.serving import STEP_SECONDS, Served, Service
from orchestrator.simulation.traces import Trace
from policies.deadline import earliest_deadline_seconds
from policies.market import IDLE, ON_DEMAND

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".svg", ".png", ".pdf")
WIDTH_INCHES = 9.0
LANE_INCHES = 0.24
PANEL_INCHES = 1.9
#: A long trace is drawn as means over one of these, so that there are not more columns than can be told apart.
COLUMN_MINUTES = (1, 5, 15, 30, 60, 120, 240, 480, 1440, 7 * 1440)
MOST_COLUMNS = 700

#: Of the Okabe-Ito palette: told apart by the colour-blind, and in grey.
SPOT, DEAR, SHORT, HAD, INK = "#0072b2", "#e69f00", "#d55e00", "#cfe3ef", "#444444"

Span = tuple[float, float]


def require(file: Path) -> None:
    """Raises Refused when no picture can be drawn there, before the work for it is done."""
    if file.suffix.lower() not in FORMATS:
        raise Refused(f"--plot {file}: the name must end in {', '.join(FORMATS)}")
    if not file.parent.is_dir():
        raise Refused(f"--plot {file}: there is no folder {file.parent}")
    if find_spec("matplotlib") is None:
        raise Refused("--plot needs matplotlib: pip install 'halve[plot]'")


def draw_job(file: Path, trace: Trace, task: Task, run: Run) -> None:
    """One run of a batch: where it ran, its progress against the deadline, and what it had cost by then."""
    hour = trace.tick_seconds / 3600
    before = backtest.belief_before(trace, run.start_tick)
    steps = list(
        backtest.stretches(trace, task, backtest.require(run.policy), run.start_tick, before),
    )
    ran = [((one.tick - run.start_tick) * hour, one.ticks * hour, one.step.run) for one in steps]
    lasting = list(_lasting(ran))
    deadline, work = task.deadline_seconds / 3600, task.work_seconds / 3600
    window = trace.up[:, run.start_tick : run.start_tick + backtest.deadline_ticks(trace, task)]

    figure, (lanes, progress, cost) = _panels(len(trace.names) + 1, 2)
    _lanes(lanes, [*trace.names, "on-demand"], [_spans(row, hour) for row in window])
    for zone in range(len(trace.names)):
        _bars(lanes, zone, [(at, long) for at, long, what in lasting if what == zone], SPOT)
    _bars(lanes, len(trace.names), [(at, long) for at, long, what in lasting if what == ON_DEMAND], DEAR)
    gone = [
        (ran[index][0], one.step.run)
        for index, (one, later) in enumerate(pairwise(steps), 1)
        if one.step.run >= 0 and not trace.up[one.step.run, later.tick]
    ]
    lanes.plot([at for at, _ in gone], [zone for _, zone in gone], "x", color=SHORT, markersize=5, label="preempted")

    times = [0.0, *(at + long for at, long, _ in ran)]
    done = [0.0, *(min(one.done_seconds / 3600, work) for one in steps)]
    last = [deadline - work - task.overhead_seconds / 3600, deadline - task.overhead_seconds / 3600]
    progress.plot(last, [0, work], "--", color=SHORT, linewidth=1, label="from here only on-demand is in time")
    progress.plot([0, deadline], [0, work], ":", color=INK, linewidth=1, label="even pace")
    progress.plot(times, done, color=SPOT, linewidth=1.8, label="work done")
    progress.set(ylabel="hours of work", ylim=(0, work * 1.05))

    prices = {IDLE: 0.0, ON_DEMAND: task.on_demand_price, **dict(enumerate(task.spot_prices))}
    paid = np.cumsum([0.0, *(long * prices[what] for _, long, what in ran)])
    alone = earliest_deadline_seconds(task.work_seconds, task.overhead_seconds, trace.tick_seconds) / 3600
    dear = alone * task.on_demand_price
    cost.axhline(dear, color=DEAR, linewidth=1, label="on-demand alone")
    cost.axhline(run.optimal_cost, color=INK, linestyle=":", linewidth=1, label="offline optimum")
    cost.plot(times, paid, color=SPOT, linewidth=1.8, label="paid")
    cost.set(ylabel="cost", ylim=(0, 1.08 * max(dear, float(paid[-1]))), xlabel="hours since the start")
    for panel in (lanes, progress, cost):
        panel.axvline(deadline, color=INK, linewidth=1)
    progress.text(deadline, 0, "deadline ", ha="right", va="bottom", fontsize=8, color=INK)
    lanes.set_xlim(0, deadline * 1.01)
    missed = "too late" if run.deadline_missed else f"done after {run.finished_hours or 0:.1f} h"
    _finish(
        figure,
        f"{run.policy}: {work:g} h of work in {deadline:g} h, {missed}",
        f"cost {run.cost:.2f}, {run.ratio:.3f} x the offline optimum; {run.preemptions} preemptions; "
        f"start at tick {run.start_tick}",
        (lanes, progress, cost),
        file,
    )


def draw_serving(file: Path, trace: Trace, service: Service, served: Served, bound: float) -> None:
    """A service: where its replicas ran, how many of which kind were paid, and the minutes with too few."""
    pools, need = len(trace.names), service.goal.replicas
    steps = trace.ticks * trace.tick_seconds // STEP_SECONDS
    counts, short = np.zeros((pools + 1, steps)), np.zeros(steps)
    for one in serving.stretches(trace, service, serving.require(served.policy)):
        part = slice(one.step, one.step + one.steps)
        counts[:, part] = np.array([*one.spots, one.on_demand])[:, None]
        short[part] = one.ready < need
    day = 86400 / trace.tick_seconds

    figure, (lanes, kinds, outage) = _panels(pools + 1, 2)
    _lanes(lanes, [*trace.names, "on-demand"], [_spans(row, 1 / day) for row in trace.up])
    for pool, row in enumerate(counts):
        _bars(lanes, pool, _spans(row > 0, STEP_SECONDS / 86400), SPOT if pool < pools else DEAR)

    minutes = steps * STEP_SECONDS // 60
    column = next((long for long in COLUMN_MINUTES if minutes <= long * MOST_COLUMNS), COLUMN_MINUTES[-1])
    width = column * 60 // STEP_SECONDS
    edges = np.arange(0, steps + width, width).clip(max=steps) * STEP_SECONDS / 86400
    spot, dear = _means(counts[:pools].sum(axis=0), width), _means(counts[pools], width)
    kinds.stairs(spot, edges, fill=True, color=SPOT, label="spot")
    kinds.stairs(spot + dear, edges, baseline=spot, fill=True, color=DEAR, label="on-demand")
    kinds.axhline(need, color=INK, linewidth=1, linestyle=":", label=f"{need} asked for")
    kinds.set(ylabel="replicas paid", ylim=(0, 1.05 * max(need, float((spot + dear).max()))))
    outage.stairs(_means(short, width) * np.diff(edges) * 1440, edges, fill=True, color=SHORT)
    outage.set(
        ylabel=f"minutes short\nin each {f'{column} min' if column < 60 else f'{column // 60} h'}",
        xlabel="days",
        ylim=(0, None),
    )
    lanes.set_xlim(0, steps * STEP_SECONDS / 86400)
    notice = f", notice {service.notice_seconds} s" if service.notice_seconds else ""
    _finish(
        figure,
        f"{served.policy}: {need} replicas for {service.goal.availability * 100:.4g}% of the time, "
        f"cold start {service.goal.cold_start_seconds:g} s{notice}",
        f"cost {served.relative_cost:.3f} of on-demand alone (at best {bound:.3f}); "
        f"all ready {served.availability:.2%}; capacity {served.capacity:.2%}, in the worst hour "
        f"{served.worst_hour:.0%}; {served.preemptions} losses",
        (lanes, kinds, outage),
        file,
    )


def _panels(lanes: int, others: int) -> "tuple[Figure, Sequence[Axes]]":
    from matplotlib.figure import Figure

    heights = [max(0.6, lanes * LANE_INCHES), *[PANEL_INCHES] * others]
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights) + 1.5), layout="constrained")
    return figure, figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)


def _lanes(axes: "Axes", names: Sequence[str], had: Sequence[Iterable[Span]]) -> None:
    """A lane for each name, the first on top; in pale what could be had."""
    for lane, spans in enumerate(had):
        _bars(axes, lane, spans, HAD, high=0.84)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def _bars(axes: "Axes", lane: int, spans: Iterable[Span], colour: str, high: float = 0.5) -> None:
    label = {HAD: "spot to be had", SPOT: "spot", DEAR: "on-demand"}[colour]
    axes.broken_barh(list(spans), (lane - high / 2, high), facecolors=colour, linewidth=0, label=label)


def _lasting(ran: Iterable[tuple[float, float, int]]) -> Iterator[tuple[float, float, int]]:
    """(from, for how long, what), what goes on in one piece: pieces side by side are drawn with seams."""
    for what, pieces in groupby(ran, key=itemgetter(2)):
        first, *others = pieces
        yield first[0], first[1] + sum(long for _, long, _ in others), what


def _spans(flags: "NDArray[np.bool_]", unit: float) -> list[Span]:
    """Where the flags hold, as (from, for how long)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return [(float(low) * unit, float(high - low) * unit) for low, high in edges.reshape(-1, 2)]


def _means(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    sums = np.add.reduceat(values, np.arange(0, len(values), width))
    return np.asarray(sums / np.minimum(width, len(values) - np.arange(0, len(values), width)))


def _finish(figure: "Figure", title: str, under: str, panels: "Sequence[Axes]", file: Path) -> None:
    import matplotlib as mpl

    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        named = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
        if named:
            axes.legend(
                named.values(), named.keys(), loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False
            )
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    panels[0].set_title(under, loc="left", fontsize=9)
    # The same run gives the same file: no date, no random ids; words stay words, to be searched.
    dated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(file.suffix.lower())
    try:
        with mpl.rc_context({"svg.hashsalt": "halve", "svg.fonttype": "none"}):
            figure.savefig(file, dpi=110, metadata=dated)
    except OSError as error:
        raise Refused(f"--plot {file}: cannot be written: {error.strerror}") from None
