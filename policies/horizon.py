"""The best action at every instant of a job, from hazards: a finite-horizon dynamic program over a coarse grid.

State: time left, slack (time left minus work left), what runs, and the age bucket of two sources of spot machines.
The first source is the zone in question; the second is the best of the other zones, which may have a spare behind it.
The grid is coarse because the shield (policies.deadline) is exact: a poor table costs money, never the deadline.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from policies.hazard import AGES_HOURS, Hazards, life_hours

Floats = NDArray[np.float32]

#: Actions, and what runs before them ("nothing"), as the codes of an `Atlas`.
NOTHING, ON_DEMAND, FIRST, SECOND = range(4)

#: The grid with one source and with two: hours of a step, hours of slack, and the most of each.
STEP_HOURS = (0.2, 0.4)
SLACK_UNIT_HOURS = (0.1, 0.2)
MOST_STEPS = (400, 200)
MOST_SLACK_UNITS = (260, 130)
_NEVER = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Spot machines at one price per hour.

    `spare` is the chance that when one is lost another is ready: the best of `spares`, as many as are up on average.
    """

    hazards: Hazards
    price: float
    spare: float = 0.0
    spares: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Atlas:
    """The best action by [time left, state of first, state of second, slack], on the grid below.

    A source's state is its age bucket: 0..K-1 when up, K..2K-1 when down. Two bits for each thing that may be running.
    """

    actions: NDArray[np.uint8]
    step_hours: float
    unit_hours: float

    def action(self, left_hours: float, slack_hours: float, running: int, first: int, second: int = 0) -> int:
        """The action at the nearest grid point; with more slack than the grid has, at the same work left."""
        steps, _, _, units = self.actions.shape
        most = (units - 1) * self.unit_hours
        if slack_hours > most:
            left_hours, slack_hours = left_hours - (slack_hours - most), most
        unit = max(0, round(slack_hours / self.unit_hours))
        step = min(steps - 1, max(1, round(left_hours / self.step_hours)))
        return int(self.actions[step, first, second, unit]) >> 2 * running & 3

    def same_for_hours(self, left_hours: float) -> float:
        """How long the nearest point in time stays the nearest."""
        return ((left_hours / self.step_hours - 0.5) % 1.0) * self.step_hours


@lru_cache(maxsize=24)
def solve(
    sources: tuple[Source, ...],
    *,
    on_demand_price: float,
    overhead_hours: float,
    tick_hours: float,
    left_hours: float,
    slack_hours: float,
) -> Atlas:
    """Solve backwards in time for one or two sources. Pure; the cache only saves time.

    Bellman's equation of a semi-Markov market: from one step to the next a machine is lost with the hazard of its age
    bucket, a start takes its overhead out of the slack at once, and what an interrupted start did not use of it comes
    back.
    """
    unit, per_start, per_step = _grid(len(sources) - 1, overhead_hours, tick_hours, left_hours, slack_hours)
    step = unit * per_step
    steps = max(1, math.ceil(left_hours / step - 1e-9))
    slack = np.arange(math.ceil(slack_hours / unit - 1e-9) + 1, dtype=np.float32) * np.float32(unit)
    first = _chain(sources[0], step)
    second = _chain(sources[1], step) if len(sources) > 1 else _ABSENT
    moves = (first.move, second.move)
    spots = [(FIRST, sources[0].price, first.ups, (first.keep, second.move), (first.lose, second.move))]
    if len(sources) > 1:
        spots.append((SECOND, sources[1].price, second.ups, (first.move, second.keep), (first.move, second.lose)))

    shape = (len(first.move), len(second.move), len(slack))
    values = [np.zeros(shape, np.float32) for _ in range(2 + len(spots))]
    actions = np.zeros((steps + 1, *shape), np.uint8)
    unsafe = slack < overhead_hours - 1e-4
    unsafe_step = slack - step < overhead_hours - 1e-4
    unsafe_start = slack - per_start * unit < overhead_hours - 1e-4
    for left in range(1, steps + 1):
        ahead = left * step
        busy = np.clip(ahead - slack, 0.0, step)
        starting = np.clip(ahead - slack + overhead_hours, 0.0, step)
        kept = _after(values[ON_DEMAND], moves)
        best = _later(_after(values[NOTHING], moves), per_step)
        best[..., unsafe_step] = _NEVER
        code = np.zeros(shape, np.uint8)
        stay = [best, kept + on_demand_price * busy]
        anew = [best, _later(kept, per_start) + on_demand_price * starting]
        for running, price, ups, keep, lose in spots:
            held, gone = _after(values[running], keep), _after(values[NOTHING], lose)
            stay.append(held + gone + price * busy)
            anew.append(_later(held, per_start) + _later(gone, min(per_step, per_start)) + price * starting)
            for table, forbidden in ((stay[-1], unsafe), (anew[-1], unsafe_start)):
                table[..., forbidden] = _NEVER
                (table if running == FIRST else table.swapaxes(0, 1))[ups:] = _NEVER
        for action in range(1, len(anew)):
            code[anew[action] < best] = action
            best = np.minimum(best, anew[action])
        values = [best]
        actions[left] = code
        for running in range(1, len(stay)):
            actions[left] |= np.where(stay[running] <= best, np.uint8(running), code) << np.uint8(2 * running)
            values.append(np.minimum(best, stay[running]))
        for table in values:
            table[..., slack >= ahead - 1e-4] = 0.0
    return Atlas(actions=actions, step_hours=step, unit_hours=unit)


def _grid(size: int, overhead: float, tick: float, left: float, slack: float) -> tuple[float, int, int]:
    """Slack unit in hours, units per start, units per step: whole numbers, so that nothing is interpolated."""
    coarsest = max(SLACK_UNIT_HOURS[size], slack / MOST_SLACK_UNITS[size])
    per_start = max(1, math.ceil(overhead / coarsest - 1e-9)) if overhead > coarsest / 4 else 0
    unit = max(overhead / per_start, coarsest / 2) if per_start else coarsest
    return unit, per_start, max(1, round(max(STEP_HOURS[size], tick, left / MOST_STEPS[size]) / unit))


@dataclass(frozen=True, slots=True)
class _Chain:
    """One source between two steps: the chances of moving, of moving with the machine kept, and with it lost."""

    move: Floats
    keep: Floats
    lose: Floats
    ups: int


_ABSENT = _Chain(np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32), 0)


def _chain(source: Source, step: float) -> _Chain:
    ups = len(AGES_HOURS)
    widths = [high - low for low, high in pairwise(AGES_HOURS)]
    kept = np.zeros((2 * ups, 2 * ups))
    whole = np.zeros((2 * ups, 2 * ups))
    for side, rates in enumerate((source.hazards.losses, source.hazards.returns)):
        base = side * ups
        for index, rate in enumerate(rates):
            here = base + index
            if index < len(widths):
                whole[here, here + 1] += 1 / widths[index]
                kept[here, here + 1] += 1 / widths[index]
            if side:
                whole[here, 0] += rate
            else:
                whole[here, ups] += rate * (1 - source.spare)
                whole[here, :ups] += rate * source.spare * _ages_met(source.hazards, source.spares)
                kept[here, here] -= rate
    for rate_matrix in (whole, kept):
        off = rate_matrix - np.diag(np.diag(rate_matrix))
        exits = off.sum(axis=1)
        np.fill_diagonal(rate_matrix, np.diag(rate_matrix) - exits)
    move = _exponential(whole * step)
    keep = np.zeros_like(move)
    keep[:ups, :ups] = _exponential(kept[:ups, :ups] * step)
    lose = move - keep
    lose[ups:] = 0.0
    return _Chain(move.astype(np.float32), keep.astype(np.float32), lose.astype(np.float32), ups)


def _ages_met(hazards: Hazards, machines: float) -> NDArray[np.float64]:
    """The chances of each age bucket for the oldest of so many machines, each met at any moment of its life."""
    lives = np.array([life_hours(hazards.losses, most=edge) for edge in (*AGES_HOURS, math.inf)])
    return np.diff((lives / lives[-1]) ** max(1.0, machines))


def _exponential(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(rates) by scaling and squaring of the Taylor series."""
    scaled = rates / 64
    term: NDArray[np.float64] = np.eye(len(rates))
    total = term
    for order in range(1, 9):
        term = term @ scaled / order
        total = total + term
    for _ in range(6):
        total = total @ total
    return total


def _after(value: Floats, moves: tuple[Floats, Floats]) -> Floats:
    """Expectation of a value by [first, second, slack] over the moves of both sources."""
    first, second = moves
    # Many small products: one large one would wake the linear algebra library's threads, at a loss.
    moved: Floats = np.matmul(first, value.swapaxes(0, 1)).swapaxes(0, 1)
    if len(second) > 1:
        moved = np.matmul(second, moved)
    return moved


def _later(value: Floats, units: int) -> Floats:
    """The same value with `units` of slack less."""
    shifted = np.full_like(value, _NEVER)
    if units < value.shape[-1]:
        shifted[..., units:] = value[..., : value.shape[-1] - units]
    return shifted
