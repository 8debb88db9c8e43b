"""How long the door has patience, with whom."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """In seconds. One who overstays any of them costs the door a connection for that long and nothing else."""

    head: float = 30.0  # a client, from connecting or from its last answer to the end of its next request's head
    silent: float = 30.0  # a client within its body
    upload: float = 300.0  # a client, for its whole body
    stalled: float = 30.0  # a client that takes nothing of what it is sent
    linger: float = 5.0  # a client that still sends the body of a request which was answered without it
    hold: float = 30.0  # from the whole request being here to a replica having taken it
    leave: float = 30.0  # requests in flight when the door is told to stop
    doubt: float = 5.0  # a replica at work that says nothing is asked whether it is there
    answer: float = 5.0  # a replica that is asked so; twice without an answer and its work is done elsewhere
