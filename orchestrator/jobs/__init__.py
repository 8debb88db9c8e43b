"""Batches: submit many images, have them read by a deployment's replicas, keep every result once."""

from orchestrator.jobs.runner import JobRunner
from orchestrator.jobs.submission import submit

__all__ = ["JobRunner", "submit"]
