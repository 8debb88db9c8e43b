"""How much power a machine draws: idle and busy apart, learned from its meters; and what is kept of that."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from orchestrator import machine
from orchestrator.files import read_json, write_json
from orchestrator.meters import Meter, Nvml, Processors, Rapl

#: a stretch between two readings is at least this long
STRETCH_SECONDS = 5.0
#: a machine is busy while a GPU works for more than a tenth of the time, or its processors for half of one of them
BUSY_GPU, BUSY_CORES = 0.1, 0.5
#: what is said is the mean of so long; the first time, of less
SAY_SECONDS, FIRST_SECONDS = 600.0, 60.0
#: what moved by less than this share of itself is said as before: a price is not to tremble
STEADY = 0.02
#: of two means the newer counts for this share
NEWER = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Watts of one machine, and how busy it is. None: nobody knows, which is not 0."""

    idle_watts: float | None = None  # while it works for nobody
    busy_watts: float | None = None
    mean_watts: float | None = None  # of the last ten minutes, whatever it did
    busy_share: float | None = None  # of them
    limit_watts: float | None = None  # the GPU's power limit: it draws no more
    meters: str = ""  # which of them were read: NVML says nothing of the processors


UNKNOWN = Draw()


def from_json(said: Mapping[str, Any] | None) -> Draw:
    """As it was kept or sent, by whatever version."""
    names = {field.name for field in fields(Draw)}
    return Draw(**{name: value for name, value in (said or {}).items() if name in names})


def kept(home: Path) -> Draw:
    """What was last learned of the machine that this home is on."""
    return replace(from_json(read_json(file_of(home))), limit_watts=machine.device()[1])


def of_device() -> Draw:
    """Without asking its meters: what its GPU may draw."""
    return Draw(limit_watts=machine.device()[1])


def file_of(home: Path) -> Path:
    return home / "draw.json"


class Watch:
    """Reads this machine's meters now and then. What it has learned survives it."""

    def __init__(
        self, home: Path, meters: Sequence[Meter], busy: Callable[[], bool], limit_watts: float | None = None
    ) -> None:
        """`busy` says whether the machine has worked since it was asked last, or does."""
        self._home, self._meters, self._busy = home, meters, busy
        self.draw = replace(from_json(read_json(file_of(home))), limit_watts=limit_watts)
        self._began: tuple[float, Mapping[str, float]] | None = None
        self._spent = {True: (0.0, 0.0), False: (0.0, 0.0)}  # seconds and joules, busy and idle
        self._said = self.draw.busy_share is not None

    def look(self, now: float) -> Draw:
        """What is known at a moment of the monotonic clock. Reads nothing if it did a few seconds ago."""
        if self._began is not None and now - self._began[0] < STRETCH_SECONDS:
            return self.draw
        read = {meter.name: joules for meter in self._meters if (joules := meter.joules()) is not None}
        busy = self._busy()
        if self._began is not None and read.keys() != self._began[1].keys():  # what another meter says is not added
            self._spent = {True: (0.0, 0.0), False: (0.0, 0.0)}
        elif self._began is not None:
            seconds, joules = self._spent[busy]
            grown = sum(read.values()) - sum(self._began[1].values())
            self._spent[busy] = seconds + now - self._began[0], joules + max(0.0, grown)
        self._began = now, read
        if sum(seconds for seconds, _ in self._spent.values()) >= (SAY_SECONDS if self._said else FIRST_SECONDS):
            self._say(" + ".join(sorted(read)))
        return self.draw

    def _say(self, meters: str) -> None:
        (busy_seconds, busy), (idle_seconds, idle) = self._spent[True], self._spent[False]
        seconds = busy_seconds + idle_seconds
        old = self.draw if meters == self.draw.meters else UNKNOWN  # another meter says another thing
        new = Draw(busy_share=_steadied(old.busy_share, busy_seconds / seconds), limit_watts=self.draw.limit_watts)
        if meters:
            new = replace(
                new,
                idle_watts=_learned(old.idle_watts, idle, idle_seconds),
                busy_watts=_learned(old.busy_watts, busy, busy_seconds),
                mean_watts=_steadied(old.mean_watts, (busy + idle) / seconds),
                meters=meters,
            )
        self._spent, self._said = {True: (0.0, 0.0), False: (0.0, 0.0)}, True
        if new != self.draw:
            self.draw = new
            with suppress(OSError):  # it is known as long as this process lives
                write_json(file_of(self._home), asdict(new))


def _learned(old: float | None, joules: float, seconds: float) -> float | None:
    if seconds < FIRST_SECONDS / 2:
        return old
    watts = joules / seconds
    return _steadied(old, watts if old is None else NEWER * watts + (1 - NEWER) * old)


def _steadied(old: float | None, new: float) -> float:
    return old if old is not None and abs(new - old) <= STEADY * old else round(new, 2)


def watch(home: Path) -> Watch:
    """A watch on this very machine."""
    gpus, processors = Nvml(), Processors()

    def busy() -> bool:
        cores, gpu = processors.cores(), gpus.busy()
        return cores >= BUSY_CORES or gpu >= BUSY_GPU

    return Watch(home, [gpus, Rapl()], busy, machine.device()[1])
