"""The hosts of a spec: how each is reached, and what is offered of it at which price."""

from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from orchestrator import spec
from orchestrator.draw import UNKNOWN, Draw
from orchestrator.errors import Refused
from orchestrator.files import read_json
from orchestrator.ledger import deployments, fleet
from orchestrator.ledger.store import Ledger
from orchestrator.providers.ssh import host
from orchestrator.providers.ssh.provider import Offered, Offering
from orchestrator.providers.ssh.standing import drawn
from orchestrator.spec import Spec
from orchestrator.spec.sections import Host, Local, Power
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


def electricity(wanted: Spec, home: Path | None) -> dict[str, int]:
    """What one more hour of work costs on each host that is paid for anyway: its electricity, where that is known."""
    found = {}
    for one in wanted.ssh.hosts if wanted.ssh else ():
        if one.stop is not None or one.power is None:
            continue
        draw = UNKNOWN if home is None else drawn(read_json(host.Files.of(home, reached(one).name).seen) or {})
        micros = energy_micros(wanted, one.power, working_watts(one.power, draw))
        if micros is not None:
            found[_id(wanted, one)] = micros
    return found


def hourly_micros(wanted: Spec, owned: Local | Host, draw: Draw) -> int | None:
    """Rent, amortisation and electricity of a machine added up; None as soon as one part of it is unknown."""
    parts = [wanted.convert(amount) for amount in (owned.price_per_hour, owned.amortisation_per_hour) if amount]
    micros = [None if amount is None else amount.micros for amount in parts]
    if owned.power is not None:
        micros.append(energy_micros(wanted, owned.power, mean_watts(owned.power, draw)))
    known = [amount for amount in micros if amount is not None]
    return sum(known) if micros and len(known) == len(micros) else None


def energy_micros(wanted: Spec, power: Power, watts: float | None) -> int | None:
    """What an hour of so much power costs."""
    tariff = wanted.convert(power.price_per_kwh)
    return None if tariff is None or watts is None else round(tariff.micros * watts / 1000)


def mean_watts(power: Power, draw: Draw) -> float | None:
    """What a machine draws now, busy or idle: as declared, else as its meters say, else the most its GPU may."""
    if power.watts == "auto":
        return draw.mean_watts if draw.mean_watts is not None else draw.limit_watts
    if power.idle_watts is None or draw.busy_share is None:
        return power.watts
    return power.idle_watts + draw.busy_share * (power.watts - power.idle_watts)


def working_watts(power: Power, draw: Draw) -> float | None:
    """What a machine that is on anyway draws more while it works."""
    busy, idle = (draw.busy_watts, draw.idle_watts) if power.watts == "auto" else (power.watts, power.idle_watts)
    if busy is None:
        return draw.limit_watts
    return max(0.0, busy - (idle or 0.0))


def _offering(wanted: Spec, one: Host) -> Offering:
    """What is offered of a host once it has said what it is; with its GPU in the spec, at once."""

    def offer(gpu: str | None, draw: Draw) -> Offer | None:
        found = gpu if one.gpu == "auto" else one.gpu
        if found is None:
            return None
        micros = hourly_micros(wanted, one, draw)
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
