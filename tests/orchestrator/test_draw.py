"""Power by its own meters: RAPL in a folder like the kernel's, NVML by what behaves like it; what is learned."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator import draw
from orchestrator.draw import Draw, Watch
from orchestrator.meters import Nvml, Rapl


def zone(powercap: Path, number: str, name: str, microjoules: int, most: int = 1_000_000) -> Path:
    folder = powercap / f"intel-rapl:{number}"
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", most)):
        (folder / file).write_text(f"{content}\n")
    return folder


def test_rapl_adds_up_packages_and_memory_and_goes_on_where_a_counter_wraps(tmp_path: Path) -> None:
    first = zone(tmp_path, "0", "package-0", 900_000)
    zone(tmp_path, "0:0", "core", 5)  # part of the package
    memory = zone(tmp_path, "0:1", "dram", 10)
    zone(tmp_path, "1", "psys", 7)  # the whole board, the packages again
    meter = Rapl(tmp_path)
    assert meter.joules() == 0.0
    (memory / "energy_uj").write_text("500010")
    assert meter.joules() == pytest.approx(0.5)
    (first / "energy_uj").write_text("100000")  # 900,000 -> 1,000,000 = 0 -> 100,000
    assert meter.joules() == pytest.approx(0.7)


def test_rapl_that_is_absent_or_not_ours_to_read_is_unknown(tmp_path: Path) -> None:
    assert Rapl(tmp_path / "nowhere").joules() is None
    (zone(tmp_path, "0", "package-0", 1) / "energy_uj").unlink()
    assert Rapl(tmp_path).joules() is None
    (zone(tmp_path, "0", "package-0", 1) / "energy_uj").write_text("?")
    assert Rapl(tmp_path).joules() is None


@dataclass
class Gpus:
    """What of pynvml is asked. A GPU is (millijoules or None: it has no counter, milliwatts, per cent)."""

    gpus: list[tuple[int | None, int, int]]
    works: bool = True

    class NVMLError(Exception):
        pass

    @dataclass
    class Rates:
        gpu: int

    def nvmlInit(self) -> None:
        if not self.works:
            raise self.NVMLError

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        return number

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        millijoules = self.gpus[handle][0]
        if millijoules is None:
            raise self.NVMLError
        return millijoules

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return self.gpus[handle][1]

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> "Gpus.Rates":
        return self.Rates(self.gpus[handle][2])


def test_nvml_adds_up_all_gpus_and_says_how_busy_the_busiest_is() -> None:
    meter = Nvml(Gpus([(5_000, 0, 3), (7_000, 0, 60)]))
    assert meter.joules() == 12.0
    assert meter.busy() == 0.6


def test_a_gpu_without_a_counter_is_added_up_by_its_power() -> None:
    meter = Nvml(Gpus([(None, 40_000_000, 0)]))  # 40 kW, so that a moment is much
    assert meter.joules() == 0.0
    later = meter.joules()
    assert later is not None
    assert later > 0


def test_without_a_gpu_nothing_is_known_of_one() -> None:
    for gpus in (Gpus([], works=False), Gpus([])):
        meter = Nvml(gpus)
        assert meter.joules() is None
        assert meter.busy() == 0.0


@dataclass
class Machine:
    """A machine that draws so much, and its meter."""

    name: str = "RAPL"
    spent: float | None = 0.0
    works: bool = False
    watch_now: float = 0.0
    watch: Watch = field(init=False)

    def joules(self) -> float | None:
        return self.spent

    def busy(self) -> bool:
        return self.works

    def watched(self, home: Path, limit_watts: float | None = None) -> "Machine":
        self.watch = Watch(home, [self], self.busy, limit_watts)
        self.watch.look(self.watch_now)
        return self

    def passes(self, seconds: float, watts: float = 0.0, *, works: bool = False) -> Draw:
        self.works = works
        found = self.watch.draw
        for _ in range(round(seconds / 10)):
            self.watch_now += 10
            self.spent = None if self.spent is None else self.spent + 10 * watts
            found = self.watch.look(self.watch_now)
        return found


def test_idle_and_busy_are_learned_apart(tmp_path: Path) -> None:
    one = Machine().watched(tmp_path)
    assert one.passes(50, 30).mean_watts is None  # too short to say anything
    said = one.passes(20, 30)
    assert (said.idle_watts, said.busy_watts, said.mean_watts, said.busy_share) == (30.0, None, 30.0, 0.0)
    one.passes(290, 30)
    said = one.passes(300, 130, works=True)
    assert (said.idle_watts, said.busy_watts, said.meters) == (30.0, 130.0, "RAPL")
    assert (said.busy_share, said.mean_watts) == (0.5, 80.0)


def test_what_is_said_moves_every_ten_minutes_and_not_for_a_hair(tmp_path: Path) -> None:
    one = Machine().watched(tmp_path)
    said = one.passes(60, 100)
    assert one.passes(590, 200) == said
    moved = one.passes(10, 200)
    assert moved.mean_watts == 200.0
    assert one.passes(600, 203).mean_watts == 200.0
    assert one.passes(600, 205).mean_watts == 205.0


def test_what_was_learned_is_kept_for_the_next_one(tmp_path: Path) -> None:
    said = Machine().watched(tmp_path, 120.0).passes(60, 100)
    assert said.mean_watts == 100.0
    assert Machine().watched(tmp_path, 120.0).watch.draw == said
    draw.file_of(tmp_path).write_text('{"mean_watts": 7, "of": "a later version"}')
    assert Machine().watched(tmp_path).watch.draw == Draw(mean_watts=7)


def test_without_a_meter_only_how_busy_it_is_is_known(tmp_path: Path) -> None:
    one = Machine(spent=None).watched(tmp_path, 75.0)
    assert one.passes(60, works=True) == Draw(busy_share=1.0, limit_watts=75.0)


def test_a_meter_that_begins_to_speak_or_ends_is_not_mixed_with_the_others(tmp_path: Path) -> None:
    one = Machine().watched(tmp_path)
    one.passes(60, 100)
    one.spent = None
    said = one.passes(620)
    assert (said.mean_watts, said.idle_watts, said.meters) == (None, None, "")
    one.spent = 5_000_000.0  # it has counted all the while
    assert one.passes(620, 50).mean_watts == 50.0  # and no stretch in which it was silent counts


def test_it_is_asked_as_often_as_anybody_likes(tmp_path: Path) -> None:
    one = Machine().watched(tmp_path)
    one.spent = 1e9
    assert one.watch.look(0.1) == Draw()
    one.spent = 600.0
    assert one.passes(60, 0).mean_watts == 10.0
