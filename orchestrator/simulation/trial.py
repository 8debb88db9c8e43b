"""One bad day, lived through by the production loop on a virtual clock; every tick is followed by every invariant."""

import tempfile
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from orchestrator.clock import SetClock, VirtualClock
from orchestrator.invariants import ALWAYS, ANYTIME, Invariant, nothing_runs, the_ledger_equals_the_meter
from orchestrator.ledger import checks
from orchestrator.ledger.store import LedgerUnwritable, Stale
from orchestrator.simulation.bad_day import Day, Fault, Incident, draw
from orchestrator.simulation.chronicle import Chronicle
from orchestrator.simulation.fuse import Crash, Fuse
from orchestrator.simulation.home import Home
from orchestrator.simulation.outcome import Broken, Outcome, Violation
from orchestrator.simulation.shared_market import SharedMarket
from orchestrator.simulation.tenant import SECOND, Tenant, offers_of
from policies.candidates import BACKOFF_LONGEST

#: between ticks when it is counted how many of them the target takes
CALM_TICK, CALM_TICKS = timedelta(seconds=5), 3
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
#: one tick of so many is followed by what SQL alone can ask, and each that did not go well
ASKED = 3
#: a day with more ticks than this is one on which the loop always finds something to do
TICKS_MAX = 5000
CALM_OPEN = timedelta(hours=3)
#: rounds after which whatever is left to be ended must be gone
LAST_ROUNDS = 200


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
            trial.home.ledger.close()
    trial.outcome.launches = sum(len(trial.market.ours(one.name)) for one in day.deployed)
    for tenant in trial.tenants:
        trial.outcome.tried += tenant.watcher.tried
    return trial.outcome, chronicle


class Trial:
    """The world of one day. `live` goes through it, and raises Broken."""

    def __init__(self, day: Day, folder: Path, chronicle: Chronicle) -> None:
        self.day = day
        self.chronicle = chronicle
        self.outcome = Outcome(seed=day.seed, faults=Counter(map(str, day.faults)))
        self.truth = VirtualClock(day.start)
        self.clock = SetClock(self.truth)
        self.market = SharedMarket(self.truth, day.conditions, day.neighbours, day.late)
        self.home = Home(folder, self.truth, self.clock)
        self.tenants = [Tenant(one, day, self.home, self.market, self.truth, self.clock) for one in day.deployed]
        self._armed: tuple[Fault, float] | None = None
        self._left = 0
        self._silent: dict[str, tuple[datetime, int]] = {}  # since when, and ticks after a cold start
        self._start_daemon()
        self.home.copy()

    # -- the day

    def live(self) -> None:
        """The day, the calm after it, and the end."""
        waiting = list(self.day.incidents)
        while self.truth.now() < self.day.end:
            while waiting and waiting[0].at <= self.truth.now():
                self._strike(waiting.pop(0))
            self.round()
            if Fault.RESTORE in self.day.faults:
                self.home.copy_when_due()
            upcoming = min([self._next_round(), self.day.end, *(one.at for one in waiting[:1])])
            self.truth.jump(max(upcoming, self.truth.now() + SECOND))
        self._calm()
        self._end()

    def _next_round(self) -> datetime:
        return min(tenant.next() for tenant in self.tenants)

    def _calm(self) -> None:
        """No more faults: the target is reached within a cold start, the listing delay and three ticks.

        That time runs while nothing is said of what stands in the way. What the faults left behind, back-offs and
        machines that never answer, has run out when a back-off and the time that a start may take are over; whoever
        misses something then needs an excuse.
        """
        self._armed = None
        self.home.clear_disk()
        for tenant in self.tenants:
            tenant.batch.poisoned = False
            tenant.hold_open(CALM_OPEN)
        rested = self.truth.now() + BACKOFF_LONGEST + timedelta(seconds=self._patience())
        while self.truth.now() < rested:
            self.round()
            self._wait_for_words()
            self.truth.jump(min(self._next_round(), rested))
        late = self.truth.now() + self._cold_start()
        self.round()
        while missing := [one for one in self.tenants if one.plan.target.replicas > one.ready()]:
            if self.truth.now() > late + CALM_TICKS * CALM_TICK:
                self._excuse_all(missing)
                return
            self.truth.sleep(CALM_TICK.total_seconds())
            self.round()
        self.outcome.tried["the_target_is_reached"] += 1

    def _cold_start(self) -> timedelta:
        """How long a launch may take to be known to serve."""
        return timedelta(seconds=self.day.conditions.boot_seconds + self.day.conditions.listing_delay_seconds)

    def _patience(self) -> float:
        return max(one.world.policy(self.clock.now()).patience.start_seconds for one in self.tenants)

    def _wait_for_words(self) -> None:
        """Raises Broken where replicas have been missing for too long, and neither a word nor an excuse says why."""
        now = self.truth.now()
        for tenant in self.tenants:
            if tenant.plan.notes or tenant.plan.target.replicas <= tenant.ready():
                self._silent.pop(tenant.name, None)
                continue
            since, ticks = self._silent.get(tenant.name, (now, 0))
            ticks += now > since + self._cold_start()
            self._silent[tenant.name] = since, ticks
            mute = any(one.mute and one.ended_at is None for one in self.market.ours(tenant.name))
            if ticks > CALM_TICKS and not mute and not self._excuse(tenant):
                serve = f"{tenant.ready()} of {tenant.plan.target.replicas} of {tenant.name} serve"
                raise Broken("the_target_is_reached", f"{serve} since {since:%H:%M:%S} UTC, and nobody says why")

    def _excuse_all(self, missing: list[Tenant]) -> None:
        """Raises Broken for whoever has none."""
        excuses = set()
        for tenant in missing:
            plan, excuse = tenant.plan, self._excuse(tenant)
            if not excuse:
                serve = f"{tenant.ready()} of {plan.target.replicas} of {tenant.name} serve"
                raise Broken("the_target_is_reached", f"{serve}, notes: {'; '.join(plan.notes)}")
            excuses.add(excuse)
        self.outcome.tried["the_target_is_reached, with an excuse"] += 1
        self.outcome.tried.update(f"the_target_is_reached, but for {excuse}" for excuse in excuses)

    def _excuse(self, tenant: Tenant) -> str:
        """Why so many cannot be had, or "".

        The quota: an offer that it refused is left alone still, or was when a launch of now had to begin. The listing:
        where a machine may be listed only after the time that a start may take, some are given up for others.
        The budget: it allows only spot, and the spec does not, or its policy trusts none. The runaway bound: the
        faults' launches of the last hour count.
        """
        notes = tenant.plan.notes
        if tenant.rests_by_quota(self._cold_start() + CALM_TICKS * CALM_TICK):
            return "the quota"
        if self._cold_start().total_seconds() >= self._patience():
            return "the listing"
        if any("budget" in note for note in notes):
            spot = tenant.world.policy(self.clock.now()).takes_spot
            return "the budget, and no spot that is trusted" if spot else "the budget"
        return "the runaway bound" if any("runaway" in note for note in notes) else ""

    def _end(self) -> None:
        """Everything is taken down; then nothing runs, and the ledger agrees with the meter to the micro-unit."""
        for tenant in self.tenants:
            self.outcome.tried["every_item_has_one_result"] += tenant.batch.finished(self.home.ledger)
            tenant.take_down()
            self.chronicle.say(self.truth.now(), f"{tenant.name} is taken down")
        for _ in range(LAST_ROUNDS):
            self.round()
            if all(tenant.over() for tenant in self.tenants) and not self.market.running_of_ours():
                break
            self.truth.sleep(5.0)
        self.truth.sleep(self.market.listing_deadline_seconds + 1)
        self.round()
        self.round(nothing_runs, the_ledger_equals_the_meter)
        self._ask()
        if left := self.market.running_of_ours():
            raise Broken("nothing_runs", f"{', '.join(left)} still runs, and bears the tag of no deployment")
        for tenant in self.tenants:
            self.outcome.tried["the_ledger_equals_the_meter"] += tenant.watcher.accounted
            if words := tenant.batch.lost(self.home.ledger, self.home.generation):
                raise Broken("every_item_has_one_result", words)

    # -- a tick

    def round(self, *invariants: Invariant) -> None:
        """One tick of every deployment in turn, as the daemon does it."""
        self.market.arrive()
        for tenant in self.tenants:
            self.tick(tenant, *invariants)

    def tick(self, tenant: Tenant, *invariants: Invariant) -> None:
        """One tick of the daemon, whatever becomes of it, and every invariant."""
        self.outcome.ticks += 1
        if self.outcome.ticks > TICKS_MAX:
            raise Broken("the_loop_comes_to_rest", f"{TICKS_MAX} ticks, and {tenant.plan.actions} is still to be done")
        before = self.truth.now()
        good, fuse = True, Fuse(self._pass)
        try:
            tenant.tick(fuse)
        except Crash as crash:
            good = False
            self.outcome.effects[str(crash)] += 1
            self.chronicle.say(self.truth.now(), f"the daemon dies {crash} and is started again")
            self._start_daemon()
        except LedgerUnwritable:
            good = False
            self.chronicle.say(self.truth.now(), "the ledger cannot be written: the disk is full")
        except Stale as stale:
            good = False
            self.chronicle.say(self.truth.now(), f"the first daemon wakes, and its writes are refused: {stale}")
            tenant.wire()
        except Broken:
            raise  # by another daemon, in the middle of this one's tick
        except Exception as error:
            raise Broken("a_tick_raises_nothing", f"{type(error).__name__}: {error}") from error
        good = good and tenant.watcher.unharmed() and self.truth.now() == before
        plan = tenant.plan
        self.chronicle.tick(self.truth.now(), plan if good else None, self.home.ledger)
        tenant.check((*(ALWAYS if good else ANYTIME), *invariants), good)
        if not good or self.outcome.ticks % ASKED == 0:
            self._ask()
        unchanged = not plan.actions and not any(name.endswith(ACTS) for name in fuse.passed)
        if good and unchanged and self.outcome.ticks % TWICE == 0:
            self._again(tenant)
        if not self.home.full:
            tenant.work()

    def _again(self, tenant: Tenant) -> None:
        """A second tick on an unchanged world plans nothing."""
        self.outcome.tried["a_second_tick_plans_nothing"] += 1
        first = tenant.plan
        if actions := tenant.tick().actions:
            raise Broken("a_second_tick_plans_nothing", "; ".join(map(str, actions)))
        tenant.plan = first

    def _ask(self) -> None:
        """What SQL alone can ask of the ledger."""
        with self.home.ledger.read() as tx:
            for name, found in checks.check(tx).items():
                if found:
                    raise Broken(name, found[0])

    # -- what happens

    def _strike(self, incident: Incident) -> None:
        now, size = self.truth.now(), incident.size
        running = sorted(self.market.running_of_ours())
        if incident.fault in (Fault.CRASH, Fault.TWO):
            self._armed = (incident.fault, size)
            self._left = int(size * EFFECTS)
            return
        strikes: dict[Fault, Callable[[], str]] = {
            Fault.PAUSE: lambda: self._pause(timedelta(seconds=round(60 + size**2 * PAUSE_HOURS * 3600))),
            Fault.CLOCK: lambda: self._set_clock(timedelta(seconds=round((2 * size - 1) ** 3 * CLOCK_HOURS * 3600))),
            Fault.DISK: lambda: self._fill_disk(timedelta(seconds=round(30 + size**2 * FULL_HOURS * 3600))),
            Fault.SPEC: lambda: self._change_spec(size),
            Fault.RESTORE: lambda: self._restore(size),
            Fault.SWITCH_ON: self._switch_on,
        }
        if incident.fault in strikes:
            self.chronicle.say(now, strikes[incident.fault]())
        elif running:
            token = running[int(size * len(running))]
            {Fault.LOSS: self.market.lose, Fault.DEATH: self.market.crash, Fault.SWITCH_OFF: self.market.stop}[
                incident.fault
            ](token)
            self.chronicle.say(now, f"{incident.fault}: {self.chronicle.named(token)}")

    def _switch_on(self) -> str:
        for token in self.market.running_of_ours():
            self.market.start(token)
        return "whatever was switched off is switched on"

    def _pause(self, length: timedelta) -> str:
        started = self.truth.now()
        self.truth.jump(started + length)
        for tenant in self.tenants:
            tenant.watcher.slept()
        self._start_daemon()
        return f"nobody runs the daemon until {self.truth.now():%d %H:%M:%S}"

    def _set_clock(self, by: timedelta) -> str:
        self.clock.ahead += by
        for tenant in self.tenants:
            tenant.watcher.clock_sets += 1
        return f"the daemon's clock is set by {by.total_seconds() / 3600:+.2f} h"

    def _fill_disk(self, length: timedelta) -> str:
        until = self.truth.now() + length
        self.home.fill_disk(until)
        return f"the disk is full until {until:%d %H:%M:%S}"

    def _change_spec(self, size: float) -> str:
        if self.home.full:
            return "the spec could not be changed: the disk is full"
        return self.tenants[int(size * len(self.tenants))].change_spec()

    def _restore(self, size: float) -> str:
        at = self.home.restore(self.truth.now() - timedelta(hours=12 * size))
        for tenant in self.tenants:
            tenant.batch.forget(restored=self.home.ledger)
            tenant.watcher.restored()
        self._start_daemon()
        return f"the ledger is put back to {at:%d %H:%M:%S}"

    def _pass(self, number: int, name: str) -> None:
        """Called at every effect of a tick: here the disk is full, the daemon dies, or another one takes over."""
        self.home.pass_commit(name)
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
        """In the middle of a tick the daemon falls asleep; another one takes over and ticks as any; the first wakes."""
        self.chronicle.say(self.truth.now(), f"the daemon stalls {name}, and another one takes over")
        for tenant in self.tenants:
            tenant.watcher.slept()
        self._start_daemon()
        until = self.truth.now() + timedelta(seconds=seconds)
        while self.truth.now() < until:
            self.truth.sleep(1)
            self.round()
            self.truth.jump(max(self.truth.now(), min(self._next_round() - SECOND, until)))

    def _start_daemon(self) -> None:
        """A new process. What the one before had in its hands of the batches is dead with it."""
        for tenant in self.tenants:
            tenant.batch.forget()
        self.home.start_daemon()
        for tenant in self.tenants:
            tenant.wire()
