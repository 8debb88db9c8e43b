"""What a door tells a Prometheus, in its text format."""

from orchestrator.door.loads import Counts
from orchestrator.door.roster import Roster
from orchestrator.metrics import DOOR, Families

#: seconds, as a replica's: the two are looked at together
LATENCY_BOUNDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 3.0, 5.0, 10.0, 30.0, float("inf"))


def text(counts: Counts, roster: Roster) -> bytes:
    """Since the door opened, and at this moment."""
    found, total, totals, served = Families(DOOR), counts.ever(), counts.totals, roster.serving
    name = served.deployment
    found.add("halve_door_open", served.open, name)
    found.add("halve_door_serving_replicas", len(served.replicas), name)
    found.add("halve_door_requests_total", total.requests, name)
    found.add("halve_door_failed_requests_total", total.failed, name)
    found.add("halve_door_refused_requests_total", total.refused, name)
    found.add("halve_door_images_total", sum(total.images_by_replica.values()), name)
    found.add_histogram("halve_door_request_seconds", *total.latencies(LATENCY_BOUNDS), name)
    found.add("halve_door_in_flight_requests", counts.in_flight, name)
    found.add("halve_door_waiting_requests", counts.waiting, name)
    for status, answers in sorted(totals.statuses.items()):
        found.add("halve_door_answers_total", answers, name, str(status))
    found.add("halve_door_clients_gone_total", totals.gone, name)
    found.add("halve_door_requests_sent_again_total", totals.again, name)
    found.add("halve_door_requests_held_total", totals.held, name)
    return found.text()
