"""What happened on a simulated day, in words: a line for each thing that anybody would want to know afterwards."""

from datetime import datetime

from orchestrator.ledger import fleet
from orchestrator.ledger.store import Ledger
from policies.plan import Launch, Plan


class Chronicle:
    """Lines in the order of events. A silent one writes nothing and costs nothing."""

    def __init__(self, start: datetime, *, silent: bool) -> None:
        self._silent = silent
        self._start = start
        self._lines: list[str] = []
        self._known: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._notes: tuple[str, ...] = ()

    def say(self, at: datetime, words: str) -> None:
        if not self._silent:
            self._lines.append(f"{at:%d %H:%M:%S} {words}")

    def named(self, token: str) -> str:
        """A machine's name in the ledger, or what it is called without one."""
        return self._names.get(token, f"machine {token[:6]}")

    def tick(self, at: datetime, plan: Plan | None, ledger: Ledger) -> None:
        """What a tick decided (None: it came to nothing), and what the ledger now says of the machines."""
        if self._silent:
            return
        for action in plan.actions if plan is not None else ():
            kind = type(action).__name__.lower()
            what = action.offer.id if isinstance(action, Launch) else action.instance_id
            self.say(at, f"{kind} {what}: {action.reason}")
        if plan is not None and plan.notes != self._notes:
            self._notes = plan.notes
            for note in plan.notes:
                self.say(at, f"note: {note}")
        with ledger.read() as tx:
            machines = fleet.machines(tx, over=True)
        for machine in machines:
            self._names[machine.token] = machine.id
            said = f"{machine.status}"
            if self._known.get(machine.token) != said:
                self._known[machine.token] = said
                self.say(at, f"{machine.id} is {machine.status}: {machine.reason}")

    def text(self) -> str:
        """All lines, with the day they are of."""
        return "\n".join([f"the day starts at {self._start:%Y-%m-%d %H:%M:%S} UTC", *self._lines])
