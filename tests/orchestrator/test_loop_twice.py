"""A tick wishes by what it has just seen: a second one finds nothing left to do, and a third may be made up later."""

from datetime import timedelta
from pathlib import Path

from orchestrator import replay
from orchestrator.deployment import wishes_of
from orchestrator.ledger import deployments
from orchestrator.spec import parse
from tests.orchestrator.scene import CLOSES, OPENS, Scene

WARM_UP = """
name: ocr
model: ppocr
provider: simulated
simulated: {price_per_hour: 1.80}
schedule: {timezone: Asia/Shanghai, prewarm: auto, windows: ["mon-fri 08:00-20:00"]}
"""


def test_the_tick_that_measures_a_start_wishes_by_it(home: Path) -> None:
    scene = Scene(home)
    while not scene.ready():
        scene.clock.sleep(1.0)
        scene.tick()
        assert scene.ready() or scene.measured is None
    (machine,) = scene.ready()
    assert machine.ready_at is not None
    assert machine.launched_at is not None
    assert scene.measured == (machine.ready_at - machine.launched_at).total_seconds()


def test_a_decision_under_a_measured_prewarm_is_made_again_as_it_was(home: Path) -> None:
    """The first opening is pre-warmed by a guess, the second by what the first start took."""
    scene = Scene(home, start=OPENS - timedelta(minutes=5))
    with scene.ledger.read() as tx:
        row = deployments.get(tx, "ocr")
    assert row is not None
    wishes = wishes_of(parse(WARM_UP, "ocr.yaml"), row)
    scene.by_start = wishes
    scene.run(360, 10)
    monday = OPENS + timedelta(days=3)
    for at in (CLOSES, monday - timedelta(minutes=5)):
        scene.clock.jump(at)
        scene.run(360, 10)
    kept = [one for one in scene.rows("ticks") if one.snapshot is not None]
    launched = [one.at for one in kept if one.plan["actions"][0]["kind"] == "launch"]
    assert launched
    early, late = OPENS - launched[0], monday - launched[-1]
    assert early > late, "a start takes less than was guessed"
    assert [replay.differences(replay.again(one.snapshot, wishes), one.plan) for one in kept] == [()] * len(kept)


def test_who_was_pre_warmed_stays_when_a_shorter_start_was_measured(home: Path) -> None:
    scene = Scene(home, start=OPENS - timedelta(minutes=5))
    with scene.ledger.read() as tx:
        row = deployments.get(tx, "ocr")
    assert row is not None
    scene.by_start = wishes_of(parse(WARM_UP, "ocr.yaml"), row)
    scene.run(360, 10)
    kinds = [action["kind"] for one in scene.rows("ticks") for action in one.plan["actions"]]
    assert kinds == ["launch"]
