"""Draws the pages that the engine is tested and shown on, and writes beside them what they say.

python -m tests.pages.render                          the pages, with the font subset that is kept here
python -m tests.pages.render --font NotoSansCJK.ttc   first makes that subset anew, after the texts changed
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).resolve().parent
FONT = HERE / "page-font.otf"
SIMPLIFIED_CHINESE = 2  # its place in the collection
MAX_BYTES = 80_000

Place = tuple[int, int, int, str]  # left, top, height of the letters in pixels, text


@dataclass(frozen=True, kw_only=True)
class Page:
    """One document: what is written where, in reading order, and the values that are in it."""

    name: str
    size: tuple[int, int]
    paper: str
    ink: str
    places: tuple[Place, ...]
    fields: dict[str, str]
    rules: tuple[tuple[int, int, int, int], ...] = ()  # straight lines


def rows(top: int, step: int, height: int, *columns: tuple[int, tuple[str, ...]]) -> Iterator[Place]:
    """Columns (left, texts) side by side, read row by row."""
    for i, texts in enumerate(zip(*(texts for _, texts in columns), strict=True)):
        for (left, _), text in zip(columns, texts, strict=True):
            yield left, top + i * step, height, text


INVOICE = Page(
    name="invoice",
    size=(1000, 640),
    paper="#fffdf5",
    ink="#3a2a20",
    places=(
        (330, 30, 34, "增值税电子普通发票"),
        (60, 100, 22, "发票代码：011002300111"),
        (620, 100, 22, "发票号码：23456789"),
        (60, 145, 22, "机器编号：499099123456"),
        (620, 145, 22, "开票日期：2026年03月18日"),
        (60, 205, 22, "购买方名称：青禾示例贸易有限公司"),
        (60, 245, 22, "纳税人识别号：91310115MA1K3X7Y2B"),
        *rows(
            310,
            45,
            22,
            (70, ("货物名称", "激光打印机", "墨粉盒")),
            (330, ("规格型号", "HL-2270DW", "TN-450")),
            (560, ("数量", "25", "100")),
            (690, ("单价", "1,940.00", "380.00")),
            (830, ("金额", "48,500.00", "38,000.00")),
        ),
        (60, 465, 22, "价税合计：捌万陆仟伍佰元整"),
        (620, 465, 22, "（小写）¥86,500.00"),
        (60, 525, 22, "销售方名称：云帆示例科技有限公司"),
        (620, 525, 22, "电话：010-62345678"),
        (60, 575, 22, "收款人：王明"),
        (330, 575, 22, "复核：李华"),
        (620, 575, 22, "开票人：张强"),
    ),
    rules=((45, 295, 955, 295), (45, 440, 955, 440), (45, 505, 955, 505), (45, 295, 45, 505), (955, 295, 955, 505)),
    fields={
        "发票代码": "011002300111",
        "发票号码": "23456789",
        "开票日期": "2026-03-18",
        "购买方名称": "青禾示例贸易有限公司",
        "纳税人识别号": "91310115MA1K3X7Y2B",
        "价税合计": "86500.00",
        "销售方名称": "云帆示例科技有限公司",
        "电话": "010-62345678",
    },
)

NAMEPLATE = Page(
    name="nameplate",
    size=(800, 520),
    paper="#2f3b46",
    ink="#e8edf0",
    places=(
        (260, 35, 38, "三相异步电动机"),
        *rows(
            125,
            60,
            26,
            (60, ("型号", "额定功率", "额定电流", "防护等级", "出厂日期")),
            (200, ("Y2-132M-4", "7.5 kW", "15.4 A", "IP55", "2026年3月")),
            (450, ("编号", "额定电压", "额定转速", "绝缘等级", "重量")),
            (590, ("26031807", "380 V", "1440 r/min", "F级", "81 kg")),
        ),
        (260, 445, 26, "长河示例电机制造有限公司"),
    ),
    rules=((40, 105, 760, 105), (40, 425, 760, 425)),
    fields={
        "型号": "Y2-132M-4",
        "编号": "26031807",
        "额定功率": "7.5 kW",
        "额定电压": "380 V",
        "额定电流": "15.4 A",
        "额定转速": "1440 r/min",
        "防护等级": "IP55",
        "出厂日期": "2026-03",
        "重量": "81 kg",
    },
)

PACKAGING = Page(
    name="packaging",
    size=(600, 760),
    paper="#dff0d8",
    ink="#1f4d2b",
    places=(
        (170, 40, 52, "全脂纯牛奶"),
        (215, 125, 24, "净含量：250 mL"),
        *rows(
            205,
            52,
            24,
            (
                50,
                (
                    "配料：生牛乳",
                    "产品标准号：GB 25190",
                    "生产许可证编号：SC10612345678901",
                    "生产日期：2026/03/18",
                    "保质期：6个月",
                    "贮存条件：常温避光保存",
                    "产地：内蒙古呼和浩特",
                    "生产商：草原示例乳业有限公司",
                    "服务热线：400-810-8888",
                ),
            ),
        ),
        (80, 690, 20, "开启后请冷藏，并于两日内饮用完毕。"),
    ),
    fields={
        "净含量": "250 mL",
        "配料": "生牛乳",
        "产品标准号": "GB 25190",
        "生产许可证编号": "SC10612345678901",
        "生产日期": "2026-03-18",
        "保质期": "6个月",
        "服务热线": "400-810-8888",
    },
)

CONTRACT = Page(
    name="contract",
    size=(900, 900),
    paper="#ffffff",
    ink="#111111",
    places=(
        (350, 40, 40, "采购合同"),
        (560, 115, 22, "合同编号：HT-2026-0318"),
        (70, 165, 24, "甲方：云帆示例科技有限公司"),
        (70, 210, 24, "乙方：青禾示例贸易有限公司"),
        (70, 270, 22, "双方经友好协商，就办公设备采购事宜达成如下协议。"),
        (70, 315, 22, "第一条　甲方向乙方采购激光打印机及墨粉盒，规格见附件。"),
        (70, 360, 22, "第二条　乙方应于合同生效后十五日内将货物送达甲方指定地点。"),
        (70, 405, 22, "第三条　货到验收合格后，甲方在三十日内付清全部货款。"),
        (70, 450, 22, "第四条　任何一方违约，应向对方支付货款百分之五的违约金。"),
        (70, 515, 24, "合同金额：人民币¥86,500.00元"),
        (70, 560, 24, "签订日期：2026年3月18日"),
        (70, 605, 24, "联系电话：138 1234 5678"),
        (70, 700, 24, "甲方（盖章）："),
        (500, 700, 24, "乙方（盖章）："),
        (70, 760, 24, "授权代表："),
        (500, 760, 24, "授权代表："),
    ),
    fields={
        "合同编号": "HT-2026-0318",
        "甲方": "云帆示例科技有限公司",
        "乙方": "青禾示例贸易有限公司",
        "合同金额": "86500.00",
        "签订日期": "2026-03-18",
        "联系电话": "13812345678",
    },
)

SCREENSHOT = Page(
    name="screenshot",
    size=(720, 900),
    paper="#f7f7f7",
    ink="#222222",
    places=(
        (295, 40, 32, "账单详情"),
        (255, 130, 30, "晨光示例便利店"),
        (300, 190, 48, "-128.50"),
        *rows(
            300,
            62,
            26,
            (50, ("当前状态", "支付时间", "商品", "支付方式", "交易单号", "商户单号")),
            (
                250,
                (
                    "支付成功",
                    "2026-03-18 14:31:07",
                    "牛奶与面包",
                    "储蓄卡（尾号0318）",
                    "4200001234202603187654",
                    "SH20260318000127",
                ),
            ),
        ),
        (50, 720, 26, "对订单有疑惑"),
        (50, 780, 26, "申请转账电子凭证"),
    ),
    rules=((40, 275, 680, 275), (40, 690, 680, 690)),
    fields={
        "当前状态": "支付成功",
        "支付时间": "2026-03-18 14:31:07",
        "商品": "牛奶与面包",
        "支付方式": "储蓄卡(尾号0318)",
        "交易单号": "4200001234202603187654",
        "商户单号": "SH20260318000127",
    },
)

PAGES = (INVOICE, NAMEPLATE, PACKAGING, CONTRACT, SCREENSHOT)


def drawn(page: Page) -> bytes:
    """The page as a PNG of 32 colours, which is all that smooth letters on plain paper need."""
    image = Image.new("RGB", page.size, page.paper)
    pen = ImageDraw.Draw(image)
    for rule in page.rules:
        pen.line(rule, fill=page.ink, width=2)
    for left, top, height, text in page.places:
        pen.text((left, top), text, fill=page.ink, font=ImageFont.truetype(FONT, height))
    file = BytesIO()
    image.quantize(32, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


def truth() -> dict[str, dict[str, object]]:
    """File name -> the lines in reading order and the values by name, normalised."""
    return {f"{page.name}.png": {"lines": [text for *_, text in page.places], "fields": page.fields} for page in PAGES}


def subset(full_font: Path) -> None:
    """Keep the glyphs that the pages use: 20 MB become some 60 kB."""
    from fontTools import subset as fonttools

    characters = "".join(sorted({c for page in PAGES for *_, text in page.places for c in text}))
    fonttools.main(
        [
            str(full_font),
            f"--font-number={SIMPLIFIED_CHINESE}",
            f"--text={characters}",
            f"--output-file={FONT}",
            "--layout-features=",
            "--desubroutinize",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--font", type=Path, help="the full font collection to make the subset from")
    options = parser.parse_args()
    if options.font:
        subset(options.font)
    for page in PAGES:
        content = drawn(page)
        assert len(content) < MAX_BYTES, f"{page.name}: {len(content)} bytes"
        (HERE / f"{page.name}.png").write_bytes(content)
    (HERE / "truth.json").write_text(json.dumps(truth(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
