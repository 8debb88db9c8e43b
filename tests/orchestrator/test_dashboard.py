"""The dashboard's pages without a browser: who may see them, what they show, what they may do."""

import json
import re
import shutil
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from threading import Event
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from starlette.routing import Mount
from typer.testing import CliRunner

from orchestrator import replay, status
from orchestrator.cli import app as commands
from orchestrator.clock import Clock, SystemClock, VirtualClock
from orchestrator.dashboard.access import SESSION, Access, access, token_file
from orchestrator.dashboard.app import application
from orchestrator.dashboard.glance import Trouble, troubles
from orchestrator.dashboard.kept import Kept
from orchestrator.dashboard.looks import STATIC, environment, lasts
from orchestrator.dashboard.reasons import CLAUSES, reason
from orchestrator.dashboard.site import Settings, Site
from orchestrator.dashboard.words import PageWords
from orchestrator.errors import Refused
from orchestrator.ledger import deployments, jobs
from orchestrator.ledger import tables as t
from orchestrator.ledger.store import Ledger, open_ledger
from orchestrator.reports.figures import money
from tests.orchestrator.dashboard_ledger import DAYS, snapshot
from tests.orchestrator.tiny import until

PAGES = ("/now", "/timeline", "/timeline?days=90", "/costs", "/prices", "/prices?gpu=T4&days=90", "/jobs", "/why")
PARTS = ("/now/fleet", "/jobs/list", "/costs?part=1")
FORM = "application/x-www-form-urlencoded"
ADDRESS = "http://127.0.0.1:7870"


class Desk:
    """A dashboard over a filled ledger, and a browser without a screen that has logged in."""

    def __init__(self, home: Path, *, actions: bool = False, clock: Clock | None = None) -> None:
        self.ledger: Ledger = open_ledger(home)
        self.home = home
        self.site = Site(Settings(home=home, actions=actions), self.ledger, access(home), clock or SystemClock())
        self.client = TestClient(application(self.site), base_url=ADDRESS, follow_redirects=False)

    def log_in(self) -> None:
        answer = self.client.post("/login", data={"token": token_file(self.home).read_text()})
        assert (answer.status_code, answer.headers["location"]) == (303, "/now")

    def seal(self) -> str:
        session = self.client.cookies["halve_7870"]
        return self.site.access.form_seal(session)

    def page(self, path: str) -> str:
        """The page, when what it shows has been worked out."""

        def there() -> str | None:
            answer = self.client.get(path)
            assert answer.status_code == 200, answer.text
            waits = re.search(r"being added up|looking …</p>\n<", answer.text)
            return None if waits else answer.text

        return str(until(there))


@pytest.fixture
def home(filled_home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(filled_home, tmp_path / "home"))


@pytest.fixture
def desk(home: Path) -> Iterator[Desk]:
    made = Desk(home)
    with made.client:
        made.log_in()
        yield made


@pytest.fixture
def well_spent(home: Path) -> Iterator[Desk]:
    """As it was at noon some days ago: early in a month nothing has run in it yet, or next to nothing."""
    noon = (datetime.now(UTC) - timedelta(days=1)).replace(hour=12, minute=0, second=0, microsecond=0)
    made = Desk(home, clock=VirtualClock(noon if noon.day > 3 else noon - timedelta(days=noon.day)))
    with made.client:
        made.log_in()
        yield made


@pytest.fixture
def acting(home: Path) -> Iterator[Desk]:
    made = Desk(home, actions=True)
    with made.client:
        made.log_in()
        yield made


# who may see it


def test_nobody_sees_anything_without_the_token(desk: Desk) -> None:
    stranger = TestClient(desk.client.app, base_url=ADDRESS, follow_redirects=False)
    for path in (*PAGES, *PARTS, "/timeline.json", "/costs.json", "/prices.json", "/why/ocr/1", "/"):
        answer = stranger.get(path)
        assert (answer.status_code, len(answer.text)) == (401, 13), path
        shown = stranger.get(path, headers={"accept": "text/html"})
        assert (shown.status_code, shown.headers["location"]) == (303, "/login"), path
    for path in ("/override", "/drain", "/job", "/logout"):
        assert stranger.post(path, data={}).status_code == 401
    wrong = stranger.post("/login", data={"token": "guessed"})
    assert wrong.status_code == 403 and "that is not the token" in wrong.text and not stranger.cookies


def test_the_cookie_is_for_this_page_alone_and_ends(desk: Desk) -> None:
    answer = desk.client.post("/login", data={"token": token_file(desk.home).read_text()})
    said = answer.headers["set-cookie"].lower()
    assert "httponly" in said and "samesite=strict" in said and "halve_7870=" in said
    gate, now = Access("a" * 40), datetime.now(UTC)
    session = gate.session(now)
    assert gate.holds(session, now) and not gate.holds(session, now + SESSION)
    ends, _, seal = session.partition(".")
    for forged in (f"{int(ends) + 9999}.{seal}", "", ".", f"{ends}.", f"x.{seal}", f"{ends}.é"):
        assert not gate.holds(forged, now), forged
    assert not Access("b" * 40).holds(session, now), "a new token ends every session"


def test_a_token_that_others_may_read_is_refused(tmp_path: Path) -> None:
    gate, path = access(tmp_path), token_file(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and len(gate.token) >= 40 and access(tmp_path) == gate
    path.chmod(0o640)
    with pytest.raises(Refused, match="others may read it"):
        access(tmp_path)
    path.chmod(0o600)
    path.write_text("short\n")
    with pytest.raises(Refused, match="can be guessed"):
        access(tmp_path)


def test_a_browser_is_told_what_it_may_do(desk: Desk) -> None:
    for path in (*PAGES, "/login"):
        answer = desk.client.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?! src=\"/static/)|<style|\sstyle=|\son[a-z]+=|https?://(?!127)", answer.text)
    for name in re.findall(r'"(/static/[^"]+)"', desk.client.get("/timeline").text):
        answer = desk.client.get(name)
        assert answer.status_code == 200 and "immutable" in answer.headers["cache-control"]


def test_another_name_for_this_machine_is_not_answered(desk: Desk) -> None:
    assert desk.client.get("/now", headers={"host": "evil.example:7870"}).status_code == 400
    assert desk.client.get("/now", headers={"host": "localhost:7870"}).status_code == 200


def test_what_is_vendored_has_its_licence() -> None:
    for folder in ("htmx", "uplot"):
        assert (STATIC / folder / "LICENSE").stat().st_size > 400


# what it shows


@pytest.mark.parametrize("path", [*PAGES, *PARTS, "/timeline?deployment=archive", "/why?deployment=archive"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_page_opens_in_both_languages(desk: Desk, path: str, language: str) -> None:
    shown = desk.page(f"{path}{'&' if '?' in path else '?'}lang={language}")
    if not path.startswith(PARTS):
        assert f'<html lang="{"zh-CN" if language == "zh" else "en"}">' in shown
        assert ("时间线" in shown) == (language == "zh")


def test_a_language_that_was_asked_for_is_kept(desk: Desk) -> None:
    assert '<html lang="zh-CN">' in desk.client.get("/now?lang=zh").text
    assert '<html lang="zh-CN">' in desk.client.get("/jobs").text
    assert '<html lang="zh-CN">' in desk.client.get("/jobs?lang=xx").text, "there is no such language"
    assert '<html lang="en">' in desk.client.get("/jobs?lang=en").text
    stranger = TestClient(desk.client.app, base_url=ADDRESS)
    assert '<html lang="zh-CN">' in stranger.get("/costs?lang=zh", headers={"accept": "text/html"}).text


def test_all_that_it_says_is_said_in_chinese() -> None:
    from orchestrator.dashboard.chinese import CHINESE
    from orchestrator.reports.chinese import CHINESE as OF_REPORTS

    source = environment().loader
    assert source is not None
    words = set()
    for name in environment().list_templates():
        text, *_ = source.get_source(environment(), name)
        words |= set(re.findall(r'say\("((?:[^"\\]|\\.)+)"', text))
    for module in STATIC.parent.glob("*.py"):
        words |= set(re.findall(r'say\(\s*"((?:[^"\\]|\\.)+)"', module.read_text(encoding="utf-8")))
    words |= {"saved", "spent more", *("month", "day"), *("warn", "spot-only", "minimum", "stop")}
    known = set(CHINESE) | set(OF_REPORTS)
    assert {word for word in words if word not in known} == set()


class Figures(HTMLParser):
    """Everything with data-…-micros on a page: the number in the attribute, and the words that a person reads."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[dict[str, Any]] = []
        self.total: dict[str, Any] = {}
        self.days: list[tuple[str, int, str]] = []
        self.steps: list[tuple[int, str]] = []
        self._where, self._day, self._micros = "", "", None
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attributes}
        if tag in ("table", "section", "div") and "id" in said:
            self._where = said["id"]
        if "data-cost-micros" in said:
            self.rows.append(said | {"cells": []})
        if "data-total-micros" in said:
            self.total = said
        self._day = said.get("data-date", self._day)
        self._micros = int(said["data-micros"]) if "data-micros" in said else None

    def handle_data(self, text: str) -> None:
        if self._where == "rows" and self.rows and text.strip() and not self.total:
            self.rows[-1]["cells"].append(text.strip())
        if self._micros is not None and self._where in ("days", "waterfall"):
            if self._where == "days":
                self.days.append((self._day, self._micros, text))
            else:
                self.steps.append((self._micros, text))
            self._micros = None


def test_the_month_is_the_months_report_to_the_micro_unit(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALVE_HOME", str(desk.home))
    month = f"{(datetime.now(UTC).replace(day=1) - timedelta(days=2)):%Y-%m}"
    said = CliRunner().invoke(commands, ["report", "--month", month, "--json"])
    report = json.loads(said.output)
    assert report["total_micros"] > 10_000_000 and len(report["rows"]) == 2, "there is something to compare"
    desk.page(f"/costs?month={month}")
    assert desk.client.get(f"/costs.json?month={month}").json() == report
    page = Figures(desk.page(f"/costs?month={month}"))
    assert [
        (
            int(row["data-cost-micros"]),
            int(row["data-images"]),
            float(row["data-hours"]),
            int(row["data-per-1000-micros"]),
        )
        for row in page.rows
    ] == [(row["cost_micros"], row["images"], row["hours"], row["cost_per_1000_micros"]) for row in report["rows"]]
    assert all(money(one["cost_micros"]) in row["cells"] for one, row in zip(report["rows"], page.rows, strict=True))
    assert int(page.total["data-total-micros"]) == report["total_micros"]
    assert page.days == [(day["date"], day["cost_micros"], money(day["cost_micros"])) for day in report["days"]]
    saved = report["savings"]
    causes = [-saved[f"{name}_micros"] for name in ("window", "scaling", "gpu", "spot")]
    assert [micros for micros, _ in page.steps] == [saved["baseline_micros"], *causes, saved["actual_micros"]]
    assert all(words.lstrip("+") == money(micros) for micros, words in page.steps)


def test_the_budget_stands_beside_the_months_bill(well_spent: Desk) -> None:
    desk = well_spent
    shown = desk.page("/costs")
    (spent, limit), *others = re.findall(r'data-spent-micros="(\d+)" data-limit-micros="(\d+)"', shown)
    total = desk.client.get("/costs.json").json()["total_micros"]
    assert (int(limit), others) == (400_000_000, [])
    assert total - 1_000_000 < int(spent) <= total, "what runs goes on costing between two looks"
    assert re.search(r"\d+% of ocr&#39;s 400\.00 USD", shown), "in words, too"


def test_the_timeline_is_what_was(desk: Desk) -> None:
    now = datetime.now(UTC)
    noon = (now - timedelta(days=3)).replace(hour=10, minute=0, second=0, microsecond=0)
    asked = f"/timeline.json?deployment=ocr&from={noon.timestamp():.0f}&to={noon.timestamp() + 3600:.0f}"
    found = until(lambda: (answer := desk.client.get(asked)).status_code == 200 and answer.json())
    assert found["seconds"] == 60 and len(found["at"]) == 60 and found["at"][0] == noon.timestamp()
    assert found["replicas"] == {"spot": [2] * 60, "on_demand": [1] * 60}
    assert found["opened"] == [[noon.timestamp(), noon.timestamp() + 3600]]
    minutes = [place for place, value in enumerate(found["images"]) if value is not None]
    assert minutes == list(range(1, 60, 5)), "the minutes that were watched, and no others"
    start = now - timedelta(days=DAYS - 1)
    asked = f"/timeline.json?deployment=ocr&from={start.timestamp():.0f}&to={now.timestamp():.0f}"
    found = until(lambda: (answer := desk.client.get(asked)).status_code == 200 and answer.json())
    assert len(found["at"]) <= 721 and len(found["losses"]) in (12, 13, 14)
    assert max(found["replicas"]["spot"]) == 2 and min(found["replicas"]["spot"]) == 0
    assert desk.client.get("/timeline.json?deployment=ocr").status_code == 400


def test_the_first_look_says_what_runs_what_it_costs_what_is_saved_and_what_is_wrong(
    well_spent: Desk,
) -> None:
    desk = well_spent

    def worked_out() -> str | None:
        shown = desk.page("/now")
        return shown if "…" not in shown else None

    shown = until(worked_out)
    report = desk.client.get("/costs.json").json()
    saved = report["savings"]
    figures = re.findall(r'class="card figure (\w*)">.*?<b>(.*?)</b>', shown)
    amounts = [money(report["total_micros"]), money(saved["baseline_micros"] - saved["actual_micros"])]
    assert [kind for kind, _ in figures] == ["", "", "good", "bad"]
    assert [value.split()[0] for _, value in figures[1:3]] == amounts
    assert re.search(r'<li class="grave">no daemon is running', shown)


def test_a_machine_with_a_notice_or_a_recommendation_says_so_wherever_it_is_listed(home: Path) -> None:
    ledger = open_ledger(home)
    taken_at = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=2)
    with ledger.write() as tx:
        seen = snapshot(taken_at - timedelta(minutes=3))
        (one,) = seen.instances
        instances = replace(one, rebalance_at=taken_at), replace(one, id="ocr-2", reclaim_at=taken_at)
        actions = [{"kind": "drain", "instance": one.id, "reason": "the provider recommends to leave it"}]
        tick = {
            "deployment": "ocr",
            "at": seen.now,
            "target": 2,
            "reason": "",
            "plan": {"actions": actions, "notes": []},
        }
        tick |= {"snapshot": replay.to_json(replace(seen, instances=instances))}
        number = tx.scalars(t.ticks.insert().values(tick).returning(t.ticks.c.id)).one()
        dates = {"status": "ready", "ready_at": seen.now, "ended_at": None}
        tx.execute(t.instances.update().where(t.instances.c.id == "ocr-1").values(rebalance_at=taken_at, **dates))
        tx.execute(t.instances.update().where(t.instances.c.id == "ocr-2").values(reclaim_at=taken_at, **dates))
    ledger.close()
    here = taken_at.astimezone(ZoneInfo("Europe/Berlin"))
    made = Desk(home)
    with made.client:
        made.log_in()
        for path in ("/now", f"/why/ocr/{number}"):
            english, chinese = made.page(path), made.page(f"{path}?lang=zh")
            made.page(f"{path}?lang=en")
            assert (
                f"taken back {here:%H:%M:%S}" in english
                and f"leaving recommended since {here:%Y-%m-%d %H:%M}" in english
            )
            assert f"将于 {here:%H:%M:%S} 被回收" in chinese and f"供应商自 {here:%Y-%m-%d %H:%M} 起建议撤离" in chinese


def test_on_the_first_day_every_page_says_that_there_is_nothing_yet(tmp_path: Path) -> None:
    made = Desk(tmp_path)
    with made.client:
        made.log_in()
        made.page("/costs")  # so that the month is added up
        shown = re.sub(r"<[^>]+>", " ", made.page("/now"))
        assert "no deployment is up" in shown and "nothing ran yet" in shown and "halve up SPEC" in shown
        assert not re.search(r"\b0(\.0+)?\b", shown), "no zeros"
        assert "nothing ran in" in made.page("/costs")
        assert re.search(r"账期 20\d\d-\d\d · UTC", made.page("/costs?lang=zh")), "as in the report"
        made.page("/costs?lang=en")
        assert "There is no deployment yet." in made.page("/timeline")
        assert "No jobs yet" in made.page("/jobs") and "Nothing has been decided yet" in made.page("/why")
        rows = re.findall(r"<tr><td>(.*?)</tr>", made.page("/prices"), re.DOTALL)
        best = re.sub(r"<[^>]+>|\s+", " ", rows[0]).split()
        assert best[:2] == ["RTX", "3060"] and "0.2000" in best, "as `halve gpus` has it"


MACHINE = {"id": "ocr-1", "status": "ready", "reclaim_at": None, "rebalance_at": None}
FINE = {
    "name": "ocr",
    "open": True,
    "target": 1,
    "instances": [MACHINE],
    "spend": {"currency": "USD", "unknown_hours": 0},
    "budgets": [],
    "launches": {"resumes_at": None},
    "ends_unseen": [],
}


@pytest.mark.parametrize(
    ("change", "words", "grave"),
    [
        ({}, None, False),
        ({"open": None, "target": None}, "ocr: 配置无法读取", True),
        ({"target": 3}, "ocr: 3 台中缺 2 台", True),
        ({"open": False, "target": 3}, None, False),
        ({"instances": [MACHINE | {"status": "booting"}]}, None, False),
        ({"instances": [MACHINE | {"reclaim_at": "2026-11-21T12:00:00Z"}]}, "ocr: ocr-1 将于 13:00:00 被回收", False),
        ({"instances": [MACHINE, MACHINE | {"status": "lost"}]}, "ocr: ocr-1 失联：供应商不再列出，可能仍在计费", True),
        (
            {"budgets": [{"period": "month", "spent_micros": 81_000_000, "limit_micros": 10**8, "reached": "warn"}]},
            "ocr: 月预算：已用 81.00 / 100.00 USD · 提醒",
            False,
        ),
        ({"spend": {"currency": None, "unknown_hours": 2.04}}, "ocr: 有 2.0 小时价格未知", False),
        ({"launches": {"resumes_at": "2026-11-21T12:30:00Z"}}, "ocr: 已达每小时启动上限；下一次在 13:30", False),
        ({"ends_unseen": [{"instance": "ocr-9", "booked_until": None}]}, "ocr: 未确认 ocr-9 已结束", False),
    ],
    ids=lambda one: next(iter(one), "fine") if isinstance(one, dict) else "",
)
def test_what_is_wrong_is_said(change: dict[str, Any], words: str | None, grave: bool) -> None:
    zones, daemon = {"ocr": ZoneInfo("Europe/Berlin")}, {"tick_errors": 0, "last_error": None}
    standing = {"daemon": daemon, "deployments": [FINE | change]}
    found = troubles(standing, zones, PageWords("zh"), simulated=False)
    assert found == ([] if words is None else [Trouble(words=words, grave=grave)])


def test_a_daemon_that_fails_is_wrong_and_one_that_is_not_needed_is_not_missed() -> None:
    failing = {"daemon": {"tick_errors": 2, "last_error": "disk full"}, "deployments": []}
    assert troubles(failing, {}, PageWords(), simulated=False) == [
        Trouble(words="2 ticks failed, the last: disk full", grave=True)
    ]
    none = {"daemon": None, "deployments": [FINE]}
    assert [one.grave for one in troubles(none, {}, PageWords(), simulated=False)] == [True]
    assert troubles(none, {}, PageWords(), simulated=True) == []
    assert troubles(none | {"deployments": []}, {}, PageWords(), simulated=False) == []


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        (
            "open until 20:00 Europe/Berlin; 1.40 images/s over 8.1 a replica",
            "开放至 20:00 Europe/Berlin；每秒 1.40 张，单台每秒 8.1 张",
        ),
        (
            "closed until Mon 2026-03-02 08:00 Asia/Shanghai (held closed until Mon 2026-03-02 08:00 Asia/Shanghai)",
            "关闭至 2026-03-02 周一 08:00 Asia/Shanghai（手动保持关闭至 2026-03-02 周一 08:00 Asia/Shanghai）",
        ),
        (
            "always open; the minimum is 1 (0.20 images/s over 8.05 a replica)",
            "始终开放；最少 1 台（每秒 0.20 张，单台每秒 8.05 张）",
        ),
        ("nothing to choose (T4: price unknown; no offers)", "没有可选（T4：价格未知；没有报价）"),
        ("cheapest per image within 0.8 s: 0.0052 USD per 1,000", "0.8 秒以内单张最便宜：每千张 0.0052 USD"),
        ("monthly budget 82 % spent: spot-only", "本月预算已用 82%：仅竞价"),
        ("no load; words that nobody has translated", "没有负载；words that nobody has translated"),
    ],
)
def test_a_reason_is_said_in_chinese_as_far_as_it_is_known(english: str, chinese: str) -> None:
    assert reason(english, PageWords("zh")) == chinese
    assert reason(english, PageWords("en")) == english


def test_what_is_translated_are_words_that_policies_use() -> None:
    policies = Path(__file__).parents[2] / "policies"
    written = " ".join(file.read_text(encoding="utf-8") for file in policies.glob("*.py"))
    written += Path(status.__file__).read_text(encoding="utf-8")
    words = {word for english in CLAUSES for word in re.findall(r"[a-z]{4,}", re.sub(r"{\w+}", "", english))}
    assert {word for word in words if word not in written} == set()


def test_prices_are_images_for_money(desk: Desk) -> None:
    shown = desk.page("/prices?gpu=T4&days=30")
    first = shown[shown.index('id="buys"') :]
    cells = [re.sub(r"<[^>]+>", "", cell).split() for cell in re.findall(r"<td[^>]*>(.*?)</td>", first)[:9]]
    price = float(cells[4][0])
    assert cells[0] == ["T4"] and cells[1] == ["spot"]
    assert cells[3][1:] == ["/", "USD"] and cells[4][1:] == ["USD"]
    assert int(cells[3][0].replace(",", "")) == pytest.approx(11.5 * 3600 / price, rel=1e-3)
    found = desk.client.get("/prices.json?gpu=T4&days=30").json()
    assert len(found["lines"]) == 4 and len({one["currency"] for one in found["lines"]}) == 1
    assert "T4 on-demand sim-1, sim-2, sim-3" in [one["name"] for one in found["lines"]], "one line for one price"
    spot = next(one for one in found["lines"] if "spot" in one["name"])
    assert len(set(spot["values"])) > 20 and None not in spot["values"]


def test_a_decision_shows_what_it_saw_and_what_was_second_best(desk: Desk) -> None:
    shown = desk.page("/why?deployment=ocr")
    ticks = re.findall(r'hx-get="(/why/ocr/\d+)"', shown)
    assert len(ticks) == 15, "decisions that did nothing are left out"
    grounds = desk.client.get(ticks[0]).text
    assert "1.40" in grounds and "12.34" in grounds and "cheapest per image" in grounds
    assert re.search(r"on_demand <span[^>]*>runner-up", grounds)
    assert desk.client.get("/why/ocr/999999").status_code == 404


def test_why_on_the_command_line_leaves_out_what_did_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALVE_HOME", str(desk.home))
    shown = json.loads(CliRunner().invoke(commands, ["why", "ocr", "--last", "3", "--json"]).output)
    assert [bool(one["actions"]) for one in shown] in ([False, True, True, True], [True, True, True])
    assert shown[-1]["again"] is not None


def test_a_job_shows_its_margin(desk: Desk) -> None:
    shown = desk.page("/jobs")
    assert "700 of 1,200 images" in shown
    figures = dict(re.findall(r"<dt>(.*?)</dt><dd[^>]*>\s*([^<]*)", shown))
    assert figures["cost so far"] == "1.84"
    assert float(figures["cost to go"]) > 0 and re.fullmatch(r"\d+[hm] \d+[ms]", figures["safety margin"])
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d", figures["deadline"]) and figures["time left"]


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("/why?deployment=nobody", 404, "no deployment is called nobody"),
        ("/timeline?deployment=<script>", 404, "no deployment is called &lt;script&gt;"),
        ("/costs?month=2026-13", 400, "month: want YYYY-MM, such as 2026-10"),
        ("/timeline?days=8", 400, "days: want 1, 7, 30 or 90"),
        ("/prices?days=<script>", 400, "days: Input should be a valid integer"),
        ("/timeline?from=now&to=then", 400, "from: want seconds since 1970; to: want seconds since 1970"),
        ("/timeline?from=2000&to=1000", 404, "from: want a moment before to"),
        ("/timeline?to=253402300000", 400, "to: want a moment from 1970 to 2199"),
        ("/why/ocr/99999999999999999999", 400, "tick: Input should be less than or equal to 9223372036854775807"),
        ("/costs?part=perhaps", 400, "part: Input should be a valid boolean"),
    ],
)
def test_what_cannot_be_shown_is_said_in_a_line(desk: Desk, path: str, status: int, word: str) -> None:
    answer = desk.client.get(path)
    assert answer.status_code == status and word in answer.text and "<script>" not in answer.text


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/timeline.json?deployment=ocr", 400, "from: Field required; to: Field required"),
        ("/timeline.json?deployment=nobody&from=60&to=120", 404, "no deployment is called nobody"),
        ("/costs.json?month=october", 400, "month: want YYYY-MM, such as 2026-10"),
        ("/prices.json?days=-7", 400, "days: want 7, 30 or 90"),
    ],
)
def test_a_script_is_told_so_in_json(desk: Desk, path: str, status: int, words: str) -> None:
    answer = desk.client.get(path)
    assert (answer.status_code, answer.json()) == (status, {"error": words})


HOSTILE = ("", "0", "-1", "1e400", "nan", "9" * 40, "9999-12", "²", "١", "%00", "<script>", "é", "2026-10", "a" * 5000)


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("deployment", ["timeline", "timeline.json", "prices", "prices.json", "why"]),
        ("days", ["timeline", "prices", "prices.json"]),
        ("from", ["timeline", "timeline.json"]),
        ("to", ["timeline", "timeline.json"]),
        ("month", ["costs", "costs.json"]),
        ("part", ["costs"]),
        ("gpu", ["prices", "prices.json"]),
        ("lang", ["now", "jobs"]),
    ],
    ids=str,
)
def test_no_address_is_a_mistake_of_the_dashboards(desk: Desk, name: str, paths: list[str]) -> None:
    for path in paths:
        for value in HOSTILE:
            answer = desk.client.get(f"/{path}?{name}={value}")
            assert answer.status_code in (200, 202, 400, 404), (answer.url, answer.text)


def test_no_decision_that_is_asked_for_is_a_mistake_of_the_dashboards(desk: Desk) -> None:
    for value in HOSTILE[1:]:
        for path in (f"/why/ocr/{value}", f"/why/{value}/1"):
            assert desk.client.get(path).status_code in (400, 404), path


@pytest.mark.parametrize(
    "form",
    [{"job": value, "do": "pause"} for value in HOSTILE]
    + [{"job": "1", "do": value} for value in HOSTILE]
    + [{"job": "1"}, {"do": "pause"}, {}],
    ids=str,
)
def test_no_form_is_a_mistake_of_the_dashboards(acting: Desk, form: dict[str, str]) -> None:
    assert acting.client.post("/job", data=form | {"seal": acting.seal()}).status_code in (400, 409)
    with acting.ledger.read() as tx:
        found = jobs.get(tx, 1)
    assert found is not None and found.state == "running"


def test_whatever_is_not_meant_for_strangers_asks_for_the_token(desk: Desk) -> None:
    """Whatever is added: only these four are to be seen without a login, and nothing describes the others."""
    app = desk.client.app
    assert isinstance(app, FastAPI)
    stranger = TestClient(app, base_url=ADDRESS, follow_redirects=False)
    open_to_all = set()
    for route in app.routes:
        assert isinstance(route, APIRoute | Mount)
        for method in getattr(route, "methods", ["GET"]):
            path = re.sub("{.*?}", "1", route.path)
            if stranger.request(method, path).status_code != 401:
                open_to_all.add((method, path))
    known = {("GET", "/healthz"), ("HEAD", "/healthz"), ("GET", "/login"), ("HEAD", "/login"), ("POST", "/login")}
    assert open_to_all == known | {("GET", "/static")}
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert desk.client.get(path).status_code == 404


def test_who_asks_for_the_head_alone_gets_it(desk: Desk) -> None:
    for path in ("/healthz", "/login", "/now", "/costs"):
        answer = desk.client.head(path)
        assert (answer.status_code, answer.text) == (200, "") and "content-security-policy" in answer.headers


@pytest.mark.parametrize(
    ("seconds", "words"), [(None, ""), (12, "12s"), (270, "4m 30s"), (7500, "2h 05m"), (-270_000, "3d 03h")]
)
def test_durations(seconds: float | None, words: str) -> None:
    assert lasts(seconds) == words


# what it may do


def test_it_only_shows_unless_it_is_told_otherwise(desk: Desk) -> None:
    assert '<form method="post" action="/override"' not in desk.page("/now")
    for path in ("/override", "/drain", "/job"):
        answer = desk.client.post(path, data={"seal": desk.seal(), "deployment": "ocr", "state": "open"})
        assert (answer.status_code, "--allow-actions" in answer.text) == (403, True)
    with desk.ledger.read() as tx:
        assert all(row.override_state is None and row.wanted == "up" for row in deployments.known(tx))


def test_an_override_is_that_of_the_command(acting: Desk) -> None:
    form = {"seal": acting.seal(), "deployment": "ocr", "state": "closed", "until": "23:59"}
    assert acting.client.post("/override", data=form).headers["location"] == "/now"
    with acting.ledger.read() as tx:
        row = deployments.get(tx, "ocr")
    assert row is not None and row.override_state == "closed" and row.override_until is not None
    assert f"{row.override_until.astimezone():%S}" == "00" and row.override_until > datetime.now(UTC)
    assert "held closed until" in acting.page("/now")
    acting.client.post("/override", data=form | {"state": "none"})
    with acting.ledger.read() as tx:
        row = deployments.get(tx, "ocr")
    assert row is not None and row.override_state is None


@pytest.mark.parametrize("seal", ["", "x" * 64, "é"])
def test_a_form_from_elsewhere_does_nothing(acting: Desk, seal: str) -> None:
    form = {"seal": seal, "deployment": "ocr", "state": "open", "until": "23:59"}
    assert acting.client.post("/override", data=form).status_code == 403
    with acting.ledger.read() as tx:
        row = deployments.get(tx, "ocr")
    assert row is not None and row.override_state is None


def test_what_is_refused_is_said_on_the_page(acting: Desk) -> None:
    form = {"seal": acting.seal(), "deployment": "ocr", "state": "open", "until": "soon"}
    answer = acting.client.post("/override", data=form)
    assert answer.status_code == 409 and "want HH:MM" in answer.text and 'role="alert"' in answer.text
    assert acting.client.post("/override", data=form | {"state": "ajar"}).status_code == 409
    drained = acting.client.post("/drain", data={"seal": acting.seal(), "deployment": "ocr", "sure": "oc"})
    assert drained.status_code == 409 and "to say that you mean it" in drained.text
    with acting.ledger.read() as tx:
        row = deployments.get(tx, "ocr")
    assert row is not None and row.wanted == "up"
    assert acting.client.post("/job", data={"seal": acting.seal(), "job": "9", "do": "pause"}).status_code == 409


def test_who_types_its_name_takes_a_deployment_down_and_no_other(acting: Desk) -> None:
    def wanted() -> dict[str, str]:
        with acting.ledger.read() as tx:
            return {row.name: row.wanted for row in deployments.known(tx)}

    answer = acting.client.post("/drain", data={"seal": acting.seal(), "deployment": "archive", "sure": "archive"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/now")
    until(lambda: wanted() == {"archive": "down", "ocr": "up"})


def test_a_job_is_paused_and_goes_on(acting: Desk) -> None:
    def state() -> str:
        with acting.ledger.read() as tx:
            found = jobs.get(tx, 1)
        assert found is not None
        return str(found.state)

    for do, then in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        answer = acting.client.post("/job", data={"seal": acting.seal(), "job": "1", "do": do})
        assert (answer.status_code, state()) == (303, then)


def test_a_large_form_is_not_read(acting: Desk) -> None:
    for path in ("/override", "/login"):
        for body in (b"token=" + b"x" * 20_000, iter([b"token=", b"x" * 20_000])):  # the second says no length
            assert acting.client.post(path, content=body, headers={"content-type": FORM}).status_code == 413
    many = acting.client.post("/login", content="&".join(f"a{n}=" for n in range(50)), headers={"content-type": FORM})
    file = acting.client.post("/login", files={"token": b"x"})
    assert (many.status_code, file.status_code) == (400, 400)


# answers that are kept


def test_a_question_is_asked_once_at_a_time_and_the_last_answer_is_shown_meanwhile() -> None:
    clock, go_on, asked = SystemClock(), Event(), []

    def slow(number: int) -> int:
        asked.append(number)
        go_on.wait(60)
        return len(asked)

    with ThreadPoolExecutor(1) as worker:
        kept: Kept[int] = Kept(slow, timedelta(0), clock, worker)
        assert kept.get(7, patience_seconds=0.01) is None and kept.get(7, patience_seconds=0.01) is None
        until(lambda: asked)  # its thread has begun
        assert kept.get(7, patience_seconds=0.01) is None and asked == [7]
        go_on.set()
        found = until(lambda: kept.get(7, patience_seconds=60))
        assert found.value >= 1
        go_on.clear()
        stale = kept.get(7, patience_seconds=0.01)
        assert stale is not None, "the one before, while the next is worked out"
        until(lambda: stale.value == len(asked) - 1)
        go_on.set()


def test_after_a_change_nothing_older_is_shown() -> None:
    clock, begun, go_on, answers = SystemClock(), Event(), Event(), iter(range(100))

    def slow() -> int:
        found = next(answers)
        begun.set()
        if found == 0:
            go_on.wait(60)
        return found

    with ThreadPoolExecutor(1) as worker:
        kept: Kept[int] = Kept(slow, timedelta(hours=1), clock, worker)
        assert kept.get(patience_seconds=0.01) is None
        assert begun.wait(60)
        kept.forget()
        go_on.set()
        found = until(lambda: kept.get(patience_seconds=60))
        assert found.value == 1


def test_what_fails_is_told_and_asked_again() -> None:
    tried = []

    def fails() -> int:
        tried.append(1)
        if len(tried) == 1:
            raise Refused("not now")
        return 5

    with ThreadPoolExecutor(1) as worker:
        kept: Kept[int] = Kept(fails, timedelta(hours=1), SystemClock(), worker)
        with pytest.raises(Refused):
            kept.get(patience_seconds=60)
        found = kept.get(patience_seconds=60)
        assert found is not None and found.value == 5
