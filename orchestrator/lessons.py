"""What a tick learns from what it saw, for the ticks to come: of the pools, and of GPUs that nobody measured."""

import statistics
from collections.abc import Iterable
from datetime import datetime, timedelta

from orchestrator.ledger import measuring, offers
from orchestrator.ledger.fleet import Machine
from orchestrator.ledger.store import Transaction
from orchestrator.observe import Believed
from orchestrator.world import World
from policies import throughput
from policies.decide import Policy
from policies.disruption import Disruption, overdue
from policies.lifecycle import Status
from policies.snapshot import Offer, Profile

#: so many minutes of a busy replica are a measurement
BUSY_MINUTES = 3
#: a replica that lived shorter than this after it was ready counts as a failed launch of its pool
SHORT_LIFE = timedelta(seconds=60)


def pools(tx: Transaction, believed: Believed, patience: Disruption, now: datetime) -> None:
    """What became of each machine is remembered of its pool."""
    for before, after in believed.witnessed:
        if offer := believed.offers.get(before.offer_id):
            _pool(tx, before, after, offer, patience, leaving=before.id in believed.closing, now=now)


def _pool(
    tx: Transaction,
    before: Machine,
    after: Machine,
    offer: Offer,
    patience: Disruption,
    *,
    leaving: bool,
    now: datetime,
) -> None:
    """Taken back, come to nothing, or well and alive."""
    if after.status is Status.PREEMPTED:
        offers.lost(tx, offer.id, after.ended_at or now)
    elif after.status != before.status and after.status in (Status.FAILED, Status.LOST):
        if after.ready_at is None or now - after.ready_at < SHORT_LIFE:
            offers.refused(tx, offer.id, after.reason, now)
    elif not leaving and overdue(after.status, after.requested_at, after.launched_at, patience, now):
        offers.refused(tx, offer.id, "never ready", now)  # once: this tick ends it
    elif after.status is Status.READY and offer.refused_at and after.ready_at:
        came_later = not after.ready_at <= offer.refused_at <= now
        if came_later and now - after.ready_at >= SHORT_LIFE:
            offers.accepted(tx, offer.id)


def gpus(tx: Transaction, world: World, policy: Policy, machines: Iterable[Machine], now: datetime) -> None:
    """Where GPUs that nobody measured are tried: what such a replica reads when it is busy becomes its profile."""
    if not policy.try_unmeasured:
        return
    known = offers.profiles(tx, policy.model)
    ready = {one.gpu for one in machines if one.status is Status.READY}
    for gpu in sorted(gpu for gpu in ready if throughput.measured(known, policy.model, gpu) is None):
        busy = measuring.busy_minutes(tx, world.deployment, gpu, now.replace(second=0, microsecond=0))
        if len(busy) < BUSY_MINUTES:
            continue
        late = [p95 for _, p95 in busy if p95 is not None]
        profile = Profile(
            model=policy.model,
            gpu=gpu,
            precision=str(world.payload.get("engine", {}).get("precision", "auto")),
            batch=1,
            images_per_second=statistics.median(images for images, _ in busy) / 60,
            p95_ms=max(late) if late else None,
            source="observed",
        )
        offers.add_profile(tx, profile, now, note=f"seen by {world.deployment} in {len(busy)} busy minutes")
