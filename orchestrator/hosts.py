"""The hosts of a spec: how each is reached, and what is offered of it at which price."""

from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from orchestrator import spec
from orchestrator.errors import Refused
from orchestrator.ledger import deployments, fleet
from orchestrator.ledger.store import Ledger
from orchestrator.providers.ssh import host
from orchestrator.providers.ssh.provider import Offered, Offering
from orchestrator.spec import Money, Spec
from orchestrator.spec.sections import Host, Local
from policies.snapshot import Offer, Purchase


def offered(wanted: Spec) -> Sequence[Offered]:
    """Every host of the spec, in its order."""
    return [
        Offered(host=reached(one), offer=_offering(wanted, one)) for one in (wanted.ssh.hosts if wanted.ssh else ())
    ]


def reached(one: Host) -> host.Host:
    """How a host of a spec is reached."""
    return host.Host(
        address=one.address,
        port=one.port,
        user=one.user,
        key=None if one.key is None else str(Path(one.key).expanduser()),
        python=one.python,
        start=one.start or (),
        stop=one.stop or (),
        command_seconds=one.command_timeout.total_seconds(),
    )


def check(wanted: Spec, home: Path) -> None:
    """Raise Refused for a host whose key nobody has confirmed, and where ssh cannot be spoken at all."""
    check_installed()
    from orchestrator.providers.ssh import keys

    for one in offered(wanted):
        if keys.trusted(home, one.host) is None:
            raise Refused(f"ssh.hosts: {keys.refusal(home, one.host)}")


def check_installed() -> None:
    """Raise Refused where ssh cannot be spoken."""
    if find_spec("asyncssh") is None:
        raise Refused("hosts reached by ssh need the package asyncssh; install it with: pip install 'halve[ssh]'")


def check_unused(ledger: Ledger, name: str) -> None:
    """Raise Refused while a deployment that is up names this host, or still has a machine there."""
    with ledger.read() as tx:
        rows = deployments.known(tx)
        there = {one.deployment for one in fleet.machines(tx) if one.offer_id.startswith(f"ssh/{name}/")}
    for row in rows:
        if row.name in there:
            raise Refused(f"{row.name} runs on {name}; halve down {row.name} first, or take it out of its spec")
        with suppress(Refused):  # a spec that means nothing any more names no host
            if row.wanted == "up" and any(one.host.name == name for one in offered(spec.parse(row.spec, row.source))):
                there.add(row.name)
    if there:
        raise Refused(f"the spec of {min(there)} names {name}; take it out of there first")


def electricity(wanted: Spec) -> dict[str, int]:
    """What one more hour of each host costs that is paid for anyway, where its watts are declared: its electricity."""
    found = {}
    for one in wanted.ssh.hosts if wanted.ssh else ():
        power = one.model_copy(update={"price_per_hour": None, "amortisation_per_hour": None})
        micros = hourly_micros(wanted, power, None)
        if one.stop is None and micros is not None:
            found[_id(wanted, one)] = micros
    return found


def hourly_micros(wanted: Spec, owned: Local | Host, measured_watts: float | None) -> int | None:
    """Rent, amortisation and electricity of a machine added up; None as soon as one part of it is unknown."""
    parts = [wanted.convert(amount) for amount in (owned.price_per_hour, owned.amortisation_per_hour) if amount]
    if owned.power is not None:
        tariff = wanted.convert(owned.power.price_per_kwh)
        watts = measured_watts if owned.power.watts == "auto" else owned.power.watts
        if tariff is None or watts is None:
            return None
        parts.append(Money(round(tariff.micros * watts / 1000), wanted.currency))
    known = [amount.micros for amount in parts if amount is not None]
    return sum(known) if parts and len(known) == len(parts) else None


def _offering(wanted: Spec, one: Host) -> Offering:
    """What is offered of a host once it has said what it is; with its GPU in the spec, at once."""

    def offer(gpu: str | None, watts: float | None) -> Offer | None:
        found = gpu if one.gpu == "auto" else one.gpu
        if found is None:
            return None
        micros = hourly_micros(wanted, one, watts)
        return Offer(
            id=_id(wanted, one),  # its price is what this spec says, whatever another one does
            provider="ssh",
            zone=reached(one).name,
            instance_type="host",
            gpu=found,
            purchase=Purchase.OWNED,
            price_per_hour_micros=micros,
            currency=wanted.currency if micros is not None else "",
            capacity=1,
        )

    return offer


def _id(wanted: Spec, one: Host) -> str:
    return f"ssh/{reached(one).name}/{wanted.name}"
