"""Names and values by where they stand on the page."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference import fields
from inference.engine import Line

HEIGHT = 20


def line(left: float, top: float, text: str, score: float = 0.99) -> Line:
    """A line 20 pixels high whose letters are as wide as high."""
    right, bottom = left + HEIGHT * max(1, len(text)), top + HEIGHT
    return Line(text=text, score=score, box=((left, top), (right, top), (right, bottom), (left, bottom)))


@pytest.mark.parametrize(
    ("listed", "prompt", "names"),
    [
        (None, None, None),
        ("", "", None),
        ("甲方,乙方", None, ("甲方", "乙方")),
        ("甲方，乙方、 签订日期 ;甲方", None, ("甲方", "乙方", "签订日期")),
        (None, "请只识别图片中‘甲方’‘乙方’‘签订日期’三个字段", ("甲方", "乙方", "签订日期")),
        (None, "read “甲方” and 「乙方」 and 'Total' and \"Date\"", ("甲方", "乙方", "Total", "Date")),
        (None, "请识别图片中的文字", None),
        ("甲方", "‘乙方’", ("甲方", "乙方")),
    ],
)
def test_names_wanted(listed: str | None, prompt: str | None, names: tuple[str, ...] | None) -> None:
    assert fields.wanted(listed, prompt) == names


@pytest.mark.parametrize("listed", ["a," * 20 + ",".join(map(str, range(65))), "x" * 65])
def test_more_than_a_page_has_is_refused(listed: str) -> None:
    with pytest.raises(fields.BadWish, match="at most 64"):
        fields.wanted(listed, None)


def test_a_page_full_of_names_takes_no_time() -> None:
    """The work must not grow with the cube of the lines: a second is a hundred times what it takes."""
    page = [line(100 * (i % 30), 30 * (i // 30), "甲方:") for i in range(900)]
    started = time.process_time()
    assert fields.extract(page, None) == {}
    assert fields.extract(page, ("甲方",)) == {"甲方": None}
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([line(0, 0, "甲方：云帆公司")], {"甲方": "云帆公司"}, id="colon"),
        pytest.param([line(0, 0, "甲 方:云帆公司")], {"甲方": "云帆公司"}, id="spaced-name-half-colon"),
        pytest.param([line(0, 0, "甲方（盖章）：云帆公司")], {"甲方": "云帆公司"}, id="aside"),
        pytest.param([line(0, 0, "甲方云帆公司")], {"甲方": None}, id="run-on-chinese-is-a-guess"),
        pytest.param([line(0, 0, "甲方 云帆公司")], {"甲方": "云帆公司"}, id="space-instead-of-colon"),
        pytest.param([line(0, 0, "签订日期2026年3月1日")], {"签订日期": "2026-03-01"}, id="digits-behind-the-name"),
        pytest.param(
            [line(0, 0, "价税合计（大写）捌万陆仟伍佰元整 （小写）¥86,500.00")],
            {"价税合计": "86500.00"},
            id="invoice-total",
        ),
        pytest.param(
            [line(0, 0, "电话：010-62345678 传真：010-62345679")],
            {"电话": "010-62345678", "传真": "010-62345679"},
            id="two-in-a-line",
        ),
        pytest.param(
            [line(0, 0, "甲方：云帆公司乙方：青禾公司")], {"甲方": "云帆公司", "乙方": "青禾公司"}, id="merged-boxes"
        ),
        pytest.param(
            [line(0, 0, "时间：08:30"), line(0, 30, "网址：http://a.cn")],
            {"时间": "08:30", "网址": "http://a.cn"},
            id="colons-in-values",
        ),
        pytest.param([line(0, 0, "型号"), line(100, 3, "Y2-132M")], {"型号": "Y2-132M"}, id="next-box"),
        pytest.param([line(0, 0, "型号："), line(100, 3, "Y2-132M")], {"型号": "Y2-132M"}, id="colon-then-next-box"),
        pytest.param([line(0, 0, "地址："), line(0, 28, "北京市海淀区")], {"地址": "北京市海淀区"}, id="next-line"),
        pytest.param([line(0, 0, "甲方："), line(300, 0, "乙方：")], {"甲方": None, "乙方": None}, id="unfilled-form"),
        pytest.param([line(0, 0, "地址："), line(0, 200, "页脚")], {"地址": None}, id="too-far-below"),
        pytest.param(
            [line(0, 0, "单价"), line(200, 0, "金额"), line(0, 30, "19.40"), line(200, 30, "48.50")],
            {"单价": "19.40", "金额": "48.50"},
            id="first-row-of-a-table",
        ),
        pytest.param(
            [line(0, 0, "合同金额：¥5.00"), line(0, 30, "金额：¥7.00")], {"金额": "7.00"}, id="exact-name-wins"
        ),
        pytest.param([line(0, 0, "合同金额：¥5.00")], {"金额": "5.00"}, id="name-that-ends-so"),
        pytest.param([line(0, 0, "凈含量：250 mL")], {"净含量": "250 mL"}, id="variant-character"),
        pytest.param([line(0, 0, "购买万名称：青禾公司")], {"购买方名称": "青禾公司"}, id="one-character-misread"),
        pytest.param([line(0, 0, "甲方：一"), line(0, 30, "甲方：二")], {"甲方": "一"}, id="first-wins"),
        pytest.param(
            [line(0, 0, "甲方代表：张三")], {"甲方": None, "甲方代表": "张三"}, id="another-name-that-is-asked-for"
        ),
        pytest.param([line(0, 0, "甲方代表：张三")], {"甲方": "张三"}, id="unless-that-is-not"),
        pytest.param(
            [line(0, 0, "12 ab"), line(0, 30, "甲方：一")], {":": None, "*": None, "甲方": "一"}, id="no-name"
        ),
        pytest.param([line(0, 0, "甲方∶云帆公司")], {"甲方": "云帆公司"}, id="a-ratio-sign-is-a-colon-to-a-reader"),
        pytest.param([line(0, 0, "甲方:"), line(80, 0, "：")], {"甲方": None}, id="a-mark-is-no-value"),
        pytest.param([], {"甲方": None}, id="empty-page"),
    ],
)
def test_values_asked_for(lines: list[Line], expected: dict[str, str | None]) -> None:
    assert fields.extract(lines, tuple(expected)) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([line(0, 0, "甲方：云帆公司", 0.5)], {}, id="unsure-lines-are-left-out"),
        pytest.param([line(0, 0, "本合同约定，违约方须赔偿：全部损失")], {}, id="a-sentence-is-no-name"),
        pytest.param([line(0, 0, "12：30")], {}, id="a-time-is-no-pair"),
        pytest.param([line(0, 0, "甲方负责运输")], {}, id="a-name-in-prose"),
        pytest.param([line(0, 0, "净含量250mL")], {"净含量": "250mL"}, id="known-name-then-digits"),
        pytest.param(
            [line(0, 0, "单价"), line(200, 0, "金额"), line(0, 30, "1.00"), line(200, 30, "2.00")], {}, id="table-heads"
        ),
        pytest.param(
            [
                *(line(0, 40 * i, name) for i, name in enumerate(["当前状态", "支付方式", "收货小区"])),
                *(line(200, 40 * i, value) for i, value in enumerate(["成功", "零钱", "东园"])),
            ],
            {"当前状态": "成功", "支付方式": "零钱", "收货小区": "东园"},
            id="a-column-of-names",
        ),
    ],
)
def test_pairs_nobody_asked_for(lines: list[Line], expected: dict[str, str]) -> None:
    assert fields.extract(lines, None) == expected


@given(
    st.lists(
        st.builds(
            line,
            st.floats(0, 1000),
            st.floats(0, 1000),
            st.text("甲方乙名称：:（） ()¥,.0189年月日ab\n金额", max_size=20),
            st.floats(0, 1),
        ),
        max_size=12,
    ),
    st.lists(st.text(min_size=1, max_size=6), max_size=3),
)
def test_any_page_gives_every_name_and_nothing_else(lines: list[Line], names: list[str]) -> None:
    assert set(fields.extract(lines, tuple(names))) == set(names)
    assert all(fields.extract(lines, None))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param(
            [line(0, 0, "甲方：" + "一" * 17), line(0, 28, "二二二")], {"甲方": "一" * 17 + "二二二"}, id="full-line"
        ),
        pytest.param([line(0, 0, "甲方：" + "一" * 17), line(0, 28, "乙方：二")], {"甲方": "一" * 17}, id="next-name"),
        pytest.param([line(0, 0, "甲方：" + "一" * 17), line(0, 28, "第二条　货")], {"甲方": "一" * 17}, id="item"),
        pytest.param([line(0, 0, "甲方：" + "一" * 17), line(0, 60, "二二二")], {"甲方": "一" * 17}, id="a-gap"),
        pytest.param(
            [line(0, 0, "甲方：一"), line(0, 28, "二二二"), line(0, 200, "长" * 30)],
            {"甲方": "一"},
            id="a-line-with-room-left",
        ),
        pytest.param(
            [line(0, 0, "地址"), line(100, 0, "北京市海淀"), line(100, 28, "区中关村"), line(0, 56, "电话")],
            {"地址": "北京市海淀区中关村"},
            id="in-a-column-of-its-own",
        ),
        pytest.param(
            [line(0, 0, "地址"), line(100, 0, "北京市"), line(0, 28, "住址"), line(100, 28, "上海市")],
            {"地址": "北京市"},
            id="the-next-row-is-another",
        ),
        pytest.param(
            [line(0, 0, "地址"), line(100, 0, "12 Long Road"), line(100, 28, "Old Town")],
            {"地址": "12 Long Road Old Town"},
            id="words-keep-their-space",
        ),
    ],
)
def test_values_that_run_on(lines: list[Line], expected: dict[str, str]) -> None:
    assert fields.extract(lines, tuple(expected)) == expected


@pytest.mark.parametrize("degrees", [0, 7, -20, 90, 180])
def test_a_page_turned_by_any_angle_has_the_same_fields(degrees: float) -> None:
    """Its boxes come as a detector gives them: clockwise from the corner that is top left in the picture."""
    names, values = ("型号", "编号", "重量", "产地"), ("Y2-132M", "26031807", "81 kg", "北京市")
    page = [line(0, 40 * i, name) for i, name in enumerate(names)]
    page += [line(200, 40 * i, value) for i, value in enumerate(values)]
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])

    def turned(one: Line) -> Line:
        corners = np.array(one.box) @ turn
        first = int(np.argmin(corners.sum(axis=1)))
        return Line(text=one.text, score=one.score, box=tuple(map(tuple, np.roll(corners, -first, axis=0).tolist())))

    found = fields.extract([turned(one) for one in page], names)
    assert found == dict(zip(names, values, strict=True))


def test_paragraphs_on_their_head_are_read_in_their_order() -> None:
    """No name stands alone here: what tells is that lines begin below one another."""
    texts = ["甲方：" + "一" * 17, "二二二二", "乙方：三", "第一条　货物规格见附件", "签订日期：2026年3月18日"]
    page = [line(0, 28 * i, text) for i, text in enumerate(texts)]
    on_its_head = [
        Line(
            text=one.text,
            score=one.score,
            box=tuple((600 - x, 400 - y) for x, y in (one.box[2], one.box[3], one.box[0], one.box[1])),
        )
        for one in page
    ]
    expected = {"甲方": "一" * 17 + "二二二二", "乙方": "三", "签订日期": "2026-03-18"}
    assert fields.extract(page, tuple(expected)) == expected
    assert fields.extract(on_its_head, tuple(expected)) == expected
