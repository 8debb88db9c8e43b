"""A real Prometheus on a free port of loopback, with quick rules. Debian's package `prometheus` has it."""

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.orchestrator.ports import free_port

RULES = Path(__file__).parents[2] / "infra" / "prometheus" / "alerts.yml"
CONFIG = """
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [alerts.yml]
scrape_configs:
  - job_name: halve_daemon
    static_configs: [{targets: ["DAEMON"]}]
  - job_name: halve_doors_and_replicas
    http_sd_configs: [{url: "http://DAEMON/targets", refresh_interval: 1s}]
"""


def tool(name: str) -> str:
    """Where a program of that package is; skips where it is not."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not here: Debian's package prometheus has it")
    return found


class Prometheus:
    """Asked over its HTTP API."""

    def __init__(self, url: str, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._client = httpx.Client(base_url=url, trust_env=False, timeout=60)

    def ready(self) -> bool:
        try:
            return self._client.get("/-/ready").is_success
        except httpx.TransportError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = self._client.get("/api/v1/query", params={"query": expression}).raise_for_status()
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found

    def targets(self) -> list[str]:
        """What it scrapes, and how that goes."""
        found = self._client.get("/api/v1/targets").raise_for_status().json()["data"]["activeTargets"]
        return [f"{one['labels']}: {one['health']} {one['lastError']}" for one in found]

    def firing(self) -> set[str]:
        alerts = self._client.get("/api/v1/alerts").raise_for_status().json()["data"]["alerts"]
        return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}


@contextmanager
def scraping(folder: Path, daemon: str) -> Iterator[Prometheus]:
    """One that scrapes the daemon at HOST:PORT, and what that one names; no rule waits."""
    program, port = tool("prometheus"), free_port()
    folder.mkdir()
    (folder / "prometheus.yml").write_text(CONFIG.replace("DAEMON", daemon))
    (folder / "alerts.yml").write_text(re.sub(r"for: \w+", "for: 0s", RULES.read_text("utf-8")))
    command = [program, "--config.file=prometheus.yml", f"--web.listen-address=127.0.0.1:{port}"]
    command += ["--storage.tsdb.path=data", "--log.level=warn"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as process:
        asked = Prometheus(f"http://127.0.0.1:{port}", process)
        try:
            until(asked.ready, process=process)
            yield asked
        finally:
            process.terminate()


def until(
    holds: Callable[[], Any], *, process: subprocess.Popen[Any], why: Callable[[], object] = str, seconds: float = 120.0
) -> Any:
    """Wait until it holds while that process lives; `why` is asked when it does not."""
    end = time.monotonic() + seconds
    while not (said := holds()):
        assert process.poll() is None, f"{process.args} ended"
        assert time.monotonic() < end, why()
        time.sleep(0.2)
    return said
