"""The processor time of one tick, by the number of machines, and how it grows."""

import math
import statistics
import tempfile
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from orchestrator import deployment, spec
from orchestrator.clock import VirtualClock
from orchestrator.ledger import deployments
from orchestrator.ledger.store import open_ledger
from orchestrator.providers.simulated import Conditions, SimulatedProvider
from orchestrator.scheduler import tick
from orchestrator.simulation.month import SimulatedDoor, SimulatedProbes
from orchestrator.world import World

SIZES = (1, 10, 100, 1000, 10_000)
ROUNDS = 5
#: processor time of the tick of 10,000 machines at rest that we aim at
AIM_SECONDS = 1.0
SPEC = """
name: bench
model: ppocr
provider: simulated
simulated: {{price_per_hour: 1.80, boot: 1s, images_per_second: 2.5}}
replicas: {{min: {size}, max: {size}}}
"""


def main() -> None:
    """Print the median tick of a fleet at rest, the tick that launches it, and how the first grows with the fleet."""
    rests = {size: measured(size) for size in SIZES}
    for smaller, larger in pairwise(SIZES[1:]):
        law = math.log(rests[larger] / rests[smaller]) / math.log(larger / smaller)
        print(f"from {smaller} to {larger} machines a tick at rest grows as n^{law:.2f}")
    print(f"at {SIZES[-1]} machines it takes {rests[SIZES[-1]] / AIM_SECONDS:.2f} of the {AIM_SECONDS:.0f} s aimed at")


def measured(size: int) -> float:
    """Seconds of processor time of a tick at rest: no machine changes, the clock goes on."""
    with tempfile.TemporaryDirectory() as home:
        world = open_world(Path(home), size)
        launching = seconds(world)
        for _ in range(3):
            world.clock.sleep(2.0)
            tick(world)
        resting = []
        for _ in range(ROUNDS):
            world.clock.sleep(2.0)
            resting.append(seconds(world))
        running = len(world.providers["simulated"].instances())
        world.ledger.close()
    assert running == size, f"{running} machines run, not {size}"
    rest = statistics.median(resting)
    print(f"{size:6} machines: launching {launching * 1000:8.1f} ms, at rest {rest * 1000:8.1f} ms", flush=True)
    return rest


def open_world(home: Path, size: int) -> World:
    """A deployment of `size` simulated replicas on a virtual clock, nothing launched yet."""
    text = SPEC.format(size=size)
    wanted = spec.parse(text, "bench.yaml")
    clock = VirtualClock(datetime(2026, 3, 2, 8, 0, tzinfo=UTC))
    ledger = open_ledger(home)
    provider = SimulatedProvider(clock, Conditions(offers=deployment.simulated_offers(wanted), boot_seconds=1.0))
    deployment.record_simulated_speed(ledger, wanted, [wanted.simulated.gpu], clock.now())
    with ledger.write() as tx:
        deployments.put_up(tx, wanted.name, text, "bench.yaml", clock.now())
        row = deployments.get(tx, wanted.name)
    assert row is not None
    door = SimulatedDoor(clock, lambda minute: 0, 2.5)
    door.name = wanted.name
    return World(
        deployment=wanted.name,
        digest=wanted.replica_digest(),
        payload=deployment.payload_of(wanted),
        wishes=deployment.wishes_of(wanted, row),
        clock=clock,
        ledger=ledger,
        providers={"simulated": provider},
        probes=SimulatedProbes([provider]),
        door=door,
    )


def seconds(world: World) -> float:
    started = time.process_time()  # whatever else the machine does meanwhile
    tick(world)
    return time.process_time() - started


if __name__ == "__main__":
    main()
