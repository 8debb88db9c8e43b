"""What every section may say on its own, but not together."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from orchestrator.spec.document import Path
from orchestrator.spec.model import Spec
from orchestrator.spec.units import is_loopback

_SEVERITY = ("warn", "spot-only", "minimum", "stop")


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Found at `path`, together with what stands at `others`."""

    path: Path
    message: str
    others: tuple[Path, ...] = ()


def contradictions(spec: Spec) -> Iterator[Contradiction]:
    """All of them, in the order of the spec's keys."""
    yield from _providers(spec)
    yield from _currencies(spec)
    yield from _hosts(spec)
    yield from _hours(spec)
    yield from _counts(spec)
    yield from _gpus(spec)
    yield from _budget(spec)
    yield from _door(spec)


def _providers(spec: Spec) -> Iterator[Contradiction]:
    for name, needs in (("ssh", "hosts"), ("aws", "region and instance_types")):
        if name in spec.provider and getattr(spec, name) is None:
            yield Contradiction(("provider",), f"{name} needs a section {name}: with its {needs}", ((name,),))


def _currencies(spec: Spec) -> Iterator[Contradiction]:
    if spec.currency in spec.rates:
        own = f"{spec.currency} is the spec's own currency and needs no rate"
        yield Contradiction(("rates", spec.currency), own, (("currency",),))
    for path, amount in spec.amounts():
        if spec.convert(amount) is None:
            rate = f"{{rate: ..., as_of: YYYY-MM-DD, source: ...}} under rates.{amount.currency}"
            unknown = f"{amount} cannot be compared with {spec.currency} without {rate}"
            yield Contradiction(path, unknown, (("currency",), ("rates",)))


def _hosts(spec: Spec) -> Iterator[Contradiction]:
    seen: dict[tuple[str, int], int] = {}
    for index, host in enumerate(spec.ssh.hosts if spec.ssh else ()):
        path = ("ssh", "hosts", index)
        if host.stop and not host.start:
            yield Contradiction((*path, "stop"), "without start, a host once stopped never comes back", (path,))
        first = seen.setdefault((host.address, host.port), index)
        if first != index:
            yield Contradiction((*path, "address"), f"the same host as ssh.hosts[{first}]", (("ssh", "hosts", first),))


def _hours(spec: Spec) -> Iterator[Contradiction]:
    if spec.schedule is None:
        return
    path, others = ("schedule", "windows"), (("schedule", "open"),)
    if spec.schedule.windows is None and spec.schedule.open:
        only = "open adds to windows: without any it says nothing; write windows: [] to open on these dates only"
        yield Contradiction(("schedule", "open"), only, (path,))
    if spec.schedule.windows == () and not spec.schedule.open:
        yield Contradiction(path, "no windows at all: it would never open; leave windows out to open all week", others)
    for index, line in enumerate(spec.schedule.windows or ()):
        fewest = spec.replicas.min if line.min is None else line.min
        most = spec.replicas.max if line.max is None else line.max
        if fewest > most:
            from_min = "replicas.min" if line.min is None else "min"
            from_max = "replicas.max" if line.max is None else "max"
            if line.min is not None or line.max is not None:
                yield Contradiction(
                    (*path, index), f"{from_min} {fewest} is more than {from_max} {most}", (("replicas",),)
                )


def _counts(spec: Spec) -> Iterator[Contradiction]:
    if spec.replicas.min > spec.replicas.max:
        yield Contradiction(("replicas",), f"min {spec.replicas.min} is more than max {spec.replicas.max}")
    if spec.spot and spec.spot.base_on_demand > spec.replicas.max:
        base = f"{spec.spot.base_on_demand} is more than replicas.max {spec.replicas.max}"
        yield Contradiction(("spot", "base_on_demand"), base, (("replicas",),))


def _gpus(spec: Spec) -> Iterator[Contradiction]:
    wanted, own = spec.selection.gpus, {"local": spec.local.gpu, "simulated": spec.simulated.gpu}
    if wanted is None or len(spec.provider) != 1:
        return
    gpu = own.get(spec.provider[0])
    if gpu is not None and gpu not in wanted:
        path = (spec.provider[0], "gpu")
        nothing = f"leaves out {gpu}, the only GPU that provider {spec.provider[0]} has"
        yield Contradiction(("selection", "gpus"), nothing, (path, ("provider",)))


def _budget(spec: Spec) -> Iterator[Contradiction]:
    budget = spec.budget
    if budget is None:
        return
    if budget.monthly is None and budget.daily is None:
        yield Contradiction(("budget",), "want monthly, daily or both")
    monthly, daily = (spec.convert(amount) if amount else None for amount in (budget.monthly, budget.daily))
    if monthly and daily and daily.micros > monthly.micros:
        over = f"{budget.daily} a day is more than {budget.monthly} a month"
        yield Contradiction(("budget", "daily"), over, (("budget",), ("rates",), ("currency",)))
    steps = sorted(budget.at.items())
    for (share, action), (later_share, later) in pairwise(steps):
        if _SEVERITY.index(later) < _SEVERITY.index(action):
            order = f"{later} at {later_share * 100:g}% comes after {action} at {share * 100:g}%"
            yield Contradiction(("budget", "at"), f"{order}: want warn, then spot-only, then minimum, then stop")


def _door(spec: Spec) -> Iterator[Contradiction]:
    if is_loopback(spec.door.host):
        return
    for name in ("token", "tls"):
        if getattr(spec.door, name) is None:
            needs = f"{spec.door.host} can be reached from other machines, and so needs door.{name}"
            yield Contradiction(("door", "listen"), needs, (("door", name),))
