"""What the dashboard refuses is said in the language of its page."""

import html
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from orchestrator.dashboard.refusals import REFUSALS, refusal
from orchestrator.dashboard.words import PageWords
from tests.orchestrator.test_dashboard import ADDRESS, Desk


@pytest.fixture
def desk(filled_home: Path, tmp_path: Path) -> Iterator[Desk]:
    made = Desk(Path(shutil.copytree(filled_home, tmp_path / "home")), actions=True)
    with made.client:
        made.log_in()
        yield made


def said(text: str) -> str:
    """The refusal in an answer: in a page's alert, in its card, or alone."""
    found = re.search(r'role="alert">(.*?)</p>|</h1>\s*<p>(.*?)</p>', text, re.DOTALL)
    return html.unescape(next(filter(None, found.groups()))) if found else text.strip()


@pytest.mark.parametrize(
    ("path", "english", "chinese"),
    [
        ("/why?deployment=nobody", "no deployment is called nobody", "没有名为 nobody 的部署"),
        (
            "/why/ocr/999999",
            "ocr: there is no decision 999999; `halve why ocr` lists the last ones",
            "ocr：没有决策 999999；`halve why ocr` 列出最近的决策",
        ),
        ("/costs?month=2026-13", "month: want YYYY-MM, such as 2026-10", "month：应为 YYYY-MM，例如 2026-10"),
        ("/timeline?days=8", "days: want 1, 7, 30 or 90", "days：应为 1, 7, 30 或 90"),
        (
            "/timeline?from=now&to=then",
            "from: want seconds since 1970; to: want seconds since 1970",
            "from：应为 1970 年以来的秒数；to：应为 1970 年以来的秒数",
        ),
        ("/timeline?from=2000&to=1000", "from: want a moment before to", "from：应早于 to"),
        (
            "/prices?days=x",
            "days: Input should be a valid integer, unable to parse string as an integer",
            "days：应为整数",
        ),
        ("/why/ocr/-1", "tick: Input should be greater than or equal to 0", "tick：不能小于 0"),
        (
            "/costs?part=perhaps",
            "part: Input should be a valid boolean, unable to interpret input",
            "part：应为 1 或 0",
        ),
        ("/nowhere", "Not Found", "未找到"),
    ],
)
def test_what_cannot_be_shown_is_said_in_the_pages_language(desk: Desk, path: str, english: str, chinese: str) -> None:
    for language, words in (("en", english), ("zh", chinese)):
        desk.client.cookies.set("lang", language)
        assert said(desk.client.get(path).text) == words


@pytest.mark.parametrize(
    ("path", "form", "english", "chinese"),
    [
        (
            "/override",
            {"deployment": "nobody", "state": "open", "until": "23:00"},
            "no deployment is called nobody; there are: archive, ocr",
            "没有名为 nobody 的部署；现有：archive, ocr",
        ),
        (
            "/override",
            {"deployment": "ocr", "state": "ajar", "until": "23:00"},
            "override: ajar: want open or closed",
            "手动开关：ajar：应为 open 或 closed",
        ),
        (
            "/override",
            {"deployment": "ocr", "state": "open", "until": ""},
            "override: say until when, such as --until 22:30",
            "手动开关：请写明到何时，例如 22:30",
        ),
        (
            "/override",
            {"deployment": "ocr", "state": "open", "until": "{soon} {0} {"},
            'override: --until {soon} {0} {: want HH:MM, or "YYYY-MM-DD HH:MM"',
            "手动开关：{soon} {0} {：应为 HH:MM，或 YYYY-MM-DD HH:MM",
        ),
        (
            "/override",
            {"deployment": "ocr", "state": "open", "until": "2020-01-01 08:00"},
            "override: --until 2020-01-01 08:00 has passed already",
            "手动开关：2020-01-01 08:00 已经过去",
        ),
        (
            "/drain",
            {"deployment": "ocr", "sure": "oc"},
            "drain: type the deployment's name, ocr, to say that you mean it",
            "下线：请输入部署名称 ocr 以确认",
        ),
        (
            "/job",
            {"job": "9", "do": "pause"},
            "job 9: there is none; `halve job list` shows those there are",
            "任务 9：不存在；`halve job list` 列出现有任务",
        ),
        ("/job", {"job": "1"}, "do: Field required", "do：缺少"),
        (
            "/job",
            {"job": "1", "do": "sing"},
            "do: Input should be 'pause', 'resume' or 'cancel'",
            "do：应为 'pause', 'resume' 或 'cancel'",
        ),
        (
            "/override",
            {"seal": "forged"},
            "that form is not from this page: open it again",
            "表单不是来自此页面：请重新打开",
        ),
    ],
    ids=lambda one: "-".join(one.values())[:20] if isinstance(one, dict) else "",
)
def test_what_is_not_done_is_said_in_the_pages_language(
    desk: Desk, path: str, form: dict[str, str], english: str, chinese: str
) -> None:
    for language, words in (("en", english), ("zh", chinese)):
        desk.client.cookies.set("lang", language)
        answer = desk.client.post(path, data={"seal": desk.seal()} | form)
        assert answer.status_code in (400, 403, 409) and said(answer.text) == words


def test_a_job_that_is_over_is_so_in_chinese(desk: Desk) -> None:
    desk.client.cookies.set("lang", "zh")
    for do in ("cancel", "pause"):
        answer = desk.client.post("/job", data={"seal": desk.seal(), "job": "1", "do": do})
    assert said(answer.text) == "任务 1 已取消：不能再改为已暂停"


def test_a_stranger_is_told_so_in_their_language(desk: Desk) -> None:
    stranger = TestClient(desk.client.app, base_url=ADDRESS, follow_redirects=False)
    stranger.cookies.set("lang", "zh")
    assert said(stranger.post("/login", data={"token": "guessed"}).text) == "令牌不正确"
    assert stranger.get("/now/fleet", headers={"hx-request": "true"}).text == "请先登录\n"


def test_what_nobody_has_translated_stays_as_it_is() -> None:
    assert (
        refusal("ocr.yaml:3: {name}: want a name; or none", PageWords("zh"))
        == "ocr.yaml:3: {name}: want a name；or none"
    )


def test_every_refusal_that_is_translated_is_one_that_is_made() -> None:
    """Word for word somewhere, so that a changed refusal does not stay English unseen."""
    root = Path(__file__).parents[2]
    ours = (
        file.read_text(encoding="utf-8")
        for file in (root / "orchestrator").rglob("*.py")
        if "refusals" not in file.name
    )
    written = re.sub(r"[\"']\s*f?[\"']", "", " ".join(ours))
    theirs = ("Input should", "Field required", "Not Found", "Method Not Allowed")
    for english in REFUSALS:
        longest = max(re.split(r"{\w+}", english), key=len).strip(' :;,"')
        assert longest in written or english.split(": ")[-1].startswith(theirs), english
