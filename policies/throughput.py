"""Measured speed: which profile speaks for a GPU, and what a thousand images cost at a price. Unknown stays unknown."""

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

from policies.snapshot import Profile

#: what was measured here beats what was published
TRUST = {"observed": 2, "bench": 1, "seed": 0}
#: words that vendors put around the name people use
VENDOR_WORDS = frozenset({"nvidia", "geforce", "tesla", "amd", "intel(r)", "(r)", "gpu"})


def cost_per_1000_micros(price_per_hour_micros: int | None, images_per_second: float | None) -> int | None:
    """Micro-units per 1,000 images on a machine that is kept busy: price / 3600 / speed x 1000, to the nearest.

    None when either is unknown; a speed of 0 is no measurement either.
    """
    if price_per_hour_micros is None or not images_per_second:
        return None
    return round(Fraction(price_per_hour_micros) * 1000 / (3600 * Fraction(images_per_second)))


def gpu_key(name: str) -> str:
    """The name by which a GPU is compared: 'NVIDIA GeForce RTX 3060' and 'rtx 3060' are one."""
    return " ".join(word for word in name.lower().split() if word not in VENDOR_WORDS)


def measured(profiles: Iterable[Profile], model: str, gpu: str, p95_ms_bound: float | None = None) -> Profile | None:
    """The profile that speaks for `model` on `gpu`, or None when nobody measured it.

    Own measurements silence published ones. Of those, the fastest (images/s) that keeps the bound; when none keeps it,
    the one with the lowest p95, so that a reason can say by how much it is missed.
    """
    key = gpu_key(gpu)
    of_all = (p for p in profiles if p.model == model and not p.size)
    found = [p for p in of_all if gpu_key(p.gpu) == key and p.images_per_second]
    if not found:
        return None
    trust = max(TRUST.get(p.source, 0) for p in found)
    trusted = [p for p in found if TRUST.get(p.source, 0) == trust]
    within = [p for p in trusted if keeps(p, p95_ms_bound)]
    if within:
        return max(within, key=lambda p: (p.images_per_second or 0.0, p.precision, -p.batch))
    return min(trusted, key=lambda p: (p.p95_ms is None, p.p95_ms or 0.0, p.precision, p.batch))


def of_size(profiles: Iterable[Profile], size: str) -> tuple[Profile, ...]:
    """What speaks for a class of requests, images of one size: where somebody measured a model on a GPU with that size,
    those profiles; elsewhere those of all sizes together."""
    known = [*profiles]
    sized = {(p.model, gpu_key(p.gpu)) for p in known if size and p.size == size}
    wanted = ((p, size if (p.model, gpu_key(p.gpu)) in sized else "") for p in known)
    return tuple(replace(p, size="") for p, its in wanted if p.size == its)


def keeps(profile: Profile, p95_ms_bound: float | None) -> bool:
    """Whether the profile's p95 is known and within the bound. Without a bound every profile keeps it."""
    return p95_ms_bound is None or (profile.p95_ms is not None and profile.p95_ms <= p95_ms_bound)
