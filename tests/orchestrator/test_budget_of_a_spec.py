"""Every brake that the budget knows can be written in a spec, and does there what it is called."""

import pytest

from orchestrator import spec
from orchestrator.deployment import budget_of
from orchestrator.errors import Refused
from policies.budget import SEVERITY, Brake, cap
from policies.plan import Target
from policies.snapshot import Spend

SPEC = """
name: ocr
model: ppocr
provider: simulated
budget: {monthly: 100, at: {50%: AT}}
"""


@pytest.mark.parametrize("brake", Brake)
def test_it_can_be_written(brake: Brake) -> None:
    limit = budget_of(spec.parse(SPEC.replace("AT", brake), "ocr.yaml"))
    assert limit is not None and limit.at == ((0.5, brake),)
    spent = Spend(month_micros=60_000_000, currency="CNY")
    capped = cap(Target(replicas=4, reason="busy"), 1, spent, limit)
    assert capped.target.replicas == {Brake.MINIMUM: 1, Brake.STOP: 0}.get(brake, 4)
    assert capped.note == f"monthly budget 60 % spent: {brake}"


def test_the_severer_comes_later() -> None:
    order = ", ".join(f"{10 * place + 50}%: {brake}" for place, brake in enumerate(sorted(Brake, key=SEVERITY.get)))  # type: ignore[arg-type]
    assert budget_of(spec.parse(SPEC.replace("50%: AT", order), "ocr.yaml")) is not None
    with pytest.raises(Refused, match="want warn, then spot-only, then minimum, then stop"):
        spec.parse(SPEC.replace("50%: AT", "50%: stop, 60%: minimum"), "ocr.yaml")
