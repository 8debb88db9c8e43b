"""A measurement says what ran and how fast, of pages that can be read; what cannot be known is None, never 0."""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from inference import bench, images, meters
from inference.engine import Engine


def test_a_measurement_is_complete(engine: Engine, pages: Path) -> None:
    files = [(pages / name).read_bytes() for name in ("packaging.png", "nameplate.png")]
    measured = bench.measure(engine, files, workers=2, threads=1, least_seconds=0, least_samples=4)
    assert measured.images == 4
    assert measured.images_per_second > 0
    assert 0 < measured.p95_ms <= measured.seconds * 1000
    assert measured.memory_bytes > 50 * 2**20
    assert (measured.model, measured.precision, measured.batch, measured.size) == ("ppocr", "fp32", 1, "")
    assert measured.provider == engine.provider
    assert measured.gpu == bench.cpu_name() != ""
    assert "onnxruntime" in measured.versions or "onnxruntime-gpu" in measured.versions
    assert measured.joules_per_image is None
    assert measured.gpu_memory_bytes is None


class Counting:
    """Stands in for an engine's parts: notes how many images come together."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def find(self, some: list[Any]) -> list[Any]:
        self.batches.append(len(some))
        return [np.zeros((0, 4, 2), np.float32) for _ in some]


def test_a_row_reads_so_many_images_a_call(engine: Engine) -> None:
    counting = Counting()
    idle = replace(engine, detector=counting, orienter=None)  # type: ignore[arg-type]
    files = bench.drawn_pages()[:1]
    row = bench.measure(idle, files, workers=1, threads=1, batch=4, size="small", least_seconds=0, least_samples=3)
    assert set(counting.batches) == {4}
    assert (row.batch, row.size, row.images) == (4, "small", 12)
    assert 12 / row.images_per_second == pytest.approx(row.seconds, abs=0.00051)  # which is rounded to milliseconds


def test_drawn_pages_are_one_of_each_size_and_full_of_text(engine: Engine) -> None:
    drawn = bench.drawn_pages()
    sides = [images.header(page).longest_side for page in drawn]
    assert sides[0] < 640 <= sides[1] <= 1280 < sides[2]
    small, middle, large = ([page] for page in drawn)
    assert bench.by_size([*large, *small, *middle]) == {"small": small, "middle": middle, "large": large}
    assert list(bench.by_size(drawn[1:2])) == ["middle"]
    assert len(engine.read([images.decode(drawn[0])])[0].lines) == 10


def test_batches_are_measured_where_they_pay(engine: Engine) -> None:
    accelerated = replace(engine, on_accelerator=True)
    assert bench.batches_for(engine, "small") == [1]
    assert [bench.batches_for(accelerated, size) for size in ("small", "middle", "large")] == [
        [1, 2, 4, 8, 16],
        [1, 2, 4],
        [1, 2],
    ]


def test_a_batch_too_large_for_the_memory_ends_its_sizes_rows_and_nothing_else(engine: Engine) -> None:
    class Small(Counting):
        def find(self, some: list[Any]) -> list[Any]:
            if len(some) > 2:
                raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
            return super().find(some)

    tight = replace(engine, detector=Small(), orienter=None)  # type: ignore[arg-type]
    rows = bench.table(tight, bench.drawn_pages()[:2], workers=1, threads=1, batches=[1, 2, 4, 8], least_seconds=0)
    found = [(row.size, row.batch) for row in rows]
    assert found == [("", 1), ("small", 1), ("small", 2), ("middle", 1), ("middle", 2)]


@pytest.mark.slow
def test_a_cold_start_is_longer_than_a_warm_one() -> None:
    for _ in range(3):  # who is kept waiting in the middle of it takes longer warm than cold
        start = bench.start("ppocr", bench.drawn_pages()[0], threads=1)
        if start.cold_seconds > start.warm_seconds:
            break
    assert start.cold_seconds > start.warm_seconds > 0.05


class Card:
    """NVML as far as it is asked: a card of 200 W that fills up; the old one has no counter of energy."""

    def __init__(self, *, old: bool = False, mute: bool = False) -> None:
        self.old, self.mute, self.asked, self.since = old, mute, 0, time.monotonic()

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"card {index}"

    def nvmlDeviceGetHandleByUUID(self, name: str) -> str:
        return name

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        if self.old or self.mute:
            raise RuntimeError("Not Supported")
        self.asked += 1
        return 5_000 * self.asked

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        if self.mute:
            raise RuntimeError("Not Supported")
        return 200_000

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> object:
        if self.mute:
            raise RuntimeError("Not Supported")
        return SimpleNamespace(used=2**30)


def test_energy_is_the_cards_counter() -> None:
    with meters.metered(Card()) as taken:
        pass
    assert (taken.joules, taken.gpu_memory_bytes) == (5.0, 2**30)


def test_or_the_integral_of_its_power() -> None:
    with meters.metered(Card(old=True)) as taken:
        time.sleep(0.3)
    assert taken.joules is not None
    assert taken.joules > 55  # 200 W for at least 0.3 s, however busy this machine is


def test_a_card_that_does_not_say_is_unknown() -> None:
    with meters.metered(Card(mute=True)) as taken:
        time.sleep(0.1)
    assert (taken.joules, taken.gpu_memory_bytes) == (None, None)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, "card 0"), ("", "card 0"), ("2,0", "card 2"), ("GPU-7f", "GPU-7f"), ("MIG-1,MIG-2", "MIG-1")],
)
def test_the_first_gpu_is_the_one_that_cuda_sees(
    visible: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert meters.first_gpu(Card()) == expected


def test_the_peak_is_that_of_the_row_alone() -> None:
    with meters.metered() as large:
        np.ones(200 * 2**20, np.uint8)
    with meters.metered() as small:
        pass
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system cannot forget a peak")
    assert large.memory_bytes - small.memory_bytes > 150 * 2**20


def test_a_gpu_that_nvml_does_not_know_has_no_name() -> None:
    """CUDA_VISIBLE_DEVICES may name one that is not there; CUDA then finds none, and nothing fails."""

    class Absent:
        def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
            raise RuntimeError("Invalid Argument")

    assert meters.first_gpu(Absent()) is None
    assert meters.gpu_name(Absent()) is None
    with meters.metered(Absent()) as taken:
        pass
    assert (taken.joules, taken.gpu_memory_bytes) == (None, None)
