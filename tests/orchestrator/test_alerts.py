"""What is told, how often, and by a real HTTP receiver what arrives."""

import json
import logging
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator import alerts
from orchestrator.alarms import Alarms, tell
from orchestrator.alerts import MOST_AN_HOUR, REPEAT, Alert, Told, Weight, due, findings, message
from orchestrator.errors import Refused
from orchestrator.ledger import beliefs
from orchestrator.reports.budgets import BudgetLine
from orchestrator.reports.words import Said
from policies.budget import Brake
from tests.orchestrator.receiver import Receiver
from tests.orchestrator.report_ledger import Rows, rows_in, utc
from tests.orchestrator.tiny import until

NOW = utc("2026-10-11 12:00")
MINUTE = timedelta(minutes=1)
BROKEN = Alert(key="broken", weight=Weight.FAILURE, words=Said("it is broken"))
SPENT = Alert(key="budget 2026-10 0.8", weight=Weight.WARNING, words=Said("80% spent"), once=True)
NOTHING = Told(said={})


# --- when -------------------------------------------------------------------------------------------------------------


def test_what_is_new_is_said_at_once_and_then_not_again() -> None:
    news, told = due([BROKEN], NOTHING, NOW)
    assert news == (BROKEN,)
    for minutes in (1, 59, 359):
        again, told = due([BROKEN], told, NOW + minutes * MINUTE)
        assert again == ()
    again, _ = due([BROKEN], told, NOW + REPEAT)
    assert again == (BROKEN,)


def test_what_is_said_once_is_not_repeated_even_if_it_comes_and_goes() -> None:
    _, told = due([SPENT], NOTHING, NOW)
    _, told = due([], told, NOW + REPEAT)
    assert due([SPENT], told, NOW + 10 * REPEAT)[0] == ()


def test_what_was_over_is_new_when_it_comes_back() -> None:
    _, told = due([BROKEN], NOTHING, NOW)
    _, told = due([], told, NOW + MINUTE)
    assert due([BROKEN], told, NOW + 2 * MINUTE)[0] == (BROKEN,)


def test_no_more_than_so_many_messages_an_hour_and_nothing_is_forgotten() -> None:
    """A hundred things go wrong, one a minute: what waits comes in one message."""
    told, sent = NOTHING, []
    troubles: list[Alert] = []
    for minute in range(100):
        troubles.append(Alert(key=f"trouble {minute}", weight=Weight.WARNING, words=Said(f"{minute}")))
        news, told = due(troubles, told, NOW + minute * MINUTE)
        if news:
            sent.append((minute, [one.key for one in news]))
    for minute, _ in sent:
        assert sum(minute - 60 < other <= minute for other, _ in sent) <= MOST_AN_HOUR
    said = [key for _, keys in sent for key in keys]
    assert len(said) == len(set(said)) and said == [one.key for one in troubles[: len(said)]]
    assert due(troubles, told, NOW + 200 * MINUTE)[0] == tuple(troubles[len(said) :])


def test_a_clock_that_was_set_back_silences_nothing() -> None:
    told = Told(said={}, messages=tuple(NOW + timedelta(days=1) + n * MINUTE for n in range(MOST_AN_HOUR)))
    assert due([BROKEN], told, NOW)[0] == (BROKEN,)


def test_memory_survives_the_ledger_and_nonsense_in_it() -> None:
    _, told = due([BROKEN, SPENT], NOTHING, NOW)
    assert alerts.told(json.loads(json.dumps(told.to_json()))) == told
    for nonsense in (None, {}, {"said": 3}, {"said": {"a": "yesterday"}, "messages": []}):
        assert alerts.told(nonsense) == NOTHING  # type: ignore[arg-type]


def test_one_message_says_all_the_heaviest_first() -> None:
    title, text, weight = message("ocr", [SPENT, BROKEN])
    assert (title, weight) == ("halve: ocr: 2 alerts", Weight.FAILURE)
    assert text.splitlines() == ["- it is broken", "- 80% spent"]
    assert message("ocr", [SPENT])[0] == "halve: ocr: 80% spent"


@pytest.mark.parametrize(
    ("local", "reported", "month"),
    [
        ("2026-10-31 23:59", "2026-09", None),
        ("2026-11-01 00:00", "2026-09", "2026-10"),
        ("2026-11-17 00:00", "2026-09", "2026-10"),
        ("2026-11-01 00:00", "2026-10", None),
        ("2027-01-01 00:00", "2026-11", "2026-12"),
        ("2026-11-01 00:00", None, None),
    ],
)
def test_the_month_is_reported_once_from_the_1st_on(local: str, reported: str | None, month: str | None) -> None:
    assert alerts.month_due(utc(local), reported) == month


# --- what -------------------------------------------------------------------------------------------------------------

SHOWN: dict[str, Any] = {
    "name": "ocr", "open": True, "target": 1, "left_alone": [], "spend": {"unknown_hours": 0.0},
    "instances": [{"id": "ocr-1", "status": "ready"}],
}  # fmt: skip


def line(spent: int, forecast: int | None = None) -> BudgetLine:
    at = ((0.5, Brake.WARN), (0.8, Brake.WARN), (0.95, Brake.SPOT_ONLY), (1.0, Brake.STOP))
    return BudgetLine(
        deployment="ocr", period="2026-10", currency="CNY", limit_micros=600_000_000, spent_micros=spent * 1_000_000,
        forecast_micros=None if forecast is None else forecast * 1_000_000, at=at,
    )  # fmt: skip


def test_all_well_is_nothing_to_say() -> None:
    assert findings(SHOWN, [line(100, 290)], "") == []


@pytest.mark.parametrize(
    ("spent", "forecast", "key", "weight"),
    [
        (301, None, "budget 2026-10 0.5", Weight.WARNING),
        (480, None, "budget 2026-10 0.8", Weight.WARNING),
        (599, None, "budget 2026-10 0.95", Weight.WARNING),
        (601, None, "budget 2026-10 1.0", Weight.FAILURE),
        (100, 700, "forecast 2026-10 stop", Weight.WARNING),
    ],
)
def test_each_step_of_a_budget_is_a_thing_of_its_own(
    spent: int, forecast: int | None, key: str, weight: Weight
) -> None:
    (found,) = findings(SHOWN, [line(spent, forecast)], "")
    assert (found.key, found.weight, found.once) == (key, weight, True)
    assert "600.00 CNY of 2026-10" in found.words


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"instances": [], "left_alone": [{"why": "refused 3 times: no capacity"}]}, "nothing serves, 1 wanted"),
        (
            {"instances": [{"id": "ocr-7", "status": "lost"}]},
            "no longer listed by their provider, and perhaps still paid",
        ),
        ({"spend": {"unknown_hours": 2.5}}, "2.5 machine hours of this month have no known price"),
    ],
)
def test_what_goes_wrong(changed: dict[str, Any], words: str) -> None:
    (found,) = findings({**SHOWN, **changed}, [], "")
    assert words in found.words


def test_a_failing_tick_is_told() -> None:
    (found,) = findings(SHOWN, [], "ocr: the disk is full")
    assert "the disk is full" in found.words


# --- how --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    pytest.importorskip("apprise")
    opened = Receiver()
    yield opened
    opened.close()


def test_a_webhook_takes_it(receiver: Receiver) -> None:
    (found,) = alerts.send([receiver.url], *message("ocr", [BROKEN]))
    assert found.taken
    (got,) = receiver.got
    assert (got["title"], got["type"]) == ("halve: ocr: it is broken", "failure")
    assert "it is broken" in got["message"]


def test_one_that_fails_keeps_no_other_from_it_and_no_secret_is_told(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    other = Receiver()
    other.status = 500
    with caplog.at_level(logging.DEBUG):
        found = alerts.send([other.url, receiver.url, "json://s3cret.invalid:9"], "title", "text")
    assert [one.taken for one in found] == [False, True, False]
    assert len(receiver.got) == 1
    assert "s3cret" not in str(found) + caplog.text
    other.close()


@pytest.mark.parametrize(
    "url",
    [
        "mailto://user:password@example.com",
        "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
        "feishu://0123456789abcdef0123456789abcdef",
        "dingtalk://0123456789abcdef0123456789abcdef",
        "wecombot://0123456789abcdef0123456789abcdef",
        "jsons://example.com/hook",
    ],
)
def test_the_ways_that_people_ask_for_are_understood(url: str) -> None:
    pytest.importorskip("apprise")
    alerts.check([url])
    assert "0123" not in alerts.masked(url) and "password" not in alerts.masked(url)


def test_a_way_that_is_none_is_refused_without_its_secrets() -> None:
    pytest.importorskip("apprise")
    with pytest.raises(Refused) as refused:
        alerts.check(["nosuchservice://token-of-mine"])
    assert "nosuchservice://****" in str(refused.value) and "token-of-mine" not in str(refused.value)


# --- the whole --------------------------------------------------------------------------------------------------------

SPEC = """
name: ocr
model: cv_resnet18_ocr-detection
provider: local
currency: CNY
local: {{price_per_hour: 2, gpu: RTX 3060}}
budget: {{monthly: 1000 CNY, daily: 40 CNY, at: {{50%: warn, 95%: spot-only, 100%: stop}}}}
door: {{listen: 127.0.0.1:{port}}}
alerts: ["{url}"]
"""


@pytest.fixture
def rows(tmp_path: Path, receiver: Receiver) -> Iterator[Rows]:
    """Since the 1st of October one machine runs: 48 a day, 504 by the middle of the 11th."""
    opened = rows_in(tmp_path)
    opened.deployment("ocr", SPEC.format(port=1, url=receiver.url), at=utc("2026-10-01"))
    opened.charge(opened.machine(purchase="owned", provider="local"), utc("2026-10-01"), None, 2_000_000)
    yield opened
    opened.ledger.close()


def test_budgets_are_told_once_and_again_at_the_next_step(rows: Rows, receiver: Receiver, tmp_path: Path) -> None:
    assert tell(tmp_path, rows.ledger, NOW) == []
    (got,) = receiver.got
    assert "50% of the 1,000.00 CNY of 2026-10 are spent: warn" in got["message"]
    assert "60% of the 40.00 CNY of 2026-10-11 are spent: warn" in got["message"]
    assert tell(tmp_path, rows.ledger, NOW + MINUTE) == [] and len(receiver.got) == 1
    assert tell(tmp_path, rows.ledger, utc("2026-10-11 19:59")) == []
    assert "100% of the 40.00 CNY of 2026-10-11" in receiver.got[-1]["message"]
    assert receiver.got[-1]["type"] == "warning" and len(receiver.got) == 2, "not yet quite 100%"


def test_what_nobody_took_is_said_again(rows: Rows, receiver: Receiver, tmp_path: Path) -> None:
    receiver.status = 503
    assert tell(tmp_path, rows.ledger, NOW) == ["ocr: json://****"]
    receiver.status = 200
    assert tell(tmp_path, rows.ledger, NOW + MINUTE) == []
    assert len(receiver.got) == 1


def test_the_month_report_comes_on_the_1st(rows: Rows, receiver: Receiver, tmp_path: Path) -> None:
    tell(tmp_path, rows.ledger, NOW)
    before = len(receiver.got)
    for at in ("2026-10-31 23:59", "2026-11-01 00:01", "2026-11-01 00:02"):
        assert tell(tmp_path, rows.ledger, utc(at)) == []
    reports = [one for one in receiver.got[before:] if one["title"] == "halve: month report 2026-10"]
    assert len(reports) == 1 and "1,488.00" in reports[0]["message"]


def test_what_is_sent_is_in_the_specs_language(receiver: Receiver, tmp_path: Path) -> None:
    rows = rows_in(tmp_path)
    rows.deployment("ocr", SPEC.format(port=1, url=receiver.url) + "lang: zh\n", at=utc("2026-10-01"))
    rows.charge(rows.machine(purchase="owned", provider="local"), utc("2026-10-01"), None, 2_000_000)
    tell(tmp_path, rows.ledger, NOW)
    (got,) = receiver.got
    assert got["title"] == "halve: ocr: 2 条提醒"
    assert "- 2026-10 预算 1,000.00 CNY 已用 50%：提醒" in got["message"]
    tell(tmp_path, rows.ledger, utc("2026-11-01 00:01"))
    report = receiver.got[-1]
    assert report["title"] == "halve 月度账单 2026-10"
    assert "¥1,488.00" in report["message"] and "本报告为估算，并非账单" in report["message"]
    rows.ledger.close()


def test_everything_that_is_told_has_chinese_words() -> None:
    ahead = [line(spent, 700) for spent in (100, 500)]
    gone = {"instances": [{"id": "ocr-7", "status": "lost"}], "left_alone": [{"why": "no capacity"}]}
    found = findings({**SHOWN, **gone, "spend": {"unknown_hours": 2.5}}, ahead, "the disk is full")
    assert len(found) == 6
    theirs = re.compile("the disk is full|ocr-7|no capacity|halve: ocr")
    for one in found:
        title, text, _ = message("ocr", [one], "zh")
        assert not re.search("[a-z]", theirs.sub("", title + text)), text


def ended(alarms: Alarms) -> None:
    """Wait for what is under way, longer than a daemon that leaves does."""
    alarms.stop()
    until(lambda: alarms._thread is None or not alarms._thread.is_alive())


def test_alarms_look_once_a_minute_and_never_keep_a_tick_waiting(
    rows: Rows, receiver: Receiver, tmp_path: Path
) -> None:
    alarms = Alarms(tmp_path, rows.ledger)
    for second in range(30):
        assert alarms.look(NOW + timedelta(seconds=second)) is None
        ended(alarms)
    assert len(receiver.got) == 1
    with rows.ledger.read() as tx:
        assert "said" in beliefs.known(tx, "ocr")["alerts"]


def test_a_receiver_that_is_down_is_said_aloud(rows: Rows, receiver: Receiver, tmp_path: Path) -> None:
    receiver.status = 500
    alarms = Alarms(tmp_path, rows.ledger)
    alarms.look(NOW)
    ended(alarms)
    said = alarms.look(NOW + MINUTE)
    assert said == "alerts: not delivered: ocr: json://****"
    assert alarms.look(NOW + 2 * MINUTE) is None, "it waits before it tries again"


def test_without_alerts_nothing_is_asked(tmp_path: Path) -> None:
    opened = rows_in(tmp_path)
    opened.deployment("quiet", "name: quiet\nmodel: ppocr\nprovider: local\n")
    at: datetime = NOW
    assert tell(tmp_path, opened.ledger, at) == []
    opened.ledger.close()


def test_status_shows_the_budgets_and_their_steps(rows: Rows, tmp_path: Path) -> None:
    from orchestrator.budget_words import line as words
    from orchestrator.status import status

    (one,) = status(tmp_path, rows.ledger, NOW)["deployments"]
    month, day = one["budgets"]
    assert (month["spent_micros"], month["limit_micros"], month["reached"]) == (504_000_000, 1_000_000_000, "warn")
    assert (day["spent_micros"], day["reached"]) == (24_000_000, "warn")
    assert words(month, "CNY") == (
        "budget of the month 1,000.00 CNY: 50% spent (50% warn, 95% spot-only, 100% stop), reached: warn"
    )
