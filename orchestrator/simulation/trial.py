"""One bad day, lived through by the production loop on a virtual clock; every tick is followed by every invariant."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path

from orchestrator import deployment, spec
from orchestrator.clock import SetClock, VirtualClock
from orchestrator.invariants import ALWAYS, ANYTIME, Invariant, nothing_runs, the_ledger_equals_the_meter
from orchestrator.ledger import checks, deployments, fleet, leases
from orchestrator.ledger.store import Ledger, LedgerUnwritable, Stale, open_file
from orchestrator.providers.simulated import SimulatedProvider
from orchestrator.scheduler import tick
from orchestrator.simulation import market as weather
from orchestrator.simulation.bad_day import NAME, Day, Fault, Incident, draw
from orchestrator.simulation.batch import SimulatedBatch
from orchestrator.simulation.chronicle import Chronicle
from orchestrator.simulation.fuse import Crash, Fuse, fused
from orchestrator.simulation.sights import BusyDoor, Watcher
from orchestrator.world import World
from policies import windows
from policies.candidates import BACKOFF_LONGEST
from policies.lifecycle import LIVE, Status
from policies.plan import Hours, Plan, Target
from policies.snapshot import Offer

SECOND = timedelta(seconds=1)
#: between ticks while nothing happens, and while something is missing
STEP = timedelta(minutes=20)
RETRY = timedelta(minutes=5)
#: between ticks when it is counted how many of them the target takes
CALM_TICK = timedelta(seconds=5)
#: a ledger that may be restored is copied this often
COPY = timedelta(hours=2)
LEASE = timedelta(seconds=15)
#: a disk is full, and a second daemon is at work, for up to so long
FULL_HOURS, USURPED_SECONDS = 2.0, 900.0
#: a pause lasts up to so long, and a clock is set by up to so much
PAUSE_HOURS, CLOCK_HOURS = 8.0, 30.0
#: the effects among which a crash, or a second daemon, chooses its moment
EFFECTS = 16
#: effects by which a tick without a plan changes the world all the same: what was decided before is tried again
ACTS = ("launching", "terminating", "draining")
#: one quiet tick of so many is done twice: the second must plan nothing
TWICE = 4
CALM_OPEN = timedelta(hours=3)
#: ticks after which whatever is left to be ended must be gone
LAST_TICKS = 200


NOTHING = Plan(target=Target(replicas=0, reason=""), hours=Hours(open=False, opens_at=None, reason=""))


class Broken(Exception):
    """An invariant does not hold."""

    def __init__(self, invariant: str, words: str) -> None:
        super().__init__(f"{invariant}: {words}")
        self.invariant = invariant


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """Where a day broke an invariant, and how it came to that."""

    seed: int
    tick: int
    invariant: str
    story: str


@dataclass(slots=True, kw_only=True)
class Outcome:
    """How a day went."""

    seed: int
    ticks: int = 0
    launches: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    effects: Counter[str] = field(default_factory=Counter)  # at which it crashed
    violation: Violation | None = None


@lru_cache(maxsize=1)
def _blank() -> bytes:
    """An empty ledger: making one takes a second, copying it nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "blank.db"
        open_file(path, simulated=True, create=True).close()
        return path.read_bytes()


@lru_cache(maxsize=4096)
def _parsed(text: str) -> spec.Spec:
    return spec.parse(text, f"{NAME}.yaml")


def offers_of(text: str) -> tuple[Offer, ...]:
    """What the simulated market of a spec offers."""
    return deployment.simulated_offers(_parsed(text))


def live(seed: int, faults: frozenset[Fault], *, tell: bool = False) -> tuple[Outcome, Chronicle]:
    """Live through the day of this seed. With `tell` the chronicle says in words what happened, and when."""
    day = draw(seed, faults, offers_of)
    chronicle = Chronicle(day.start, silent=not tell)
    with tempfile.TemporaryDirectory(prefix="halve-day-") as folder:
        trial = Trial(day, Path(folder), chronicle)
        try:
            trial.live()
        except Broken as broken:
            chronicle.say(trial.truth.now(), f"BROKEN {broken}")
            trial.outcome.violation = Violation(
                seed=seed, tick=trial.outcome.ticks, invariant=broken.invariant, story=str(broken)
            )
        finally:
            trial.ledger.close()
    trial.outcome.launches = len(trial.market.rented())
    return trial.outcome, chronicle


class Trial:
    """The world of one day. `live` goes through it, and raises Broken."""

    def __init__(self, day: Day, folder: Path, chronicle: Chronicle) -> None:
        self.day = day
        self.chronicle = chronicle
        self.outcome = Outcome(seed=day.seed, faults=Counter(map(str, day.faults)))
        self.truth = VirtualClock(day.start)
        self.clock = SetClock(self.truth)
        self.market = SimulatedProvider(self.truth, day.conditions)
        self._path = folder / "halve.db"
        self._path.write_bytes(_blank())
        self._copies: list[tuple[datetime, Path]] = []
        self._version = 0
        self.ledger = self._opened()
        wanted = _parsed(day.specs[0])
        zone = wanted.schedule_for(day.start).zone
        curve = weather.working_day(wanted.simulated.images_per_second, zone, day.seed)
        self.door = BusyDoor(self.truth, curve, wanted.simulated.images_per_second)
        self.door.name = NAME
        self.watcher = Watcher(self.market, self.truth, self.clock, self.door)
        self._armed: tuple[Fault, float] | None = None
        self._left = 0
        self._full_until: datetime | None = None
        self._put_up(day.specs[0])
        deployment.record_simulated_speed(self.ledger, wanted, ["T4"], day.start)
        self.batch = SimulatedBatch(self.ledger, NAME, day.items, self.truth, self.market)
        self._start_daemon()
        self._copy()

    # -- the day

    def live(self) -> None:
        """The day, the calm after it, and the end."""
        waiting = list(self.day.incidents)
        while self.truth.now() < self.day.end:
            while waiting and waiting[0].at <= self.truth.now():
                self._strike(waiting.pop(0))
            plan = self.tick()
            if Fault.RESTORE in self.day.faults and self.truth.now() - self._copies[-1][0] >= COPY:
                self._copy()
            upcoming = min([self._next(plan), self.day.end, *(one.at for one in waiting[:1])])
            self.truth.jump(max(upcoming, self.truth.now() + SECOND))
        self._calm()
        self._end()

    def _calm(self) -> None:
        """No more faults. Once what they left has run out, the target is reached as fast as machines start."""
        self._armed, self._full_until = None, None
        now = self.clock.now()
        with self.ledger.write() as tx:  # open, so that something is wanted, whatever the hour
            deployments.override(tx, NAME, "open", now + CALM_OPEN, now)
        self._wire()
        policy = self.world.policy(self.clock.now())
        aftermath = BACKOFF_LONGEST + timedelta(seconds=policy.patience.start_seconds)
        self._until(self.truth.now() + aftermath)
        conditions = self.day.conditions
        start = timedelta(seconds=conditions.boot_seconds + conditions.listing_delay_seconds)
        late = self.truth.now() + start
        while (plan := self.tick()).target.replicas > self._ready():
            if self.truth.now() > late + 3 * CALM_TICK:
                if self._possible(plan):
                    words = f"{self._ready()} of {plan.target.replicas} serve, notes: {'; '.join(plan.notes)}"
                    raise Broken("the_target_is_reached", words)
                return
            self.truth.sleep(CALM_TICK.total_seconds())

    def _possible(self, plan: Plan) -> bool:
        """Whether so many may be had: the account's quota may be smaller, or the budget allow only spot."""
        quota = self.day.conditions.quota
        limited = any("budget" in note or "runaway" in note for note in plan.notes)
        return not limited and (quota is None or plan.target.replicas <= quota)

    def _ready(self) -> int:
        with self.ledger.read() as tx:
            return sum(one.status is Status.READY for one in fleet.machines(tx, NAME))

    def _until(self, moment: datetime) -> None:
        while self.truth.now() < moment:
            self.truth.jump(min(self._next(self.tick()), moment))

    def _end(self) -> None:
        """Everything is taken down; then nothing runs, and the ledger agrees with the meter to the micro-unit."""
        with self.ledger.write() as tx:
            deployments.take_down(tx, NAME, self.clock.now())
        self.chronicle.say(self.truth.now(), "it is taken down")
        self._wire()
        for _ in range(LAST_TICKS):
            self.tick()
            with self.ledger.read() as tx:
                over = not fleet.machines(tx, NAME)
            if over and not self.market.running():
                break
            self.truth.sleep(5.0)
        self.truth.sleep(self.market.listing_deadline_seconds + 1)
        self.tick()
        self.tick(nothing_runs, the_ledger_equals_the_meter)

    # -- a tick

    def tick(self, *invariants: Invariant) -> Plan:
        """One tick of the daemon, whatever becomes of it, and every invariant."""
        self.outcome.ticks += 1
        before = self.truth.now()
        plan, good, fuse = NOTHING, True, Fuse(self._pass)
        try:
            plan = tick(fused(self.watcher.watched(self.world), fuse))
        except Crash as crash:
            good = False
            self.outcome.effects[str(crash)] += 1
            self.chronicle.say(self.truth.now(), f"the daemon dies {crash} and is started again")
            self.batch.forget()
            self._start_daemon()
        except LedgerUnwritable:
            good = False
            self.chronicle.say(self.truth.now(), "the ledger cannot be written: the disk is full")
        except Stale as stale:
            good = False
            self.chronicle.say(self.truth.now(), f"the first daemon wakes, and its writes are refused: {stale}")
            self._wire()
        except Exception as error:
            raise Broken("a_tick_raises_nothing", f"{type(error).__name__}: {error}") from error
        good = good and self.watcher.unharmed() and self.truth.now() == before
        if self._full_until is None:
            self.batch.work(self.ledger, self._generation, self._served())
        self.chronicle.tick(self.truth.now(), plan if good else None, self.ledger)
        self._check((*(ALWAYS if good else ANYTIME), *invariants), good)
        unchanged = not plan.actions and not any(name.endswith(ACTS) for name in fuse.passed)
        if good and unchanged and self.outcome.ticks % TWICE == 0:
            self._again()
        return plan

    def _again(self) -> None:
        """A second tick on an unchanged world plans nothing."""
        plan = tick(self.watcher.watched(self.world))
        if plan.actions:
            raise Broken("a_second_tick_plans_nothing", "; ".join(map(str, plan.actions)))

    def _served(self) -> tuple[str, ...]:
        serving = self.door.serving
        return () if serving is None else tuple(replica.url for replica in serving.replicas)

    def _check(self, invariants: tuple[Invariant, ...], good: bool) -> None:
        sight = self.watcher.sight(self.ledger, self.world, good)
        for invariant in invariants:
            for words in invariant(sight):
                raise Broken(invariant.__name__, words)
        with self.ledger.read() as tx:
            for name, found in checks.check(tx).items():
                if found:
                    raise Broken(name, found[0])
        if words := self.batch.wrong(self.ledger):
            raise Broken("every_item_has_one_result", words)

    def _next(self, plan: Plan) -> datetime:
        """When to tick again: at once after something was done, soon while something is missing, else at an event."""
        now = self.truth.now()
        if plan.actions:
            return now + SECOND
        with self.ledger.read() as tx:
            machines = fleet.machines(tx, NAME)
        live_ones = sum(machine.status in LIVE for machine in machines)
        if plan.target.replicas > live_ones or len(machines) > live_ones:
            return now + (RETRY if plan.target.replicas > live_ones else timedelta(seconds=20))
        edge = windows.next_edge(self.world.policy(self.clock.now()).schedule, self.clock.now())
        moments = [now + STEP, self.market.next_event(now), None if edge is None else edge - self.clock.ahead]
        return max(now + SECOND, min(at for at in moments if at is not None))

    # -- what happens

    def _strike(self, incident: Incident) -> None:
        now, size = self.truth.now(), incident.size
        running = sorted(self.market.running())
        if incident.fault in (Fault.CRASH, Fault.TWO):
            self._armed = (incident.fault, size)
            self._left = int(size * EFFECTS)
            return
        strikes: dict[Fault, Callable[[], str]] = {
            Fault.PAUSE: lambda: self._pause(timedelta(seconds=round(60 + size**2 * PAUSE_HOURS * 3600))),
            Fault.CLOCK: lambda: self._set_clock(timedelta(seconds=round((2 * size - 1) ** 3 * CLOCK_HOURS * 3600))),
            Fault.DISK: lambda: self._fill_disk(timedelta(seconds=round(30 + size**2 * FULL_HOURS * 3600))),
            Fault.SPEC: self._change_spec,
            Fault.RESTORE: lambda: self._restore(size),
        }
        if incident.fault in strikes:
            self.chronicle.say(now, strikes[incident.fault]())
        elif running:
            token = running[int(size * len(running))]
            {Fault.LOSS: self.market.lose, Fault.DEATH: self.market.crash, Fault.SWITCH_OFF: self.market.stop}[
                incident.fault
            ](token)
            self.chronicle.say(now, f"{incident.fault}: {self.chronicle.named(token)}")

    def _pause(self, length: timedelta) -> str:
        started = self.truth.now()
        self.truth.jump(started + length)
        self.watcher.slept()
        self.batch.forget()
        self._start_daemon()
        return f"nobody runs the daemon until {self.truth.now():%d %H:%M:%S}"

    def _set_clock(self, by: timedelta) -> str:
        self.clock.ahead += by
        self.watcher.clock_sets += 1
        return f"the daemon's clock is set by {by.total_seconds() / 3600:+.2f} h"

    def _fill_disk(self, length: timedelta) -> str:
        self._full_until = self.truth.now() + length
        return f"the disk is full until {self._full_until:%d %H:%M:%S}"

    def _change_spec(self) -> str:
        if self._full_until is not None:
            return "the spec could not be changed: the disk is full"
        self._version = (self._version + 1) % len(self.day.specs)
        self._put_up(self.day.specs[self._version])
        self._wire()
        return f"version {self._version + 1} of the spec is put up"

    def _restore(self, size: float) -> str:
        wanted = self.truth.now() - timedelta(hours=12 * size)
        at, copy = max((one for one in self._copies if one[0] <= wanted), default=self._copies[0])
        self.ledger.close()
        shutil.copyfile(copy, self._path)
        self.ledger = self._opened()
        self.batch.forget(restored=self.ledger)
        self.watcher.restored()
        self._start_daemon()
        return f"the ledger is put back to {at:%d %H:%M:%S}"

    def _pass(self, number: int, name: str) -> None:
        """Called at every effect of a tick: here the disk is full, the daemon dies, or another one takes over."""
        if self._full_until is not None:
            if self.truth.now() >= self._full_until:
                self._full_until = None
            elif name.startswith("before the commit"):
                raise LedgerUnwritable("the disk is full")
        if self._armed is None:
            return
        self._left -= 1
        fault, size = self._armed
        if self._left < 0 and fault is Fault.CRASH:
            self._armed = None
            raise Crash(name)
        if self._left < 0 and not name.startswith("before the commit"):
            self._armed = None
            self._usurp(name, size * USURPED_SECONDS)

    def _usurp(self, name: str, seconds: float) -> None:
        """In the middle of a tick the daemon falls asleep; another one takes over and ticks; then the first wakes."""
        self.chronicle.say(self.truth.now(), f"the daemon stalls {name}, and another one takes over")
        self.batch.forget()
        self._start_daemon()
        for _ in range(4):
            self.truth.sleep(seconds / 4)
            self.tick()

    def _copy(self) -> None:
        """A copy of the ledger, as a backup is one: whole, of one moment."""
        copy = self._path.with_name(f"copy-{len(self._copies)}.db")
        self.ledger.close()  # so that everything is in one file
        shutil.copyfile(self._path, copy)
        self._copies.append((self.truth.now(), copy))

    # -- the daemon

    def _opened(self) -> Ledger:
        ledger = open_file(self._path, simulated=True)
        ledger.hurry()
        return ledger

    def _put_up(self, text: str) -> None:
        with self.ledger.write() as tx:
            deployments.put_up(tx, NAME, text, f"{NAME}.yaml", self.clock.now())

    def _start_daemon(self) -> None:
        """A new process: it takes the lease, and knows what the ledger knows."""
        self.ledger = Ledger(self.ledger.engine, self.ledger.key)
        with self.ledger.write() as tx:
            self._generation = leases.take(tx, "halve", 1, self.clock.now() + LEASE)
        self.ledger.generation = self._generation
        self._wire()

    def _wire(self) -> None:
        with self.ledger.read() as tx:
            row = deployments.get(tx, NAME)
        assert row is not None  # it was put up before the first copy was made
        wanted = _parsed(row.spec)
        self.world = World(
            deployment=NAME,
            digest=wanted.replica_digest(),
            payload=deployment.payload_of(wanted),
            wishes=deployment.wishes_of(wanted, row),
            clock=self.clock,
            ledger=self.ledger,
            providers={"simulated": self.market},
            probes=self.market,
            door=self.door,
        )
