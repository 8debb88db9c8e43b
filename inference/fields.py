"""Lines of text -> named values, by where they stand: after a colon, in the next box to the right, in the next line."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from inference.engine import Line
from inference.values import narrowed, normalised

CONFIDENT = 0.8  # least score of the lines of a pair that nobody asked for
LONGEST_NAME = 16  # characters; what stands before a colon and is longer is a sentence
REACH_RIGHT = 12.0  # line heights between a name and its value
REACH_DOWN = 1.5

_LABELS = """
甲方 乙方 丙方 名称 品名 产品名称 货物名称 项目名称 型号 规格 规格型号 编号 序列号 出厂编号 批号 生产批号
合同编号 发票号码 发票代码 订单号 订单编号 交易单号 商户单号 产品标准号 执行标准 生产许可证编号
日期 时间 开票日期 签订日期 生产日期 出厂日期 制造日期 有效期 有效期至 保质期
金额 合同金额 价税合计 合计金额 合计 总计 税额 单价 数量 支付方式 付款方式 收款方 付款方 状态
功率 额定功率 额定电压 额定电流 额定转速 额定频率 电压 电流 频率 转速 防护等级 绝缘等级 接法
重量 净重 毛重 净含量 配料 贮存条件 制造商 生产商 生产厂家 产地 地址 电话 手机 传真 联系人 收货人 姓名 性别 民族 住址
"""
#: names that need no colon to be known as names (nameplates, packages, tables)
LABELS = frozenset(_LABELS.split())

_QUOTED = re.compile(r"‘([^‘’]+)’|“([^“”]+)”|「([^「」]+)」|『([^『』]+)』|'([^']+)'|\"([^\"]+)\"")
_COLON = re.compile(r"(?<!\d)[:：](?!//)|(?<=\d)[:：](?!\d|//)")
_ASIDE = re.compile(r"[(（][^()（）]*[)）]$")


def wanted(fields: str | None, prompt: str | None) -> tuple[str, ...] | None:
    """The names asked for: `fields` lists them ("A,B"), a `prompt` quotes them ("只识别‘甲方’‘乙方’").

    None when there are none, which means all pairs.
    """
    names = re.split(r"[,，、;；\n]", fields) if fields else []
    names += ["".join(groups) for groups in _QUOTED.findall(prompt or "")]
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip())) or None


def extract(lines: Sequence[Line], wanted: Sequence[str] | None) -> dict[str, str | None]:
    """Name -> normalised value. Every wanted name is there, None when it was not found; without any, all pairs of
    which each line is read with a score of at least 0.8, in reading order."""
    cells = [_Cell.of(line) for line in lines]
    if wanted is None:
        pairs = _pairs(cells, LABELS)
        found: dict[str, str | None] = {}
        for pair in pairs:
            if pair.score >= CONFIDENT:
                found.setdefault(pair.name, normalised(pair.name, pair.value))
        return found
    pairs = [*_pairs(cells, {*LABELS, *wanted}), *_run_on(cells, wanted)]
    return {name: _best(name, pairs) for name in wanted}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    name: str
    value: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    """A line's text and its upright bounds in pixels."""

    text: str
    score: float
    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def of(cls, line: Line) -> "_Cell":
        xs, ys = zip(*line.box, strict=True)
        text = narrowed(line.text).strip()
        return cls(text=text, score=line.score, left=min(xs), top=min(ys), right=max(xs), bottom=max(ys))

    @property
    def height(self) -> float:
        return max(1.0, self.bottom - self.top)

    def beside(self, other: "_Cell") -> bool:
        """In the same row: they share at least half of the lower one's height."""
        shared = min(self.bottom, other.bottom) - max(self.top, other.top)
        return shared >= 0.5 * min(self.height, other.height)


def _pairs(cells: Sequence[_Cell], names: Iterable[str]) -> list[_Pair]:
    known = {_bare(name) for name in names}
    pairs: list[_Pair] = []
    for cell in cells:
        inside = list(_inside(cell.text, known))
        if not inside and _bare(cell.text) in known:
            inside = [(cell.text, "")]
        for i, (name, value) in enumerate(inside):
            if value:
                pairs.append(_Pair(name=_clean(name), value=value, score=cell.score))
            elif i == len(inside) - 1 and (there := _value_of(cell, cells, known)):
                pairs.append(_Pair(name=_clean(name), value=there.text, score=min(cell.score, there.score)))
    return pairs


def _inside(text: str, known: set[str]) -> Iterator[tuple[str, str]]:
    """The pairs within one line. A second name must stand after a space, or be a known one: in "时间：见附件:一" the
    second colon belongs to the value."""
    starts: list[tuple[int, int, int]] = []  # where the name starts, where it ends, where the value starts
    for colon in _COLON.finditer(text):
        before = text[starts[-1][2] if starts else 0 : colon.start()]
        name = before if not starts else _last_name(before, known)
        if name is None or not 0 < len(_bare(name)) <= LONGEST_NAME:
            if not starts:
                return
            continue
        starts.append((colon.start() - len(name), colon.start(), colon.end()))
    for i, (start, end, value) in enumerate(starts):
        until = starts[i + 1][0] if i + 1 < len(starts) else len(text)
        yield text[start:end].strip(), text[value:until].strip()


def _last_name(before: str, known: set[str]) -> str | None:
    for start in range(max(0, len(before) - LONGEST_NAME), len(before)):
        if _bare(before[start:]) in known:
            return before[start:]
    if spaced := re.search(r"\s(\S+)\s*$", before):
        return before[spaced.start(1) :]
    return None


def _value_of(name: _Cell, cells: Sequence[_Cell], known: set[str]) -> _Cell | None:
    """The nearest cell to the right in the same row, or else the nearest one right below."""

    def is_value(cell: _Cell) -> bool:
        return cell is not name and _bare(cell.text) not in known and not any(_inside(cell.text, known))

    right = [
        cell
        for cell in cells
        if cell is not name
        and name.beside(cell)
        and -0.5 * name.height <= cell.left - name.right <= REACH_RIGHT * name.height
    ]
    if right:
        nearest = min(right, key=lambda cell: cell.left)
        return nearest if is_value(nearest) else None
    below = [
        cell
        for cell in cells
        if is_value(cell)
        and -0.3 * name.height <= cell.top - name.bottom <= REACH_DOWN * name.height
        and cell.left < name.right
        and cell.right > name.left
    ]
    return min(below, key=lambda cell: cell.top, default=None)


def _run_on(cells: Sequence[_Cell], wanted: Sequence[str]) -> Iterator[_Pair]:
    """ "签订日期 2026年3月1日": a wanted name at the start of a line, its value behind it without a colon."""
    for cell in cells:
        for name in wanted:
            spelt = r"\s*".join(re.escape(c) for c in _bare(name))
            found = re.match(rf"{spelt}(?=[\s\d¥$+A-Za-z])\s*(.+)", cell.text, re.I)
            if found and not _COLON.match(found[1]):
                yield _Pair(name=name, value=found[1], score=cell.score)


def _best(name: str, pairs: Sequence[_Pair]) -> str | None:
    """Of the pairs with that name, or one that ends with it, starts with it, holds it, in that order, the first."""
    bare = _bare(name)
    fits: dict[int, _Pair] = {}
    for pair in reversed(pairs):
        other = _bare(pair.name)
        fit = (other == bare, other.endswith(bare), other.startswith(bare), bare in other)
        if any(fit):
            fits[fit.index(True)] = pair
    return normalised(name, fits[min(fits)].value) if fits else None


def _bare(name: str) -> str:
    """A name for comparison: no spaces, no aside in brackets, no colon, lower case."""
    plain = re.sub(r"[\s:：*＊·]", "", narrowed(name))
    return (_ASIDE.sub("", plain) or plain).casefold()


def _clean(name: str) -> str:
    """A name as it is shown: "甲 方（盖章）" -> "甲方"; Latin words keep their spaces."""
    shown = re.sub(r"(?<=[\u4e00-\u9fff])\s+(?=[\u4e00-\u9fff])", "", name).strip(" :：*·")
    return _ASIDE.sub("", shown) or shown
