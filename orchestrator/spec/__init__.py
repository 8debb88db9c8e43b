"""The ONE configuration: YAML -> Spec. Unknown keys are refused, and every error is reported at once with its place.

A sum of money is `Money` (integer micro-units and a currency), a duration a timedelta, a percentage a fraction of 1.
"""

from orchestrator.spec.model import PREWARM_UNMEASURED_SECONDS, PROVIDERS, Spec
from orchestrator.spec.reading import SpecErrors, load, parse
from orchestrator.spec.sections import (
    Aws,
    Baseline,
    Budget,
    Dashboard,
    Door,
    Engine,
    Host,
    Local,
    Opening,
    OpeningHours,
    Power,
    Rate,
    RateLimit,
    Replicas,
    Selection,
    Simulated,
    Slo,
    Spot,
    Ssh,
    Tls,
)
from orchestrator.spec.units import Money, duration, money

__all__ = [
    "PREWARM_UNMEASURED_SECONDS",
    "PROVIDERS",
    "Aws",
    "Baseline",
    "Budget",
    "Dashboard",
    "Door",
    "Engine",
    "Host",
    "Local",
    "Money",
    "Opening",
    "OpeningHours",
    "Power",
    "Rate",
    "RateLimit",
    "Replicas",
    "Selection",
    "Simulated",
    "Slo",
    "Spec",
    "SpecErrors",
    "Spot",
    "Ssh",
    "Tls",
    "duration",
    "load",
    "money",
    "parse",
]
