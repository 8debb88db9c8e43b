"""A ledger that was put back does not know what its deployments have; the daemon asks once, wanted or not."""

from pathlib import Path

from orchestrator import spec
from orchestrator.clock import SystemClock
from orchestrator.deployment import simulated_offers
from orchestrator.providers import Request
from orchestrator.providers.simulated import Conditions, SimulatedProvider
from policies.lifecycle import Status
from tests.orchestrator.driven import SPECS, daemon, machines, put_up, take_down
from tests.orchestrator.tiny import until


def test_a_machine_of_a_deployment_that_was_down_then_is_found_and_ended(home: Path) -> None:
    (offer,) = simulated_offers(spec.parse(SPECS["simulated"], "ocr.yaml"))
    ledger = put_up(home, "simulated")
    take_down(ledger)
    market = SimulatedProvider(SystemClock(), Conditions(offers=(offer,)), home / "simulated.json")
    payload = {"deployment": "ocr", "offer": offer.id, "digest": "newer"}
    market.launch(Request(token="f" * 40, offer=offer, payload=payload))
    with daemon(home):
        until(lambda: not market.running())
        until(lambda: bool(machines(ledger, over=True)) and not machines(ledger))
    (machine,) = machines(ledger, over=True)
    assert machine.status is Status.ENDED
    ledger.close()
