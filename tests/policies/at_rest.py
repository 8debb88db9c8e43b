"""The fleet to which decide() comes in a world in which everything that is asked for is given and serves at once."""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from policies.decide import Policy, decide
from policies.lifecycle import Status
from policies.plan import Launch
from policies.snapshot import Instance, Load, Offer, Profile, Snapshot
from tests.policies.test_decide import NOW, instance, snapshot

STEP = timedelta(minutes=5)


def at_rest(
    offers: Sequence[Offer],
    profiles: Sequence[Profile],
    asked: Policy,
    images_per_second: float,
    now: datetime = NOW,
    steps: int = 150,
) -> tuple[Counter[str], Counter[str]]:
    """By offer: the first launches in an empty world, and what is up half a day later under a steady load."""
    machines: dict[str, Instance] = {}
    first: Counter[str] | None = None
    seen: Snapshot | None = None
    memory: dict[str, object] = {}
    target: int | None = None
    for step in range(steps):
        seen = snapshot(
            *machines.values(),
            now=now,
            offers=tuple(offers),
            profiles=tuple(profiles),
            load=Load(images_per_second=images_per_second, peak_images_per_second=images_per_second),
            memory=json.loads(json.dumps(memory)),
            last_target=target,
        )
        plan = decide(seen, asked)
        memory, target = memory | plan.memory, plan.target.replicas
        bought = [one.offer for one in plan.actions if isinstance(one, Launch)]
        first = Counter(one.id for one in bought) if first is None else first
        for one in plan.actions:
            if not isinstance(one, Launch):
                machines.pop(one.instance_id)
        for number, offer in enumerate(bought):
            name = f"m{step}-{number}"
            machines[name] = instance(
                name,
                Status.READY,
                offer_id=offer.id,
                provider=offer.provider,
                gpu=offer.gpu,
                purchase=offer.purchase,
                requested_at=now,
                launched_at=now,
                ready_at=now,
            )
        now += STEP
    return first or Counter(), Counter(one.offer_id for one in machines.values())
