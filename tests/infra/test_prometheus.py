"""Rules that fire, panels that ask for what there is, and a real Prometheus that scrapes daemon, door and replica."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from inference.metrics import SHAPES
from orchestrator.ledger import deployments, jobs
from orchestrator.ledger.store import open_ledger
from orchestrator.metrics import DAEMON, DOOR
from tests.infra.prometheus import RULES, scraping, tool, until
from tests.orchestrator.ports import free_port
from tests.orchestrator.tiny import end_all

ROOT = Path(__file__).parents[2]
KNOWN = {**{name: shape.kind for name, shape in (DAEMON | DOOR).items()}, **{n: k for n, (k, _) in SHAPES.items()}}
ALERTS = [rule["alert"] for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]]

#: what has to be true for an hour for each alert to fire
BAD_DAYS = {
    "HalveDaemonDown": {'up{job="halve_daemon"}': "0x60"},
    "HalveDaemonSilent": {"halve_daemon_last_tick_timestamp_seconds": "0x60"},
    "HalveTicksFail": {"halve_daemon_tick_errors_total": "0+1x60"},
    "HalveNothingServes": {
        'halve_deployment_open{deployment="ocr"}': "1x60",
        'halve_deployment_wanted_replicas{deployment="ocr"}': "2x60",
        'halve_instances{deployment="ocr", status="booting"}': "2x60",
        'halve_instances{deployment="other", status="ready"}': "2x60",
    },
    "HalveBudgetNearlySpent": {
        'halve_budget_spent{deployment="ocr", period="month"}': "500x60",
        'halve_budget_limit{deployment="ocr", period="month"}': "600x60",
    },
    "HalveBudgetSpent": {
        'halve_budget_spent{deployment="ocr", period="month"}': "600x60",
        'halve_budget_limit{deployment="ocr", period="month"}': "600x60",
    },
    "HalveRunawayLaunches": {
        'halve_launches_last_hour{deployment="ocr"}': "20x60",
        'halve_launches_per_hour_limit{deployment="ocr"}': "20x60",
    },
    "HalveMachineLost": {'halve_instances{deployment="ocr", provider="aws", status="lost"}': "1x60"},
    "HalveManyPreemptions": {'halve_preempted_instances_total{deployment="ocr"}': "0+1x60"},
    "HalvePriceTooOld": {'halve_newest_price_timestamp_seconds{provider="aws"}': "-300000x60"},
    "HalveUnknownPrice": {'halve_month_unpriced_seconds{deployment="ocr"}': "0+60x60"},
    "HalveQueueTooLong": {'halve_door_waiting_requests{deployment="ocr"}': "50x60"},
    "HalveRequestsFail": {
        'halve_door_requests_total{deployment="ocr"}': "0+100x60",
        'halve_door_failed_requests_total{deployment="ocr"}': "0+5x60",
    },
    "HalveDoorDown": {'up{job="halve_door", deployment="ocr"}': "0x60"},
    "HalveDeadlineAtRisk": {'halve_job_margin_seconds{deployment="ocr", job="1"}': "-60x60"},
    "HalveLedgerNotCopied": {"halve_ledger_copy_timestamp_seconds": "-200000x60"},
}


def rule_test(folder: Path, tests: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    (folder / "alerts.yml").write_text(RULES.read_text("utf-8"))
    (folder / "tests.yml").write_text(yaml.safe_dump(tests))
    command = [tool("promtool"), "test", "rules", "tests.yml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_no_rule_fires_on_a_good_day(tmp_path: Path) -> None:
    days = yaml.safe_load((Path(__file__).with_name("alerts_test.yml")).read_text("utf-8"))
    assert {one["alertname"] for one in days["tests"][0]["alert_rule_test"]} == {*ALERTS}
    judged = rule_test(tmp_path, days)
    assert judged.returncode == 0, judged.stdout + judged.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_a_rule_fires_on_its_bad_day(tmp_path: Path, alert: str) -> None:
    series = [{"series": name, "values": values} for name, values in BAD_DAYS[alert].items()]
    silent = {"interval": "1m", "input_series": series, "alert_rule_test": [{"alertname": alert, "eval_time": "1h"}]}
    judged = rule_test(tmp_path, {"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": [silent]})
    assert judged.returncode == 1  # it was said to be silent
    assert f'alertname="{alert}"' in judged.stdout + judged.stderr


def test_the_configuration_is_one() -> None:
    config = RULES.with_name("prometheus.yml")
    judged = subprocess.run([tool("promtool"), "check", "config", str(config)], capture_output=True, timeout=60)
    assert judged.returncode == 0, judged.stderr


def expressions() -> dict[str, str]:
    """Of the rules and of the dashboard, by where they stand, with its variables filled in."""
    found = {
        rule["alert"]: rule["expr"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    }
    board = json.loads((ROOT / "infra" / "grafana" / "halve.json").read_text("utf-8"))
    for panel in board["panels"]:
        for target in panel["targets"]:
            asked = target["expr"].replace("$__rate_interval", "1m").replace("$deployment", ".*")
            found[f"{panel['title']} {target['refId']}"] = asked
    return found


def unknown(expression: str) -> set[str]:
    """Names in it that nobody tells; those of a histogram are its parts."""
    asked = set(re.findall(r"\b(halve_\w+)\b(?!\")", expression))
    told = {name for name, kind in KNOWN.items() if kind != "histogram"}
    told |= {f"{n}_{part}" for n, kind in KNOWN.items() if kind == "histogram" for part in ("bucket", "sum", "count")}
    return asked - told


def test_rules_and_panels_ask_for_what_there_is() -> None:
    asked = expressions()
    assert len(asked) > 40
    assert {where: lacking for where, one in asked.items() if (lacking := unknown(one))} == {}
    assert unknown("rate(halve_door_request_seconds[1m]) + halve_imaginary") == {
        "halve_door_request_seconds",
        "halve_imaginary",
    }


def test_prometheus_understands_each_of_them(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": one} for number, one in enumerate(expressions().values())]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    judged = subprocess.run(
        [tool("promtool"), "check", "rules", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert judged.returncode == 0, judged.stderr


def test_the_dashboard_is_whole() -> None:
    board = json.loads((ROOT / "infra" / "grafana" / "halve.json").read_text("utf-8"))
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert {one["name"] for one in board["templating"]["list"]} == {"source", "deployment"}
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["title"] and all(target["legendFormat"] for target in panel["targets"])


SPEC = """
name: ocr
model: ppocr
provider: local
currency: CNY
local: {price_per_hour: 1.80}
budget: {monthly: 0.000001 CNY, at: {100%: warn}}
door: {listen: 127.0.0.1:0}
"""


@contextmanager
def daemon(home: Path, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """The real one, and what it has started."""
    home.mkdir()
    with open_ledger(home).write() as tx:
        deployments.put_up(tx, "ocr", SPEC, "ocr.yaml", datetime.now(UTC))
    command = [sys.executable, "-m", "orchestrator", "daemon", "--metrics", address, "--log-json"]
    environment = os.environ | {"HALVE_HOME": str(home)}
    with (home / "daemon.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        end_all(home)


@pytest.mark.slow
def test_a_real_prometheus_scrapes_all_three_and_rules_fire(tmp_path: Path) -> None:
    home, address = tmp_path / "home", f"127.0.0.1:{free_port()}"
    with daemon(home, address) as process, scraping(tmp_path / "prometheus", address) as asked:

        def seen(expression: str) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = until(lambda: asked.query(expression), process=process, why=asked.targets)
            return found

        for job in ("halve_daemon", "halve_door", "halve_replica"):
            seen(f'up{{job="{job}"}} == 1')
        (door,) = seen('up{job="halve_door"}')
        page = (ROOT / "tests" / "pages" / "nameplate.png").read_bytes()
        url = f"http://{door['metric']['instance']}/v1/ocr"

        def read() -> bool:  # it is scraped while it still loads its model
            return httpx.post(url, files={"file": page}, trust_env=False, timeout=60).status_code == 200

        until(read, process=process, why=asked.targets)
        for name in ("halve_images_total", "halve_door_images_total"):
            seen(f'{name}{{deployment="ocr"}} == 1')
        with open_ledger(home).write() as tx:
            now = datetime.now(UTC)
            job = jobs.create(tx, "ocr", tmp_path, tmp_path / "out", (), ["none.png"], now, now + timedelta(hours=1))
            jobs.pause(tx, job, "so that it is not over before it is scraped")
        seen("halve_job_deadline_timestamp_seconds")
        until(lambda: "HalveBudgetSpent" in asked.firing(), process=process, why=asked.firing)
        # a scrape has a second, which a busy machine may not have had just now
        until(lambda: "HalveDaemonDown" not in asked.firing(), process=process, why=asked.firing)
        process.kill()
        until(lambda: "HalveDaemonDown" in asked.firing(), process=asked.process, why=asked.firing)
    said = [json.loads(line) for line in (home / "daemon.log").read_text("utf-8").splitlines()]
    assert {"halve.daemon", "halve.tick"} <= {line["logger"] for line in said}
    assert [line["intent"] for line in said if "intent" in line] == ["launch"]
