"""`halve backtest job`: one polarity, honest accounts, the past only, and the published rules left behind."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.errors import Refused
from orchestrator.simulation import backtest
from orchestrator.simulation.backtest import Task
from orchestrator.simulation.synthetic import spells
from orchestrator.simulation.traces import Trace, load
from policies.deadline import POLICIES, Proposing
from policies.hazard import Belief, unseen
from policies.market import IDLE, ON_DEMAND, Job, Market, Step

TRACES = Path(__file__).resolve().parents[2] / "../shared/data/traces"
real = pytest.mark.skipif(not TRACES.is_dir(), reason="the public spot traces are not on this machine")


def trace_of(*zones: list[int], tick: int = 600) -> Trace:
    return Trace(names=tuple(f"z{i}" for i in range(len(zones))), tick_seconds=tick, counts=np.array(zones))


def task(trace: Trace, work: float = 4.0, deadline: float = 8.0, overhead: float = 0.2) -> Task:
    return backtest.task_of(
        trace,
        work_hours=work,
        deadline_hours=deadline,
        overhead_hours=overhead,
        on_demand_price=3.06,
        spot_prices=[0.9731],
    )


def replay(trace: Trace, job: Task, policy: str, starts: list[int]) -> list[backtest.Run]:
    return backtest.replay(trace, job, policy, starts, backtest.optima(trace, job, starts))


def market_of(seed: int, zones: int = 1, ticks: int = 1500, tick: int = 600) -> Trace:
    rows = [
        spells(
            mean_up_hours=3,
            mean_down_hours=2,
            heavy_tailed=zone % 2 == 0,
            ticks=ticks,
            tick_seconds=tick,
            seed=seed * 10 + zone,
        )
        for zone in range(zones)
    ]
    return trace_of(*rows, tick=tick)


def test_one_polarity() -> None:
    """A value counts instances that can be had. The sample is up in 11 of its 32 ticks; upside down it would be 21."""
    trace = load([Path(__file__).parent / "sample_trace.json"])
    assert trace.tick_seconds == 600 and trace.up.sum() == 11
    assert trace.up[0, :4].tolist() == [True, True, False, False]
    run = replay(trace, task(trace, work=1.0, deadline=3.0), "greedy", [14])[0]
    assert run.cost == pytest.approx(3.06 * 8 * 600 / 3600)  # nothing is up from tick 14 on


def test_accounts_by_hand() -> None:
    """Up for 10 ticks, down for 20, up again: 4 h of work are 24 ticks, a start 720 s, the deadline is tick 48."""
    trace = trace_of([1] * 10 + [0] * 20 + [1] * 60)
    run = replay(trace, task(trace), "greedy", [0])[0]
    # first stretch: 10 ticks, 5280 s of work; wait until the shield says on-demand at the latest: spot returns before
    assert (run.preemptions, run.switches, run.deadline_missed) == (1, 1, False)
    assert run.cost == pytest.approx((10 + 17) * 600 / 3600 * 0.9731)  # 9120 s and a start take 17 more ticks
    assert run.finished_hours == pytest.approx((30 * 600 + 720 + 14400 - 5280) / 3600)
    assert run.optimal_cost == pytest.approx(run.cost)  # one stretch alone cannot hold the work


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("zones", [1, 2, 3])
def test_jumping_is_the_same_as_walking(policy: str, zones: int) -> None:
    """What a policy promises to hold, it would also have said tick by tick."""
    trace = market_of(seed=7, zones=zones)
    job = task(trace, work=20, deadline=26)
    propose = POLICIES[policy]

    def walking(now: Job, market: Market, belief: Belief) -> Step:
        step = propose(now, market, belief)
        return Step(run=step.run, reason=step.reason)

    def told(one: Proposing, start: int) -> list[int]:
        before = backtest.belief_before(trace, start)
        return [s.step.run for s in backtest.stretches(trace, job, one, start, before) for _ in range(s.ticks)]

    for start in (0, 311, 900):
        assert told(propose, start) == told(walking, start)


@pytest.mark.parametrize("policy", POLICIES)
def test_nobody_reads_the_future(policy: str) -> None:
    trace = market_of(seed=3, zones=2)
    job = task(trace, work=20, deadline=26)
    whole = list(backtest.stretches(trace, job, POLICIES[policy], 400, backtest.belief_before(trace, 400)))
    for cut in (410, 450, 520):
        counts = trace.counts.copy()
        counts[:, cut:] = 1 - counts[:, cut:]
        other = Trace(names=trace.names, tick_seconds=trace.tick_seconds, counts=counts)
        again = list(backtest.stretches(other, job, POLICIES[policy], 400, backtest.belief_before(other, 400)))

        def before(stretches: list[backtest.Stretch], cut: int = cut) -> list[int]:
            return [s.step.run for s in stretches for tick in range(s.tick, s.tick + s.ticks) if tick < cut]

        assert before(whole) == before(again)


@pytest.mark.parametrize("policy", POLICIES)
def test_never_late_never_below_the_optimum(policy: str) -> None:
    for seed in range(4):
        trace = market_of(seed=seed, zones=1 + seed % 3)
        for deadline in (20.5, 24, 40):
            job = task(trace, work=20, deadline=deadline)
            for run in replay(trace, job, policy, backtest.even_starts(trace, job, 3)):
                assert not run.deadline_missed and run.finished_hours is not None
                assert run.cost >= run.optimal_cost - 1e-9


def test_all_up_and_all_down() -> None:
    for policy in POLICIES:
        up = trace_of([1] * 200)
        job = task(up, work=8, deadline=12)
        run = replay(up, job, policy, [0])[0]
        assert policy == "on-demand" or (run.cost == pytest.approx(run.optimal_cost) and run.switches == 0)
        down = trace_of([0] * 200)
        run = replay(down, job, policy, [0])[0]
        assert run.cost == pytest.approx(50 * 600 / 3600 * 3.06) or policy.startswith(("time-", "uniform-"))
        assert run.optimal_cost == pytest.approx(50 * 600 / 3600 * 3.06)


def test_an_underestimated_overhead_is_told_as_a_miss() -> None:
    """The promise ends where its assumption does: the report must say so, not hide it."""

    def late(now: Job, market: Market, belief: Belief) -> Step:
        return Step(run=IDLE, reason="as if starts were free", hold_ticks=1)

    trace = trace_of([0] * 200)
    job = task(trace, work=8, deadline=8.5)
    assert all(s.step.run in (IDLE, ON_DEMAND) for s in backtest.stretches(trace, job, late, 0, unseen(1)))
    broken = Task(
        work_seconds=8 * 3600,
        deadline_seconds=8 * 3600,
        overhead_seconds=720,
        on_demand_price=3.06,
        spot_prices=(0.9731,),
    )
    run = backtest.replay(trace, broken, "greedy", [0], {0: 1.0})[0]
    assert run.deadline_missed and run.finished_hours is None


def calls_of_a_replay(hours: int, tick: int, policy: str) -> int:
    """How many Python calls one replay takes, C functions included: the same on a busy machine as on an idle one."""
    hour = 3600 // tick
    trace = trace_of(([1] * 2 * hour + [0] * hour) * 60, tick=tick)
    job = task(trace, work=hours, deadline=1.5 * hours)
    count = 0

    def counted(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        backtest.replay(trace, job, policy, [0], {0: 1.0})
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("policy", ["greedy", "time-sliced", "uniform-progress"])
def test_work_grows_with_ticks_not_faster(policy: str) -> None:
    """Twice as many ticks, because the job is twice as long or because a tick is half as long."""
    once = calls_of_a_replay(48, 200, policy)
    assert calls_of_a_replay(96, 200, policy) < 2.3 * once
    assert calls_of_a_replay(48, 100, policy) < 2.3 * once


MUST = [
    pytest.param("availability/1-node/aws-02-15-2023", 52, 1.10, marks=pytest.mark.soak),
    pytest.param("availability/1-node/aws-02-15-2023", 60, 1.065, marks=pytest.mark.soak),
    pytest.param("availability/1-node/aws-02-15-2023", 72, 1.055, marks=pytest.mark.soak),
    pytest.param("preemption/1-node/aws-04-22-2023", 52, 1.13, marks=pytest.mark.soak),
    ("preemption/1-node/aws-04-22-2023", 60, 1.07),
    pytest.param("preemption/1-node/aws-04-22-2023", 72, 1.045, marks=pytest.mark.soak),
]


@real
@pytest.mark.slow
@pytest.mark.parametrize(("folder", "deadline", "must"), MUST)
def test_on_real_traces_each_zone_alone(folder: str, deadline: int, must: float) -> None:
    runs = []
    for file in sorted((TRACES / folder).glob("*.json")):
        trace = load([file])
        job = task(trace, work=48, deadline=deadline)
        runs += replay(trace, job, "learned", backtest.even_starts(trace, job, 24))
    summary = backtest.summarise(runs)
    assert summary.misses == 0
    assert summary.mean_ratio <= must


JOINT = [
    pytest.param("availability/1-node/aws-02-15-2023", 52, 1.045, marks=pytest.mark.soak),
    pytest.param("availability/1-node/aws-02-15-2023", 60, 1.02, marks=pytest.mark.soak),
    pytest.param("availability/1-node/aws-02-15-2023", 72, 1.022, marks=pytest.mark.soak),
    ("preemption/1-node/aws-04-22-2023", 52, 1.22),
    pytest.param("preemption/1-node/aws-04-22-2023", 60, 1.13, marks=pytest.mark.soak),
    pytest.param("preemption/1-node/aws-04-22-2023", 72, 1.065, marks=pytest.mark.soak),
]


@real
@pytest.mark.slow
@pytest.mark.parametrize(("folder", "deadline", "must"), JOINT)
def test_on_real_traces_all_zones_jointly(folder: str, deadline: int, must: float) -> None:
    trace = load(sorted((TRACES / folder).glob("*.json")))
    job = task(trace, work=48, deadline=deadline)
    summary = backtest.summarise(replay(trace, job, "learned", backtest.even_starts(trace, job, 24)))
    assert summary.misses == 0
    assert summary.mean_ratio <= must


# --- the command -----------------------------------------------------------------------------------------------------


def halve(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["backtest", *arguments])
    if isinstance(result.exception, Refused):
        return 1, result.stdout, str(result.exception)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def synthetic(tmp_path: Path) -> str:
    file = str(tmp_path / "zone.json")
    code, _, _ = halve("synth", file, "--mean-up", "3", "--mean-down", "1", "--ticks", "4000", "--seed", "3")
    assert code == 0
    return file


def test_the_json_of_one_run_and_of_several(synthetic: str) -> None:
    code, out, _ = halve(
        "job", synthetic, "--task-hours", "20", "--deadline-hours", "26", "--start-tick", "7", "--json"
    )
    one = json.loads(out)
    assert code == 0
    assert list(one) == [
        "policy",
        "cost",
        "optimal_cost",
        "finished_hours",
        "deadline_missed",
        "preemptions",
        "switches",
    ]
    assert one["policy"] == "learned" and one["finished_hours"] <= 26 and one["deadline_missed"] is False
    code, out, _ = halve(
        *("job", synthetic, "--task-hours", "20", "--deadline-hours", "26", "--starts", "5", "--json"),
        *("--policy", "greedy"),
    )
    several = json.loads(out)
    assert set(several) == {"policy", "runs", "mean_ratio", "p95_ratio", "worst_ratio", "misses"}
    last = 4000 - 26 * 3600 // 195
    assert [run["start_tick"] for run in several["runs"]] == [i * last // 4 for i in range(5)]
    ratios = [run["cost"] / run["optimal_cost"] for run in several["runs"]]
    assert several["mean_ratio"] == pytest.approx(sum(ratios) / 5, abs=1e-6)
    assert several["worst_ratio"] == pytest.approx(max(ratios), abs=1e-6)


def test_each_zone_alone_pools_the_runs_of_all(synthetic: str, tmp_path: Path) -> None:
    other = str(tmp_path / "other.json")
    assert halve("synth", other, "--mean-up", "1", "--ticks", "4000", "--seed", "9")[0] == 0
    asked = ("--task-hours", "8", "--deadline-hours", "10", "--starts", "3", "--policy", "greedy", "--json")
    both = json.loads(halve("job", synthetic, other, "--each", "--spot-price", "1,2", *asked)[1])
    single = [
        json.loads(halve("job", file, "--spot-price", price, *asked)[1])
        for file, price in ((synthetic, "1"), (other, "2"))
    ]
    assert [run.pop("trace") for run in both["runs"]] == ["zone"] * 3 + ["other"] * 3
    assert both["runs"] == single[0]["runs"] + single[1]["runs"]
    assert both["mean_ratio"] == pytest.approx((single[0]["mean_ratio"] + single[1]["mean_ratio"]) / 2)


def test_the_table_fits_a_narrow_terminal(synthetic: str) -> None:
    found = CliRunner(env={"COLUMNS": "80"}).invoke(
        app, ["backtest", "job", synthetic, "--task-hours", "8", "--deadline-hours", "10", "--starts", "2"]
    )
    lines = found.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for name in (*POLICIES, "(offline optimum)"):
        (row,) = (line for line in lines if line.split("  ")[0].strip() == name)
        assert len(row.split()) >= 5


def test_the_table_has_every_policy(synthetic: str) -> None:
    code, out, _ = halve("job", synthetic, "--task-hours", "8", "--deadline-hours", "10", "--starts", "2")
    assert code == 0
    assert all(name[:16] in out for name in POLICIES)
    assert halve("job", "--policy", "list")[1].split() == list(POLICIES)


def test_synth_repeats_itself(tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert halve("synth", str(tmp_path / name), "--heavy-tailed", "--ticks", "500", "--seed", seed)[0] == 0
    a, b, c = ((tmp_path / name).read_text() for name in "abc")
    assert a == b != c
    assert json.loads(a)["metadata"] == {"gap_seconds": 195}


def file_of(folder: Path, content: object, name: str = "bad.json") -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("{", "not JSON"),
        ([1, 2], "a list"),
        ({"data": [1]}, "metadata.gap_seconds"),
        ({"metadata": {"gap_seconds": 0}, "data": [1]}, "metadata.gap_seconds"),
        ({"metadata": {"gap_seconds": "60"}, "data": [1]}, "metadata.gap_seconds"),
        ({"metadata": {"gap_seconds": 60}}, "data"),
        ({"metadata": {"gap_seconds": 60}, "data": []}, "data"),
        ({"metadata": {"gap_seconds": 60}, "data": [1, -1]}, "data[1]"),
        ({"metadata": {"gap_seconds": 60}, "data": [1, "1"]}, 'data[1] must be a whole number of instances, not "1"'),
        ({"metadata": {"gap_seconds": 60}, "data": [1, 0.5]}, "data[1]"),
        ('{"metadata": {"gap_seconds": 60}, "data": [Infinity]}', "data[0]"),
        ('{"metadata": {"gap_seconds": 60}, "data": [NaN]}', "data[0]"),
        ({"metadata": {"gap_seconds": 60}, "data": [[1]]}, "data[0]"),
    ],
)
def test_a_bad_trace_is_refused_by_file_and_field(tmp_path: Path, content: object, names: str) -> None:
    file = file_of(tmp_path, content)
    code, _, error = halve("job", file, "--json")
    assert code == 1
    assert file in error and names in error and "\n" not in error


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--deadline-hours", "3"], "deadline-hours"),
        (["--deadline-hours", "5.05"], "5.2 h"),  # work and a start, in whole ticks
        (["--task-hours", "0"], "task-hours"),
        (["--task-hours", "nan"], "task-hours"),
        (["--restart-overhead-hours", "-1"], "restart-overhead-hours"),
        (["--on-demand-price", "-1"], "on-demand-price"),
        (["--spot-price", "0"], "above 0"),  # an optimum that costs nothing: every ratio would be a lie
        (["--spot-price", "1e300"], "at most 1,000,000,000, not 1e+300"),
        (["--spot-price", "1,2"], "spot-price"),
        (["--policy", "clever"], "clever"),
        (["--start-tick", "999999"], "start-tick"),
        (["--start-tick", "-1"], "start-tick"),
        (["--starts", "0"], "starts"),
        (["--starts", "99999999999"], "from 1 to 10000"),
        (["--deadline-hours", "9999"], "longer than the trace"),
    ],
)
def test_what_cannot_be_is_refused(synthetic: str, options: list[str], names: str) -> None:
    code, _, error = halve("job", synthetic, "--task-hours", "5", "--deadline-hours", "8", *options, "--json")
    assert code == 1
    assert names in error and "\n" not in error


def test_zones_need_one_tick_and_share_a_prefix(tmp_path: Path) -> None:
    long = file_of(tmp_path, {"metadata": {"gap_seconds": 600}, "data": [1] * 200}, "long.json")
    short = file_of(tmp_path, {"metadata": {"gap_seconds": 600}, "data": [1] * 100}, "short.json")
    other = file_of(tmp_path, {"metadata": {"gap_seconds": 300}, "data": [1] * 100}, "other.json")
    options = ("--task-hours", "5", "--deadline-hours", "8", "--json")
    code, out, error = halve("job", long, short, *options)
    assert code == 0 and json.loads(out) and "first 100 ticks" in error
    code, _, error = halve("job", long, other, *options)
    assert code == 1 and other in error and "gap_seconds" in error
    assert halve("job", "--json")[0] == 2
    assert halve("job", long, "--start-tick", "0", "--starts", "3", "--json")[0] == 2
    assert halve("job", str(tmp_path / "none.json"), *options)[0] == 1
