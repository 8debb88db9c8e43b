"""The daemon dies before or after every single effect of a scenario, and the next one takes it from there."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.invariants import ALWAYS, broken
from orchestrator.ledger.store import Ledger
from orchestrator.providers import NoCapacity, Throttled, Unreachable
from orchestrator.scheduler import tick
from orchestrator.simulation.fuse import Crash, Fuse, crash_at, fused
from policies.snapshot import Purchase
from tests.orchestrator.scene import Scene, always, offer

STEP = 5.0
#: what a test does to the world, and how long the loop then lives
Script = Sequence[tuple[Callable[[Scene], object], float]]


def nothing(scene: Scene) -> None:
    pass


def lose_one(scene: Scene) -> None:
    scene.market.lose(scene.market.running()[0])


def crash_one(scene: Scene) -> None:
    scene.market.crash(scene.market.running()[0])


def change(scene: Scene) -> None:
    scene.digest = "second"


def close(scene: Scene) -> None:
    scene.policy = replace(scene.policy, wanted=False)


def refuse_once(scene: Scene) -> None:
    scene.market.faults.before.append(NoCapacity("none left"))


def lose_the_answer(scene: Scene) -> None:
    scene.market.faults.after.append(Unreachable("no answer"))


def throttle(scene: Scene) -> None:
    scene.market.faults.before.append(Throttled("slow down"))


def keep_one_busy(scene: Scene) -> None:
    scene.door.busy = {machine.id: 1 for machine in scene.ready()[:1]}


def all_done(scene: Scene) -> None:
    scene.door.busy.clear()


SCRIPTS: dict[str, Script] = {
    "it opens, serves, drains and closes": [(nothing, 10), (keep_one_busy, 0), (close, 5), (all_done, 10)],
    "one is lost and one dies": [(nothing, 10), (lose_one, 15), (crash_one, 15)],
    "the first launch is refused": [(refuse_once, 15)],
    "the answer to a launch is lost": [(lose_the_answer, 20)],
    "the answer to a launch is lost, and it is closed": [(lose_the_answer, 0), (close, 25)],
    "nobody takes the launch, and it is closed": [(throttle, 0), (close, 15)],
    "it is closed while it starts": [(nothing, 0), (close, 20)],
    "the spec changes": [(nothing, 10), (change, 25)],
}
LISTING_DELAYS = {"the answer to a launch is lost": 12.0, "it is closed while it starts": 12.0}


def scene_of(home: Path, name: str) -> Scene:
    pools = (offer(1, Purchase.SPOT, 400_000), offer(2, Purchase.SPOT, 500_001))
    count = 2 if name == "the spec changes" else 1
    return Scene(
        home,
        offers=pools,
        boot_seconds=5.0,
        listing_delay_seconds=LISTING_DELAYS.get(name, 0.0),
        policy={"schedule": always(count, count)},
    )


def play(scene: Scene, script: Script, fuse: Fuse) -> range:
    """The script, with a loop that dies where the fuse says and is started again on the same ledger.

    Returns the effects that passed between the script's first act and the end that every script has.
    """
    scene.longest_tick = 3 * STEP
    world, died, marks = fused(scene.world, fuse), False, []
    for act, seconds in (*script, (close, 0)):
        act(scene)
        if act is not nothing:
            marks.append(len(fuse.passed))
        for _ in range(1 + int(seconds / STEP)):
            try:
                tick(replace(world, digest=scene.digest))
                wrong = broken(scene.sight(), ALWAYS) if died else []
                assert not wrong, "; ".join(wrong)
            except Crash:
                world, died = replace(scene.world, ledger=Ledger(scene.ledger.engine, scene.ledger.key)), True
            scene.clock.sleep(STEP)
    scene.settle(STEP)
    return range(marks[0], marks[-1])


@pytest.mark.parametrize("name", SCRIPTS)
def test_nothing_is_lost_doubled_or_leaked_wherever_it_dies(tmp_path: Path, name: str) -> None:
    whole = scene_of(tmp_path / "whole", name)
    fuse = crash_at(-1)
    acts = play(whole, SCRIPTS[name], fuse)
    if name == next(iter(SCRIPTS)):
        acts = range(len(fuse.passed))  # the beginning and the end are the same for all: once is enough
    launches = len(whole.market.rented())
    assert len(acts) > 10
    for index in acts:
        scene = scene_of(tmp_path / str(index), name)
        try:
            play(scene, SCRIPTS[name], crash_at(index))
            assert len(scene.market.rented()) <= launches
        except AssertionError as error:
            raise AssertionError(f"dead {fuse.passed[index]} ({index}): {error}") from error
        finally:
            scene.ledger.close()


def test_the_door_is_told_before_anything_is_drained_or_ended(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, "it opens, serves, drains and closes")
    scene.run(15)
    scene.policy = replace(scene.policy, wanted=False)
    fuse = crash_at(-1)
    tick(fused(scene.world, fuse))
    told, drained = fuse.passed.index("after publishing"), fuse.passed.index("before draining")
    assert fuse.passed.index("after the commit of record") < told < drained


def test_the_fuse_is_in_everything_that_has_an_effect(tmp_path: Path) -> None:
    """Otherwise the test above would prove little."""
    scene = scene_of(tmp_path, "it opens, serves, drains and closes")
    fuse = crash_at(-1)
    play(scene, SCRIPTS["it opens, serves, drains and closes"], fuse)
    commits = {f"the commit of {who}" for who in ("tick", "record", "launch", "drain", "terminate")}
    calls = {"launching", "terminating", "draining", "publishing"}
    assert {name.partition(" ")[2] for name in fuse.passed} == commits | calls
