"""What the spec asks for, in the policies' own terms."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from policies import budget, disruption, scaling, throughput, windows
from policies.snapshot import Instance, Offer, Purchase

#: of placement.POLICIES our own, and the one that has no use for spot machines
HAZARD = "hazard"
ON_DEMAND_ONLY = "on-demand"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One deployment's wishes."""

    model: str
    schedule: windows.Schedule
    providers: tuple[str, ...]  # in order of preference
    currency: str = ""  # what budgets and comparisons speak; "": that of the prices
    rates: Mapping[str, Fraction] = field(default_factory=dict)  # what one unit of another currency is worth in it
    #: by offer: what one more hour costs of a machine that is paid for anyway, its electricity
    marginal_micros: Mapping[str, int] = field(default_factory=dict)
    gpus: tuple[str, ...] = ()  # allowed ones; empty: any
    p95_ms: float | None = None
    try_unmeasured: bool = False
    spot: bool = False
    placing: str = HAZARD  # which of placement.POLICIES says where spot replicas run
    availability: float = 0.99  # the share of time in which it keeps as many ready as are wanted
    guard: bool = False  # survive the loss of any one spot pool
    base_on_demand: int = 0  # so many are never spot machines
    surge: int = 1
    utilisation: float = 0.7  # share of the measured throughput that is planned with
    start_seconds: float = scaling.START_UNMEASURED_SECONDS  # from launch to ready
    patience: disruption.Disruption = field(default_factory=disruption.Disruption)
    limit: budget.Budget | None = None
    wanted: bool = True  # False: the deployment was taken down

    @property
    def takes_spot(self) -> bool:
        """Whether spot machines come in at all."""
        return self.spot and self.placing != ON_DEMAND_ONLY

    def allows(self, machine: Offer | Instance) -> bool:
        """Whether the spec lets such a machine serve."""
        usual = machine.purchase is not Purchase.SPOT or self.takes_spot
        keys = {throughput.gpu_key(gpu) for gpu in self.gpus}
        return usual and machine.provider in self.providers and (not keys or throughput.gpu_key(machine.gpu) in keys)

    def launches_per_hour(self, maximum: int) -> int:
        """The runaway bound: whatever fails, no more launches than this in an hour."""
        return 20 + 10 * maximum
