"""Every reason that a month's decisions give is said in Chinese on a Chinese page."""

import re

import pytest
import sqlalchemy as sa

from orchestrator import spec
from orchestrator.dashboard.reasons import reason
from orchestrator.dashboard.words import PageWords
from orchestrator.ledger import tables as t
from orchestrator.ledger.store import open_file
from orchestrator.simulation.month import simulate

SPEC = """
name: ocr
model: ppocr
provider: simulated
simulated: {price_per_hour: 1.80, spot_price_per_hour: 0.60, boot: 90s, preemptions_per_day: 3}
schedule: {timezone: Asia/Shanghai, windows: ["Mon,Thu 09:00-15:00"]}
replicas: {min: 1, max: 3}
spot: {policy: hazard, availability: 99.5%}
budget: {monthly: 40, at: {50%: warn, 95%: spot-only, 100%: stop}}
"""
#: what is nobody's word: names, units and dates
NAMES = re.compile(r"simulated/\S+|ocr-?\d*|Asia/Shanghai|UTC|RTX|CNY|sim-\d")


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """All reasons and notes of a simulated month."""
    path = tmp_path_factory.mktemp("month") / "month.db"
    simulate(spec.parse(SPEC, "ocr.yaml"), SPEC, "ocr.yaml", "2024-03", path, 1)
    found: set[str] = set()
    with open_file(path).read() as tx:
        for row in tx.execute(sa.select(t.ticks.c.reason, t.ticks.c.plan)):
            found |= {row.reason, *row.plan["notes"], *(action["reason"] for action in row.plan["actions"])}
    return found


def test_every_reason_of_a_month_has_chinese_words(said: set[str]) -> None:
    assert len(said) > 20
    english = {
        text: chinese for text in said if re.search("[a-z]{3}", NAMES.sub("", chinese := reason(text, PageWords("zh"))))
    }
    assert english == {}


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        (
            "open until 20:00 Europe/Berlin, who is up is kept for it",
            "开放至 20:00 Europe/Berlin，已启动的机器为此保留",
        ),
        ("the provider recommends to leave it, its replacement serves", "供应商建议撤离，替换的机器已在服务"),
        ("a machine of one's own is free, its replacement serves", "自有机器空闲，替换的机器已在服务"),
        ("a cheaper machine is to be had, its replacement serves", "有更便宜的机器可用，替换的机器已在服务"),
        ("on-demand: 2 spot replicas have become dearer than it", "按需：2 台竞价实例已比按需更贵"),
        ("surplus: it makes room for the base on demand", "多余：为按需基数腾出位置"),
        ("+12% an hour, without T4 (on_demand)", "每小时 +12%，不用 T4（按需）"),
        ("on-demand: no spot machine, 2.5 h of slack", "按需：没有竞价实例，余量 2.5 小时"),
        ("refused 3 times: NoCapacity: none in sim-1", "被拒绝 3 次：NoCapacity：none in sim-1"),
    ],
)
def test_a_reason_made_of_others_is_said_whole(english: str, chinese: str) -> None:
    assert reason(english, PageWords("zh")) == chinese
