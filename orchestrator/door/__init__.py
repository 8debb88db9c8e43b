"""One stable address for a deployment: a proxy in a process of its own, and the daemon's hold on it.

The daemon publishes the serving set (`Door.publish`); the door reads it from a file and needs nobody else, so it goes
on when the daemon does not. `python -m orchestrator.door` is the door, `Door` is how the daemon opens and asks it.
"""

from orchestrator.door.client import Door
from orchestrator.door.loads import Loads, Minute
from orchestrator.door.process import DoorProcess
from orchestrator.door.serving import Replica, ServingSet

__all__ = ["Door", "DoorProcess", "Loads", "Minute", "Replica", "ServingSet"]
