"""How many images of each size run together on this accelerator: measured at start-up, from the policy's buckets."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from inference import images
from inference.batching import Bucket, out_of_memory
from inference.images import Pixels

WORTH = 1.05  # a batch twice as large must read at least so much faster, for it makes the first image wait
MOST = 4  # times the policy's own number
ROUNDS = 3

log = logging.getLogger(__name__)

Read = Callable[[Sequence[Pixels]], object]


def tuned(
    read: Read,
    buckets: Sequence[Bucket],
    pages: Sequence[bytes],
    *,
    latency_seconds: float,
    total_seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Bucket, ...]:
    """The buckets with the batches that read fastest here, none of which takes longer than `latency_seconds`.

    Batches of 1, 2, 4, ... copies of a page (one per bucket) are read until one does not pay, takes too long or does
    not fit into memory; what did not fit is never tried again. After `total_seconds` the rest stays as it is. The
    first reading of a batch is not counted: it warms what is made per shape.
    """
    ends = clock() + total_seconds
    found: list[Bucket] = []
    for bucket, page in zip(buckets, pages, strict=True):
        pixels = images.decode(page)
        best, fastest, at_once = 0, 0.0, 1
        while at_once <= bucket.at_once * MOST:
            if clock() >= ends:
                best = max(best, bucket.at_once)
                break
            try:
                seconds = _best_of(read, [pixels] * at_once, clock)
            except Exception as error:
                if not out_of_memory(error) or not best:
                    raise
                break
            if best and (seconds > latency_seconds or at_once / seconds < fastest * WORTH):
                break
            best, fastest, at_once = at_once, at_once / seconds, at_once * 2
        found.append(replace(bucket, at_once=best))
    log.info("images at once: %s", ", ".join(f"{one.at_once} {one.name}" for one in found))
    return tuple(found)


def _best_of(read: Read, batch: Sequence[Pixels], clock: Callable[[], float]) -> float:
    read(batch)
    taken = []
    for _ in range(ROUNDS):
        started = clock()
        read(batch)
        taken.append(clock() - started)
    return min(taken)
