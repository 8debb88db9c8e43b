"""How much of the work each replica gets: as much as what its GPU is measured to read."""

import statistics
from dataclasses import replace

from orchestrator.door import Replica
from orchestrator.ledger import fleet, offers
from orchestrator.ledger.store import Ledger
from policies import throughput


def weighed(ledger: Ledger, deployment: str, model: str, replicas: tuple[Replica, ...]) -> tuple[Replica, ...]:
    """The replicas with images per second as their weight. One that nobody measured weighs as the others do on average.

    Quick enough for every tick.
    """
    with ledger.read() as tx:
        gpus = {one.id: one.gpu for one in fleet.machines(tx, deployment)}
        profiles = offers.profiles(tx, model)
    measured = {gpu: throughput.measured(profiles, model, gpu) for gpu in set(gpus.values())}
    speeds = {gpu: one.images_per_second for gpu, one in measured.items() if one and one.images_per_second}
    known = [speeds[gpus[one.id]] for one in replicas if gpus.get(one.id) in speeds]
    if not known:
        return replicas
    usual = statistics.fmean(known)
    return tuple(replace(one, weight=speeds.get(gpus.get(one.id, ""), usual)) for one in replicas)
