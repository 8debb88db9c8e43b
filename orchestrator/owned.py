"""The machines of one's own that a spec names: how each stands, what power it draws, what it has cost this month."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

from orchestrator import billing, draw, hosts, machine
from orchestrator.billing import Charge
from orchestrator.draw import Draw
from orchestrator.ledger import owned
from orchestrator.ledger.store import Transaction
from orchestrator.providers.ssh.standing import Standing, noted
from orchestrator.spec import Spec
from orchestrator.spec.sections import Power

#: this machine's name as a zone
HERE = "this"


def shown(
    home: Path, tx: Transaction, wanted: Spec, rates: Mapping[str, Fraction], start: datetime, now: datetime
) -> list[dict[str, Any]]:
    """As JSON values, with the cost from `start` to `now` in the spec's currency; null where no price is known.

    Nobody is asked: a host is as its link last noted it. `power` is null where the spec has no tariff for it.
    """
    booked: dict[tuple[str, str], list[Charge]] = {}
    for box, charges in owned.booked(tx, start, now).items():
        if box.deployment == wanted.name:
            booked.setdefault((box.provider, box.host), []).extend(charges)
    found = []
    if "local" in wanted.provider:
        found.append(("local", here(home, wanted), wanted.local.power))
    if "ssh" in wanted.provider and wanted.ssh is not None:
        found += [("ssh", noted(home, hosts.reached(one).name), one.power) for one in wanted.ssh.hosts]
    return [
        {
            "name": one.name,
            "provider": provider,
            "state": one.state,
            "why": one.why,
            "gpu": one.gpu,
            "power": None if power is None else asdict(declared(power, one.draw)),
            "month_micros": cost_micros(booked.get((provider, one.name), ()), wanted.currency, rates, start, now),
            "currency": wanted.currency or None,
        }
        for provider, one, power in found
    ]


def declared(power: Power, draw: Draw) -> Draw:
    """What counts of a machine's power: what the spec declares, where it does."""
    if power.watts == "auto":
        return draw
    return replace(draw, idle_watts=power.idle_watts, busy_watts=power.watts, meters="declared")


def here(home: Path, wanted: Spec) -> Standing:
    """This machine."""
    gpu, watts = machine.device()
    return Standing(
        name=HERE,
        state="ready",
        why="",
        gpu=wanted.local.gpu or gpu,
        watts=watts,
        draw=draw.kept(home),
        version=None,
        clock_ahead_seconds=None,
        replicas=(),
    )


def cost_micros(
    charges: Iterable[Charge], currency: str, rates: Mapping[str, Fraction], start: datetime, end: datetime
) -> int | None:
    """What these have cost in [start, end). None when a part of it has no known price, or no rate converts it."""
    total = 0
    for one in charges:
        rate = 1 if one.currency == currency else rates.get(one.currency)
        micros = None if rate is None else billing.between(one, start, end, rate=rate)
        if micros is None:
            return None
        total += micros
    return total


def watts(power: Mapping[str, Any]) -> str:
    """The power a machine draws, in words."""
    known = [f"{power[f'{state}_watts']:.0f} W {state}" for state in ("idle", "busy") if power[f"{state}_watts"]]
    if known:
        return f"{', '.join(known)} ({power['meters']})"
    return "unknown" if power["limit_watts"] is None else f"{power['limit_watts']:.0f} W at most"
