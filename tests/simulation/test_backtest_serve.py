"""`halve backtest serve`: the semantics by hand, the past only, goals kept, and the published rules left behind."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.errors import Refused
from orchestrator.simulation import serving
from orchestrator.simulation.serving import Served, Service, Stretch, service_of
from orchestrator.simulation.serving_bound import bound
from orchestrator.simulation.synthetic import spells
from orchestrator.simulation.traces import Trace, load
from policies.placement import POLICIES
from policies.serving import FOREVER, Decision, Fleet, Goal, Launch

TRACES = Path(__file__).resolve().parents[2] / "../shared/data/traces"
real = pytest.mark.skipif(not TRACES.is_dir(), reason="the public spot traces are not on this machine")
NINE_ZONES = "availability/1-node/aws-02-15-2023"
FOUR_NODES = "preemption/4-node/aws-08-03-2023"


def trace_of(*zones: list[int], tick: int = 300) -> Trace:
    return Trace(names=tuple(f"z{i}" for i in range(len(zones))), tick_seconds=tick, counts=np.array(zones))


def service(trace: Trace, **more: float) -> Service:
    asked = {"replicas": 4, "cold_start_seconds": 180, "spot_ratio": 0.3, **more}
    return service_of(trace, **asked)  # type: ignore[arg-type]


def market_of(seed: int, zones: int = 3, ticks: int = 2000, up: float = 4, down: float = 2, most: int = 1) -> Trace:
    """Zones of `most` machines each; with several, each comes and goes by itself while its zone is up."""

    def row(number: int, up: float, down: float) -> np.ndarray:
        return np.array(
            spells(
                mean_up_hours=up, mean_down_hours=down, heavy_tailed=True, ticks=ticks, tick_seconds=300, seed=number
            )
        )

    def zone(first: int) -> np.ndarray:
        machines = sum(row(first + n, 12 * up, 0.2) for n in range(1, most + 1)) if most > 1 else 1
        return row(first, up, down) * machines

    return trace_of(*(zone(100 * seed + 10 * z).tolist() for z in range(zones)))


def loaded(folder: str) -> Trace:
    return load(sorted((TRACES / folder).glob("*.json")))


def keep(count: int, pool: int):
    """A policy that keeps `count` machines in one pool, and nothing else."""

    def place(fleet: Fleet, goal: Goal, memory: object) -> Decision:
        missing = count - len(fleet.replicas)
        launches = (Launch(pool=pool, reason="kept"),) * missing
        return Decision(launches=launches, hold_seconds=0.0 if missing else FOREVER)

    return place


def course(trace: Trace, asked: Service, place) -> list[tuple[int, int, int, int]]:
    """(ready, spot, on-demand, lost) of each minute."""
    minutes: list[tuple[int, int, int, int]] = []
    for one in serving.stretches(trace, asked, place):
        assert one.step == len(minutes)
        minutes.append((one.ready, one.spot, one.on_demand, one.lost))
        minutes += [(one.ready, one.spot, one.on_demand, 0)] * (one.steps - 1)
    return minutes


def test_a_cold_start_is_billed_and_served_after() -> None:
    trace = trace_of([1] * 36)
    minutes = course(trace, service(trace), keep(2, 0))
    assert minutes[:5] == [(0, 2, 0, 0)] * 3 + [(2, 2, 0, 0)] * 2
    assert len(minutes) == 180


def test_a_zone_that_goes_down_takes_all_and_gives_none() -> None:
    trace = trace_of([1] * 3 + [0] * 2 + [1] * 31)
    minutes = course(trace, service(trace), keep(4, 0))
    assert minutes[14:16] == [(4, 4, 0, 0), (0, 0, 0, 4)]
    assert minutes[24:29] == [(0, 0, 0, 0)] + [(0, 4, 0, 0)] * 3 + [(4, 4, 0, 0)]


def test_where_a_file_exceeds_one_it_is_the_capacity_and_the_newest_are_lost() -> None:
    trace = trace_of([2] * 3 + [3] * 3 + [2] * 2 + [1] * 28)
    minutes = course(trace, service(trace), keep(4, 0))
    assert [minutes[at][1] for at in (14, 15, 29, 30, 39, 40)] == [2, 3, 3, 2, 2, 1]
    assert [minutes[at][0] for at in (17, 18, 29, 30, 40)] == [2, 3, 3, 2, 1], "the oldest serve on"


def test_a_dip_between_two_steps_counts() -> None:
    trace = trace_of([1] * 10 + [0] + [1] * 400, tick=20)
    minutes = course(trace, service(trace), keep(1, 0))
    assert [lost for *_, lost in minutes[:6]] == [0, 0, 0, 0, 1, 0]


def test_the_notice_comes_so_long_before_and_the_machine_serves_on() -> None:
    trace = trace_of([1] * 3 + [0] * 33)
    seen: list[tuple[float, float | None]] = []

    def place(fleet: Fleet, goal: Goal, memory: object) -> Decision:
        seen.extend((fleet.now, one.reclaim_at) for one in fleet.replicas)
        return Decision(launches=(Launch(pool=0, reason="kept"),) if fleet.now == 0 else (), hold_seconds=FOREVER)

    minutes = course(trace, service(trace, notice_seconds=120), place)
    assert (780.0, 900.0) in seen and all(reclaim is None for now, reclaim in seen if now < 780)
    assert minutes[14][0] == 1 and minutes[15] == (0, 0, 0, 1)


def test_accounts_by_hand() -> None:
    """Two hours, one zone, down for the last half hour, spot only: 30 of the 60 scored minutes are served and paid."""
    trace = trace_of([1] * 18 + [0] * 6)
    served = serving.replay(trace, service(trace), "round-robin")
    assert served == Served(
        policy="round-robin",
        relative_cost=pytest.approx(0.15),
        availability=0.5,
        capacity=0.5,
        preemptions=4,
        worst_hour=0.5,
        on_demand_share=0.0,
    )
    assert serving.replay(trace, service(trace), "on-demand").relative_cost == 1.0


@pytest.mark.parametrize("policy", POLICIES)
def test_decisions_read_the_past_only(policy: str) -> None:
    for seed in range(3):
        trace = market_of(seed, ticks=600, most=1 + 3 * (seed % 2))
        upside_down = trace.counts.copy()
        cut = 400
        upside_down[:, cut:] = trace.counts.max() - upside_down[:, cut:]
        other = Trace(names=trace.names, tick_seconds=300, counts=upside_down)
        asked = service(trace)
        until = cut * 300
        ours, theirs = (_decisions(one, asked, policy, until) for one in (trace, other))
        assert ours and ours == theirs
        assert policy != "hazard" or len(ours) > 10


def _decisions(trace: Trace, asked: Service, policy: str, until: int) -> list[tuple[int, Decision]]:
    before = itertools.takewhile(
        lambda one: one.step * serving.STEP_SECONDS < until, serving.stretches(trace, asked, POLICIES[policy])
    )
    return [(one.step, one.decision) for one in before if one.decision.launches or one.decision.stops]


def test_always_up_is_spot_alone_and_never_up_is_on_demand_alone() -> None:
    up = trace_of(*([1] * 2000,) * 3)
    served = serving.replay(up, service(up), "hazard")
    assert (served.availability, served.preemptions, served.on_demand_share) == (1.0, 0, 0.0)
    assert served.relative_cost == pytest.approx(0.3, abs=0.003)
    down = trace_of(*([0] * 2000,) * 3)
    served = serving.replay(down, service(down), "hazard")
    assert (served.relative_cost, served.availability, served.on_demand_share) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("period", [(2, 2), (12, 2), (1, 12)])
def test_it_does_not_flap_between_spot_and_on_demand(period: tuple[int, int]) -> None:
    up, down = period
    trace = trace_of(([1] * up + [0] * down) * (4000 // (up + down)))
    asked = service(trace, availability=0.99)
    flaps = 0
    serves_on_demand = False
    for one in serving.stretches(trace, asked, POLICIES["hazard"]):
        now = one.on_demand > 0 and one.ready >= 4
        flaps += now and not serves_on_demand and one.step > 24 * 60
        serves_on_demand = now if one.ready >= 4 else serves_on_demand
    cycles = trace.ticks // (up + down)
    assert flaps <= cycles / 10
    assert serving.replay(trace, asked, "hazard").relative_cost < 1.05


@pytest.mark.parametrize("up", [1, 4, 24])
@pytest.mark.parametrize("down", [1, 4, 24])
def test_in_synthetic_markets_it_keeps_its_goal_for_less_than_on_demand_alone(up: float, down: float) -> None:
    for most in (1, 5):
        trace = market_of(7, up=up, down=down, most=most)
        asked = service(trace, availability=0.98)
        served = serving.replay(trace, asked, "hazard")
        assert served.availability >= 0.98 - 0.01, "a week is short to learn in"
        assert bound(trace, asked) - 1e-9 <= served.relative_cost < 1.0
        hedged = serving.replay(trace, asked, "spothedge")
        assert served.relative_cost <= hedged.relative_cost + 0.02 or served.availability > hedged.availability


def test_a_stricter_goal_is_kept_better() -> None:
    outages = []
    for goal in (0.95, 0.99, 0.999):
        found = [
            serving.replay(trace, service(trace, availability=goal), "hazard") for trace in map(market_of, range(4))
        ]
        outages.append(sum(1 - one.availability for one in found))
    assert outages[0] > outages[1] > outages[2]


@pytest.mark.parametrize("replicas", [1, 2, 3, 12])
def test_any_number_of_replicas(replicas: int) -> None:
    trace = market_of(3, up=8, down=1)
    served = serving.replay(trace, service(trace, replicas=replicas), "hazard")
    assert served.availability >= 0.985 and served.relative_cost < 0.4


def test_the_bound_by_hand() -> None:
    """Up for the first two of three hours: of the two scored, one on spot, one on demand but for the open share."""
    trace = trace_of([1] * 24 + [0] * 12)
    asked = service(trace, availability=0.9, cold_start_seconds=0)
    assert bound(trace, asked) == pytest.approx((0.3 + 0.8) / 2)
    paid = service(trace, availability=0.9, cold_start_seconds=180)
    assert bound(trace, paid) == pytest.approx((0.3 + 0.8 + 0.8 * 0.05) / 2)


def test_no_policy_that_keeps_the_goal_is_below_the_bound() -> None:
    for seed, policy in itertools.product(range(3), POLICIES):
        trace = market_of(seed, ticks=700, most=1 + 3 * (seed % 2))
        served = serving.replay(trace, service(trace), policy)
        kept = service(trace, availability=min(served.availability, 1 - 1e-9) if served.availability > 0 else 0.01)
        assert bound(trace, kept) <= served.relative_cost + 1e-6


def test_work_grows_with_steps_not_faster() -> None:
    counts = [sum(1 for _ in _run(ticks)) for ticks in (4000, 8000)]
    assert counts[1] < 2.3 * counts[0]


def _run(ticks: int) -> list[Stretch]:
    trace = market_of(5, ticks=ticks)
    return list(serving.stretches(trace, service(trace), POLICIES["hazard"]))


@real
@pytest.mark.parametrize(
    ("folder", "cold", "cost", "availability"),
    [(NINE_ZONES, 180, 0.405, 0.9897), (FOUR_NODES, 180, 0.499, 0.9908), (NINE_ZONES, 600, 0.421, 0.972)],
)
def test_spothedge_is_as_strong_as_measured_elsewhere(folder: str, cold: int, cost: float, availability: float) -> None:
    trace = loaded(folder)
    served = serving.replay(trace, service(trace, cold_start_seconds=cold), "spothedge")
    assert served.relative_cost == pytest.approx(cost, abs=0.006)
    assert served.availability == pytest.approx(availability, abs=0.001)


@real
@pytest.mark.parametrize(
    ("folder", "cold", "goal", "most", "available", "capacity"),
    [
        (NINE_ZONES, 180, 0.99, 0.32, 0.992, 0.994),
        (NINE_ZONES, 180, 0.994, 0.347, 0.994, 0.994),
        (FOUR_NODES, 180, 0.99, 0.37, 0.99, 0.99),
        (NINE_ZONES, 600, 0.98, 0.357, 0.98, 0.98),
        (NINE_ZONES, 600, 0.99, 0.45, 0.99, 0.99),
    ],
)
def test_the_published_are_left_behind(
    folder: str, cold: int, goal: float, most: float, available: float, capacity: float
) -> None:
    trace = loaded(folder)
    asked = service(trace, cold_start_seconds=cold, availability=goal)
    served = serving.replay(trace, asked, "hazard")
    assert served.relative_cost <= most
    assert served.availability >= available and served.capacity >= capacity
    warned = service(trace, cold_start_seconds=cold, availability=goal, notice_seconds=120)
    with_notice = serving.replay(trace, warned, "hazard")
    assert with_notice.availability >= served.availability
    assert with_notice.relative_cost <= served.relative_cost
    assert bound(trace, asked) < served.relative_cost


def write(folder: Path, name: str, counts: list[int], gap: int = 300) -> str:
    file = folder / name
    file.write_text(json.dumps({"metadata": {"gap_seconds": gap}, "data": counts}))
    return str(file)


def test_the_command_prints_what_others_rely_on(tmp_path: Path) -> None:
    one = write(tmp_path, "a.json", [1] * 40 + [0] * 10)
    other = write(tmp_path, "b.json", [0] * 10 + [1] * 30)
    asked = ["backtest", "serve", one, other, "--replicas", "2", "--cold-start-seconds", "180", "--spot-ratio", "0.3"]
    found = CliRunner().invoke(app, [*asked, "--notice-seconds", "120", "--availability", "0.99", "--json"])
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    assert list(report)[:5] == ["policy", "relative_cost", "availability", "capacity", "preemptions"]
    assert report["policy"] == "hazard" and 0 < report["relative_cost"] <= 1
    assert "only the first 40 ticks" in found.stderr
    percent = CliRunner().invoke(app, [*asked, "--notice-seconds", "120", "--availability", "99%", "--json"])
    assert json.loads(percent.stdout) == report
    assert CliRunner().invoke(app, [*asked, "--availability", "high"]).exit_code == 2
    table = CliRunner(env={"COLUMNS": "80"}).invoke(app, asked)
    assert all(name in table.stdout for name in (*POLICIES, "omniscient bound"))
    assert max(map(len, table.stdout.splitlines())) <= 80
    names = CliRunner().invoke(app, ["backtest", "serve", "--policy", "list"])
    assert names.stdout.split() == list(POLICIES)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--policy", "magic"], "--policy"),
        (["--replicas", "0"], "--replicas"),
        (["--cold-start-seconds", "-1"], "--cold-start-seconds"),
        (["--notice-seconds", "-5"], "--notice-seconds"),
        (["--availability", "1"], "--availability"),
        (["--availability", "100%"], "--availability"),
        (["--spot-ratio", "nan"], "--spot-ratio"),
    ],
)
def test_what_cannot_be_replayed_is_refused_by_name(tmp_path: Path, options: list[str], word: str) -> None:
    file = write(tmp_path, "a.json", [1] * 40)
    found = CliRunner().invoke(app, ["backtest", "serve", file, *options])
    assert isinstance(found.exception, Refused) and word in str(found.exception)


def test_a_trace_too_short_to_score_is_refused() -> None:
    trace = trace_of([1] * 20)
    with pytest.raises(Refused, match="not scored"):
        service(trace)
