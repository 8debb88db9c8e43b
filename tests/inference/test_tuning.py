"""Batches as they are found at start-up, on devices that are told how to behave."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from inference.batching import GPU_BUCKETS
from inference.bench import drawn_pages
from inference.images import Pixels
from inference.service import Service, Settings
from inference.tuning import tuned
from tests.inference.test_batching import OUT_OF_MEMORY

PAGES = drawn_pages()  # 0.17, 0.8 and 2.2 million pixels


@dataclass
class Device:
    """A batch takes `fixed` seconds and `each` for every million pixels; more than `room` million do not fit."""

    fixed: float
    each: float
    room: float = float("inf")
    error: Exception = OUT_OF_MEMORY["torch"]
    now: float = 0.0
    tried: list[int] = field(default_factory=list)

    def read(self, batch: Sequence[Pixels]) -> None:
        self.tried.append(len(batch))
        millions = sum(page.shape[0] * page.shape[1] for page in batch) / 1e6
        if millions > self.room:
            raise self.error
        self.now += self.fixed + self.each * millions

    def clock(self) -> float:
        return self.now

    def batches(self, latency_seconds: float = 1.0, total_seconds: float = 60.0) -> list[int]:
        found = tuned(
            self.read,
            GPU_BUCKETS,
            PAGES,
            latency_seconds=latency_seconds,
            total_seconds=total_seconds,
            clock=self.clock,
        )
        assert [(one.name, one.up_to) for one in found] == [(one.name, one.up_to) for one in GPU_BUCKETS]
        return [one.at_once for one in found]


@pytest.mark.parametrize(
    ("device", "latency", "expected"),
    [
        pytest.param(Device(0.010, 0.001), 1.0, [32, 8, 4], id="a-fast-card-pays-for-its-calls"),
        pytest.param(Device(0.0, 0.1), 1.0, [1, 1, 1], id="a-busy-card-gains-nothing"),
        pytest.param(Device(0.010, 0.001), 0.011, [4, 1, 1], id="the-latency-bound"),
        pytest.param(Device(0.010, 0.001, room=2.5), 1.0, [8, 2, 1], id="the-memory-bound"),
        pytest.param(Device(2.0, 0.001), 1.0, [1, 1, 1], id="a-slow-card-still-reads-one"),
    ],
)
def test_the_batch_that_reads_fastest_within_the_bounds(device: Device, latency: float, expected: list[int]) -> None:
    assert device.batches(latency) == expected


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_what_did_not_fit_is_not_tried_again(error: Exception) -> None:
    device = Device(0.010, 0.001, room=2.3, error=error)
    assert device.batches() == [8, 2, 1]
    assert device.tried.count(16) == 1


def test_a_single_page_that_fails_is_a_model_that_does_not_run() -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        Device(0.010, 0.001, room=0.1).batches()


def test_after_its_time_the_rest_stays_as_the_policy_says() -> None:
    assert Device(0.010, 0.001).batches(total_seconds=0.0) == [8, 2, 1]
    assert Device(1.0, 0.0).batches(latency_seconds=9.0, total_seconds=12.0) == [8, 2, 1]


def test_a_service_runs_the_batches_it_is_given() -> None:
    class Still:
        model, precision = "still", "fp32"

    service = Service(Settings(workers=1))
    assert (service.status, service.at_once) == ("loading", {})
    service.start(Still(), GPU_BUCKETS)  # type: ignore[arg-type]
    assert service.status == "ready"
    assert service.at_once == {"small": 8, "middle": 2, "large": 1}
