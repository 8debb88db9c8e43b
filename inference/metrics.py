"""What a replica counts, in Prometheus' text format.

Written by hand: these labels need no escaping, and a replica needs no library for forty lines. `SHAPES` has every
name; docs/metrics.md tells of them.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime

from inference.batching import GPU_BUCKETS

#: seconds; a page takes tenths of a second on a GPU and seconds on an old CPU
LATENCY_BOUNDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 3.0, 5.0, 10.0, 30.0)

#: name -> (kind, what it is)
SHAPES = {
    "halve_requests_total": ("counter", "Requests to read images, by status."),
    "halve_images_total": ("counter", "Images read."),
    "halve_images_by_size_total": ("counter", "Images read, by their longest side."),
    "halve_request_seconds": ("histogram", "Time to answer, of successful requests."),
    "halve_queue_images": ("gauge", "Images that wait for a worker."),
    "halve_in_flight_requests": ("gauge", "Requests that are being received, read or answered."),
    "halve_held_bytes": ("gauge", "Memory that requests keep while they wait or run."),
    "halve_workers": ("gauge", "Calls of the model at once."),
    "halve_ready": ("gauge", "1 while the replica takes requests; 0 while it loads or drains."),
}


class Metrics:
    """Counters of one process. Touched from the event loop only."""

    def __init__(self) -> None:
        self.images_total = 0
        self.last_at: datetime | None = None
        self.seconds = 0.0  # from arrival to answer, of the requests that succeeded
        self.failed_seconds = 0.0
        self.waited_seconds = 0.0  # summed over images
        self.worked_seconds = 0.0
        self._sizes: Counter[str] = Counter()  # images
        self._requests: Counter[int] = Counter()
        self._latency: Counter[float] = Counter()

    @property
    def succeeded(self) -> int:
        """Requests answered 200."""
        return self._requests[200]

    @property
    def failed(self) -> int:
        """Requests answered with anything else, refusals among them."""
        return self._requests.total() - self._requests[200]

    def answered(self, status: int, seconds: float, images: int) -> None:
        """One request to read images ended; only successful ones count as images and towards the latency."""
        self._requests[status] += 1
        if status == 200:
            self.last_at = datetime.now(UTC)
            self.images_total += images
            self.seconds += seconds
            self._latency[next((bound for bound in LATENCY_BOUNDS if seconds <= bound), float("inf"))] += 1
        else:
            self.failed_seconds += seconds

    def read(self, size: str, waited_seconds: float, worked_seconds: float) -> None:
        """One image was read; `size` is its bucket's name."""
        self._sizes[size] += 1
        self.waited_seconds += waited_seconds
        self.worked_seconds += worked_seconds

    def text(self, gauges: Mapping[str, float]) -> str:
        """The exposition; `gauges` are what is true at this moment."""
        lines = _head("halve_requests_total")
        lines += [f'halve_requests_total{{status="{status}"}} {n}' for status, n in sorted(self._requests.items())]
        lines += [*_head("halve_images_total"), f"halve_images_total {self.images_total}"]
        lines += _head("halve_images_by_size_total")
        lines += [
            f'halve_images_by_size_total{{size="{bucket.name}"}} {self._sizes[bucket.name]}' for bucket in GPU_BUCKETS
        ]
        lines += _head("halve_request_seconds")
        total = 0
        for bound in LATENCY_BOUNDS:
            total += self._latency[bound]
            lines.append(f'halve_request_seconds_bucket{{le="{bound:g}"}} {total}')
        total += self._latency[float("inf")]
        lines += [f'halve_request_seconds_bucket{{le="+Inf"}} {total}']
        lines += [f"halve_request_seconds_sum {self.seconds:.6f}", f"halve_request_seconds_count {total}"]
        for name, value in gauges.items():
            lines += [*_head(name), f"{name} {value:.15g}"]
        return "\n".join(lines) + "\n"


def _head(name: str) -> list[str]:
    kind, told = SHAPES[name]
    return [f"# HELP {name} {told}", f"# TYPE {name} {kind}"]
