"""Published ways to place replicas, as rules: on-demand only, round robin, and SpotHedge (SkyServe, arXiv 2411.01438).

They are here to be compared with. Where a paper and its code differ, these follow the paper.
"""

from dataclasses import dataclass

from policies.serving import FOREVER, ON_DEMAND, Decision, Fleet, Goal, Launch, Stop

#: How many spot replicas SpotHedge keeps beyond the goal.
SPOTHEDGE_EXTRA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Round robin's memory: whose turn it is."""

    next_pool: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Zones:
    """SpotHedge's memory: pools that took or refused a machine and have not given one since."""

    preempting: frozenset[int] = frozenset()
    tried: tuple[int, ...] = ()


def on_demand(fleet: Fleet, goal: Goal, memory: object = None) -> Decision:
    """Keep on-demand replicas alone."""
    missing = goal.replicas - len(fleet.replicas)
    return Decision(
        launches=(Launch(pool=ON_DEMAND, reason="on-demand only"),) * max(0, missing),
        stops=tuple(Stop(id=one.id, reason="surplus") for one in fleet.replicas[goal.replicas :]),
        hold_seconds=FOREVER,
    )


def round_robin(fleet: Fleet, goal: Goal, memory: Turn | None = None) -> Decision:
    """Keep spot replicas, each launch in the next pool in turn; no on-demand."""
    turn = (memory or Turn()).next_pool
    missing = max(0, goal.replicas - len(fleet.replicas))
    pools = len(fleet.pools)
    launches = tuple(Launch(pool=(turn + n) % pools, reason="next in turn") for n in range(missing))
    return Decision(
        launches=launches,
        memory=Turn(next_pool=(turn + missing) % pools),
        hold_seconds=0.0 if missing else FOREVER,
    )


def spothedge(fleet: Fleet, goal: Goal, memory: Zones | None = None) -> Decision:
    """Keep `goal.replicas` + SPOTHEDGE_EXTRA spot replicas in pools that have not refused of late, and on-demand ones
    while fewer are ready: min(replicas, replicas + extra - ready spot)."""
    known = memory or Zones()
    pools = frozenset(range(len(fleet.pools)))
    failed = frozenset(fleet.lost) | frozenset(fleet.refused)
    given = frozenset(known.tried) - frozenset(fleet.refused)
    preempting = (known.preempting - given) | failed
    if len(pools - preempting) < 2:
        preempting = frozenset()
    spots = [one for one in fleet.replicas if one.pool != ON_DEMAND]
    held = [one for one in fleet.replicas if one.pool == ON_DEMAND]
    wanted = goal.replicas + SPOTHEDGE_EXTRA
    counts = [sum(one.pool == pool for one in spots) for pool in range(len(fleet.pools))]
    launches = []
    for _ in range(wanted - len(spots)):
        pool = min(pools - preempting, key=lambda zone: (counts[zone], fleet.pools[zone], zone))
        counts[pool] += 1
        launches.append(Launch(pool=pool, reason="fewest replicas among the active pools"))
    tried = tuple(one.pool for one in launches)
    fallback = min(goal.replicas, wanted - sum(one.ready for one in spots))
    missing = fallback - len(held)
    launches += [Launch(pool=ON_DEMAND, reason="spot replicas are missing")] * max(0, missing)
    surplus = sorted(held, key=lambda one: (one.ready, -one.launched_at))[: max(0, -missing)]
    return Decision(
        launches=tuple(launches),
        stops=tuple(Stop(id=one.id, reason="spot replicas are ready") for one in surplus),
        memory=Zones(preempting=preempting, tried=tried),
        hold_seconds=0.0 if tried else FOREVER,
    )
