"""An instance's life. A status says what we know, not what we hope. This table is the diagram."""

from enum import StrEnum


class Status(StrEnum):
    """What is known of an instance."""

    REQUESTED = "requested"  # the intent is recorded; the provider may or may not have heard of it
    BOOTING = "booting"  # the provider lists it; the replica does not answer ready yet
    READY = "ready"  # the replica answers ready
    DRAINING = "draining"  # it takes no new requests and is on its way out
    STOPPED = "stopped"  # switched off by somebody, its disk kept and paid
    ENDED = "ended"  # gone because we wanted it gone
    FAILED = "failed"  # it never came up, or died by itself, and is gone
    PREEMPTED = "preempted"  # taken back by the provider, and gone
    LOST = "lost"  # no longer listed, without a word; it may come back, it may still cost


TRANSITIONS: dict[tuple[Status, Status], str] = {
    (Status.REQUESTED, Status.BOOTING): "the provider lists our token",
    (Status.REQUESTED, Status.FAILED): "the provider refused, or the intent was voided before it was heard of",
    (Status.BOOTING, Status.READY): "the replica answers ready",
    (Status.BOOTING, Status.DRAINING): "no longer wanted, or it took too long to start",
    (Status.BOOTING, Status.FAILED): "it ended by itself before it was ready",
    (Status.BOOTING, Status.ENDED): "it was adopted, and is over already",
    (Status.BOOTING, Status.PREEMPTED): "taken back before it was ready",
    (Status.BOOTING, Status.LOST): "it vanished from the listing",
    (Status.READY, Status.DRAINING): "no longer wanted: closed, surplus, outdated, overpriced, doomed or silent",
    (Status.READY, Status.FAILED): "it ended by itself",
    (Status.READY, Status.PREEMPTED): "taken back by the provider",
    (Status.READY, Status.LOST): "it vanished from the listing",
    (Status.DRAINING, Status.ENDED): "terminated by us and seen gone",
    (Status.DRAINING, Status.PREEMPTED): "taken back while it drained",
    (Status.DRAINING, Status.FAILED): "it ended by itself while it drained",
    (Status.BOOTING, Status.STOPPED): "somebody switched it off before it was ready",
    (Status.READY, Status.STOPPED): "somebody switched it off",
    (Status.DRAINING, Status.STOPPED): "somebody switched it off while it drained",
    (Status.DRAINING, Status.LOST): "it vanished from the listing while it drained",
    (Status.STOPPED, Status.DRAINING): "somebody switched it on again; it was replaced meanwhile, so it leaves",
    (Status.STOPPED, Status.ENDED): "terminated by us and seen gone, its disk given up too",
    (Status.STOPPED, Status.PREEMPTED): "taken back while it was switched off",
    (Status.STOPPED, Status.LOST): "it vanished from the listing while it was switched off",
    (Status.LOST, Status.DRAINING): "it is listed again; it was replaced meanwhile, so it leaves",
    (Status.LOST, Status.ENDED): "it is listed as gone, or its provider has ended it on our word",
    (Status.LOST, Status.PREEMPTED): "it is listed as taken back",
    (Status.ENDED, Status.DRAINING): "it is listed again after all, so it is ended again",
    (Status.FAILED, Status.DRAINING): "a launch that was given up has come after all, so it is ended",
    (Status.PREEMPTED, Status.DRAINING): "it is listed again after all, so it is ended",
}

#: nothing is left to be done, unless it is listed again
OVER = frozenset({Status.ENDED, Status.FAILED, Status.PREEMPTED})
#: on the way to serving
STARTING = frozenset({Status.REQUESTED, Status.BOOTING})
#: counted towards the target
LIVE = STARTING | {Status.READY}


class IllegalTransition(Exception):
    """A step that is not in TRANSITIONS: a bug, never a state of the world."""


def move(start: Status, finish: Status) -> Status:
    """Return `finish`. Raises IllegalTransition when the table has no such edge."""
    if (start, finish) not in TRANSITIONS:
        raise IllegalTransition(f"{start} -> {finish}")
    return finish
