"""Every metric of the daemon and of its doors: what it is called, what it means, and what its labels are.

The names follow Prometheus' conventions: base units at the end, `_total` for what only grows, `_timestamp_seconds` for
moments. Money has no base unit: it is whole units of the `currency` beside it. The replica's are in
inference/metrics.py, for it stands alone; docs/metrics.md tells of all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

Kind = Literal["gauge", "counter", "histogram"]

_FLEET = ("deployment", "provider", "gpu", "purchase")
_JOB = ("deployment", "job")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a metric is."""

    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


TICK_SECONDS = "halve_daemon_tick_seconds"

#: what a daemon says; one that stands by says of itself only that it does not act
DAEMON: Mapping[str, Shape] = {
    "halve_build_info": Shape("gauge", "Always 1; the version is its label.", ("version",)),
    "halve_daemon_acting": Shape("gauge", "1 while this daemon holds the lease, 0 while it stands by."),
    "halve_daemon_generation": Shape("gauge", "How many daemons have held the lease, this one included."),
    "halve_daemon_last_tick_timestamp_seconds": Shape("gauge", "When the last round of ticks began."),
    "halve_daemon_tick_errors_total": Shape("counter", "Rounds of ticks of this daemon in which something failed."),
    TICK_SECONDS: Shape("histogram", "Time that a round of ticks of all deployments takes."),
    "halve_ledger_copy_timestamp_seconds": Shape("gauge", "When the newest daily copy of the ledger was made."),
    "halve_deployment_open": Shape("gauge", "1 while the deployment takes requests.", ("deployment",)),
    "halve_deployment_wanted_replicas": Shape("gauge", "Replicas that the last decision wants.", ("deployment",)),
    "halve_deployment_next_edge_timestamp_seconds": Shape(
        "gauge", "When the schedule opens or closes next.", ("deployment",)
    ),
    "halve_instances": Shape("gauge", "Machines that are not over, by what is known of them.", (*_FLEET, "status")),
    "halve_launches_total": Shape("counter", "Machines asked for.", _FLEET),
    "halve_failed_instances_total": Shape("counter", "Machines refused, or that never came up.", _FLEET),
    "halve_preempted_instances_total": Shape("counter", "Machines that their provider took back.", _FLEET),
    "halve_launches_last_hour": Shape("gauge", "Machines asked for in the last hour.", ("deployment",)),
    "halve_launches_per_hour_limit": Shape("gauge", "Launches an hour at which it stops asking.", ("deployment",)),
    "halve_offers_left_alone": Shape("gauge", "Offers that are not asked for after a refusal.", ("deployment",)),
    "halve_open_charges": Shape("gauge", "Charges that run at this moment.", ("deployment",)),
    "halve_hourly_cost": Shape("gauge", "What an hour costs as it is now.", ("deployment", "currency")),
    "halve_month_cost": Shape("gauge", "What this month has cost, as far as it is known.", ("deployment", "currency")),
    "halve_month_unpriced_seconds": Shape("gauge", "Machine time of this month at unknown prices.", ("deployment",)),
    "halve_budget_limit": Shape("gauge", "What may be spent.", ("deployment", "period", "currency")),
    "halve_budget_spent": Shape("gauge", "What is spent of it.", ("deployment", "period", "currency")),
    "halve_job_items": Shape("gauge", "Images of jobs that are not over, by state.", (*_JOB, "state")),
    "halve_job_cost": Shape("gauge", "What a job that is not over has cost.", (*_JOB, "currency")),
    "halve_job_deadline_timestamp_seconds": Shape("gauge", "When a job has to be done.", _JOB),
    "halve_job_margin_seconds": Shape("gauge", "How long before its deadline a job ends at its present pace.", _JOB),
    "halve_newest_price_timestamp_seconds": Shape(
        "gauge", "Since when the newest price of a provider is in force.", ("provider",)
    ),
}

#: what a door says, to this machine alone
DOOR: Mapping[str, Shape] = {
    "halve_door_open": Shape("gauge", "1 while the door takes requests.", ("deployment",)),
    "halve_door_serving_replicas": Shape("gauge", "Replicas among which requests are shared.", ("deployment",)),
    "halve_door_requests_total": Shape("counter", "Requests to read images that came.", ("deployment",)),
    "halve_door_failed_requests_total": Shape("counter", "Requests that a replica spoilt.", ("deployment",)),
    "halve_door_refused_requests_total": Shape("counter", "Requests that the door refused.", ("deployment",)),
    "halve_door_images_total": Shape("counter", "Images read through the door.", ("deployment",)),
    "halve_door_request_seconds": Shape("histogram", "Time to answer online requests to read images.", ("deployment",)),
    "halve_door_answers_total": Shape(
        "counter", "Answers to requests of any kind, whoever gave them.", ("deployment", "status")
    ),
    "halve_door_clients_gone_total": Shape("counter", "Clients that did not wait for their answer.", ("deployment",)),
    "halve_door_requests_sent_again_total": Shape(
        "counter", "Times that another replica was asked, because one gave nothing.", ("deployment",)
    ),
    "halve_door_requests_held_total": Shape("counter", "Times that a request waited for a replica.", ("deployment",)),
    "halve_door_in_flight_requests": Shape("gauge", "Requests that replicas are busy with.", ("deployment",)),
    "halve_door_waiting_requests": Shape("gauge", "Requests that wait for a replica.", ("deployment",)),
}

_FAMILIES = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily, "histogram": HistogramMetricFamily}


class Families:
    """Samples of one moment, each metric once, under the names of a table above and no others."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self._shapes = shapes
        self._found: dict[str, Metric] = {}

    def add(self, name: str, value: float | None, *labels: str) -> None:
        """One sample; the labels in the table's order. Unknown (None) is no sample, which is not 0."""
        if value is not None:
            self._family(name).add_metric(labels, value)  # type: ignore[attr-defined]  # see _family

    def add_histogram(self, name: str, counts: Mapping[float, int], total: float, *labels: str) -> None:
        """`counts`: how many were at most so large, and no smaller than the bound before; the last bound is inf."""
        so_far, buckets = 0, []
        for bound, count in sorted(counts.items()):
            so_far += count
            buckets.append(("+Inf" if bound == float("inf") else f"{bound:g}", so_far))
        self._family(name).add_metric(labels, buckets, total)  # type: ignore[attr-defined]  # see _family

    def collect(self) -> Iterator[Metric]:
        yield from self._found.values()

    def text(self) -> bytes:
        """In Prometheus' text format."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def _family(self, name: str) -> Metric:  # of a class whose add_metric takes what its kind wants: Metric has none
        if name not in self._found:
            shape = self._shapes[name]
            self._found[name] = _FAMILIES[shape.kind](name, shape.help, labels=shape.labels)
        return self._found[name]
