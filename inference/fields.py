"""Lines of text -> named values, by where they stand: after a colon, in the next box to the right, in the next line."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.engine import Line
from inference.values import narrowed, normalised

CONFIDENT = 0.8  # least score of the lines of a pair that nobody asked for
LONGEST_NAME = 16  # characters; what stands before a colon and is longer is a sentence
LONGEST_LABEL = 8  # of a name without a colon
MAX_NAMES = 64
MAX_NAME_LENGTH = 64
MAX_WISH_LENGTH = 20_000  # characters, of a list of names or of a prompt
REACH_RIGHT = 20.0  # line heights between a name and its value
REACH_DOWN = 1.5
REACH_ON = 0.7  # between two lines of one value
LONGEST_VALUE = 5  # lines
MARGIN = 1.5  # line heights that a full line may end before the longest one
MANY_ALIGNED = 6  # pairs: four lines below one another
TALL = 1.5  # height over width from which a line is read downwards, as the recogniser does

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
_ASIDE = re.compile(r"\([^()]*\)$")
_SENTENCE = re.compile(r"[，。！？；,;!?]|^[\W\d_]+$")
_ITEM = re.compile(r"第[一二三四五六七八九十百\d]+[条章款]|[(（]?[一二三四五六七八九十\d]{1,2}(?:[)）、]|\.(?!\d))")
_LABEL_LIKE = re.compile(rf"[\u4e00-\u9fff]{{2,{LONGEST_LABEL}}}")
_VARIANTS = str.maketrans("凈", "净")  # one character to a reader, two to the alphabet


class BadWish(Exception):
    """More names, or longer ones, than a page has. One line that says the limit."""


def wanted(fields: str | None, prompt: str | None) -> tuple[str, ...] | None:
    """The names asked for: `fields` lists them ("A,B"), a `prompt` quotes them ("只识别‘甲方’‘乙方’").

    None when there are none, which means all pairs. Raises BadWish.
    """
    for kind, wish in (("fields", fields), ("prompt", prompt)):
        if len(wish or "") > MAX_WISH_LENGTH:
            raise BadWish(f"{kind}: at most {MAX_WISH_LENGTH:,} characters")
    listed = re.split(r"[,，、;；\n]", fields) if fields else []
    listed += ["".join(groups) for groups in _QUOTED.findall(prompt or "")]
    names = tuple(dict.fromkeys(name.strip() for name in listed if name.strip()))
    if len(names) > MAX_NAMES or any(len(name) > MAX_NAME_LENGTH for name in names):
        raise BadWish(f"fields: at most {MAX_NAMES} names of at most {MAX_NAME_LENGTH} characters")
    return names or None


def extract(lines: Sequence[Line], wanted: Sequence[str] | None) -> dict[str, str | None]:
    """Name -> normalised value. Every wanted name is there, None when it was not found; without any, all pairs of
    which each line is read with a score of at least 0.8, in reading order."""
    if wanted is not None:
        sheet = _Sheet(lines, {_bare(name) for name in (*LABELS, *wanted)})
        pairs = [*_said([*_pairs(sheet, strict=False), *_run_on(sheet, wanted, after=r"[\s\d¥$+A-Za-z]")])]
        return {name: _best(name, pairs, {_bare(other) for other in wanted}) for name in wanted}
    sheet = _Sheet(lines, {_bare(name) for name in LABELS})
    sheet.known |= _column_names(sheet)
    found: dict[str, str | None] = {}
    for pair in _said([*_pairs(sheet, strict=True), *_run_on(sheet, LABELS, after=r"\s*[\d¥$A-Za-z]")]):
        if pair.score >= CONFIDENT:
            found.setdefault(pair.name, normalised(pair.name, pair.value))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    name: str
    value: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    """A line of the sheet: its number, its text, and that text as a name is compared."""

    i: int
    text: str
    bare: str
    score: float


class _Sheet:
    """The lines of a page, what is known to be a name, and who stands where: upright bounds in pixels, on the page
    turned so that its lines run to the right."""

    def __init__(self, lines: Sequence[Line], known: set[str]) -> None:
        texts = [narrowed(line.text).strip() for line in lines]
        self.cells = [
            _Cell(i=i, text=text, bare=_bare(text), score=line.score)
            for i, (text, line) in enumerate(zip(texts, lines, strict=True))
        ]
        self.known = known
        corners = _straightened(np.array([line.box for line in lines], np.float64).reshape(-1, 4, 2))
        self.left, self.top = corners.min(axis=1).T
        self.right, self.bottom = corners.max(axis=1).T
        if self._upside_down():
            self.left, self.right, self.top, self.bottom = -self.right, -self.left, -self.bottom, -self.top
        self.height = np.maximum(1.0, self.bottom - self.top)

    def _upside_down(self) -> bool:
        """A box does not say which way up its line was; but names stand at the left of rows, values at the right, and
        where no name stands alone, lines begin below one another more often than they end so."""
        middle, centre = (self.top + self.bottom) / 2, (self.left + self.right) / 2
        row = (self.top[:, None] < middle) & (self.bottom[:, None] > middle)
        after = (row & (centre[:, None] > centre)).any(axis=0)
        before = (row & (centre[:, None] < centre)).any(axis=0)
        names = np.array([cell.bare in self.known for cell in self.cells], bool)
        at_left, at_right = (names & after & ~before).sum(), (names & before & ~after).sum()
        if not names.any():
            begin, end = self._aligned(self.left), self._aligned(self.right)
            return bool(end >= MANY_ALIGNED and end > 2 * begin)
        return bool(at_right >= 3 and at_right > 2 * at_left)

    def _aligned(self, edge: NDArray[np.float64]) -> int:
        """How many pairs of lines have this edge below one another, within half of the lower one's height."""
        height = self.bottom - self.top
        near = abs(edge[:, None] - edge) <= 0.5 * np.minimum(height[:, None], height)
        return int((near.sum() - len(edge)) // 2)

    def right_of(self, cell: _Cell) -> _Cell | None:
        """The nearest in the same row: it shares at least half of the lower one's height."""
        i = cell.i
        shared = np.minimum(self.bottom, self.bottom[i]) - np.maximum(self.top, self.top[i])
        gap = (self.left - self.right[i]) / self.height[i]
        row = (shared >= 0.5 * np.minimum(self.height, self.height[i])) & (gap >= -0.5) & (gap <= REACH_RIGHT)
        return self._nearest(i, row, self.left)

    def below(self, cell: _Cell) -> _Cell | None:
        """The nearest that begins within REACH_DOWN and lies at least partly under the cell."""
        i = cell.i
        gap = (self.top - self.bottom[i]) / self.height[i]
        under = (gap >= -0.3) & (gap <= REACH_DOWN) & (self.left < self.right[i]) & (self.right > self.left[i])
        return self._nearest(i, under, self.top)

    def value_on(self, text: str, cell: _Cell, start: float, *, alone: bool) -> str:
        """A value that begins in the cell at `start` (pixels), with the lines it runs on over.

        They stand close below one another, each alone in its row, and begin between the cell's left and the value's. A
        value `alone` in its cell may be narrower than the page; one behind its name must have run out of space.
        """
        last, begin = cell, self.left[cell.i]
        for _ in range(LONGEST_VALUE - 1):
            if not alone and self.right[last.i] < self.right.max() - MARGIN * self.height[last.i]:
                break
            below = self._run_on_in(last, begin, begin if alone else start)
            if below is None or (alone and self.right[below.i] > self.right[last.i] + MARGIN * self.height[last.i]):
                break
            text, last = _joined(text, below.text), below
        return text

    def _run_on_in(self, cell: _Cell, begin: float, end: float) -> _Cell | None:
        i, height = cell.i, self.height[cell.i]
        gap = (self.top - self.bottom[i]) / height
        close = (gap >= -0.5) & (gap <= REACH_ON) & (abs(self.height - height) <= 0.3 * height)
        there = close & (self.left >= begin - 0.6 * height) & (self.left <= end + height)
        below = self._nearest(i, there, self.top)
        if below is None or _ITEM.match(below.text) or below.bare in self.known or any(_inside(below.text, self.known)):
            return None
        centre = (self.top[below.i] + self.bottom[below.i]) / 2
        neighbours = (self.top < centre) & (self.bottom > centre)
        return below if neighbours.sum() == 1 else None

    def _nearest(self, i: int, fits: NDArray[np.bool_], distance: NDArray[np.float64]) -> _Cell | None:
        fits[i] = False
        return self.cells[int(np.argmin(np.where(fits, distance, np.inf)))] if fits.any() else None


def _straightened(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """The boxes (n x 4 x 2) on a page turned by the median direction of its lines; tall ones are read downwards."""
    if not len(corners):
        return corners
    across, down = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1]
    wide, tall = np.hypot(*across.T), np.hypot(*down.T)
    upright = tall < TALL * wide
    along = across if wide[upright].sum() >= tall[~upright].sum() else down
    counted = upright if along is across else ~upright
    angles = np.arctan2(along[:, 1], along[:, 0])[counted]
    angle = float(np.median(angles)) if len(angles) else 0.0
    cosine, sine = np.cos(angle), np.sin(angle)
    straight: NDArray[np.float64] = corners @ np.array([[cosine, -sine], [sine, cosine]])
    return straight


def _joined(text: str, more: str) -> str:
    """Words keep a space between them, Chinese does not."""
    space = " " if text[-1:].isascii() and text[-1:].isalnum() and more[:1].isascii() and more[:1].isalpha() else ""
    return text + space + more


def _pairs(sheet: _Sheet, *, strict: bool) -> list[_Pair]:
    """`strict` leaves the columns of a table alone: a name beside another name heads many values."""
    names = [cell for cell in sheet.cells if cell.bare in sheet.known]
    heads = {right.i for cell in names if (right := sheet.right_of(cell))} if strict else set()
    pairs: list[_Pair] = []
    for cell in sheet.cells:
        inside = list(_inside(cell.text, sheet.known))
        if not inside and cell.bare in sheet.known:
            inside = [(cell.text, "")]
        if inside and inside[-1][1]:
            name, value = inside[-1]
            start = sheet.right[cell.i] - (sheet.right[cell.i] - sheet.left[cell.i]) * len(value) / len(cell.text)
            inside[-1] = (name, sheet.value_on(value, cell, start, alone=False))
        pairs += [_Pair(name=_clean(name), value=value, score=cell.score) for name, value in inside if value]
        if inside and not inside[-1][1] and (there := _value_of(cell, sheet, strict=strict, head=cell.i in heads)):
            value = sheet.value_on(there.text, there, sheet.left[there.i], alone=True)
            pairs.append(_Pair(name=_clean(inside[-1][0]), value=value, score=min(cell.score, there.score)))
    return pairs


def _value_of(name: _Cell, sheet: _Sheet, *, strict: bool, head: bool) -> _Cell | None:
    """The nearest cell to the right in the same row, or else the nearest one right below."""

    def is_name(cell: _Cell) -> bool:
        return cell.bare in sheet.known or any(_inside(cell.text, sheet.known))

    right = sheet.right_of(name)
    if right and not is_name(right):
        return right
    if strict and (right or head):
        return None
    below = sheet.below(name)
    return below if below and not is_name(below) else None


def _column_names(sheet: _Sheet) -> set[str]:
    """Names that nobody listed: short Chinese words under one another, at least one of them known, each with something
    to its right that is no name."""
    columns: dict[float, list[tuple[_Cell, _Cell]]] = {}
    for cell in sheet.cells:
        if _LABEL_LIKE.fullmatch(cell.bare) and (value := sheet.right_of(cell)):
            left, reach = sheet.left[cell.i], 0.5 * sheet.height[cell.i]
            near = next((other for other in columns if abs(other - left) <= reach), left)
            columns.setdefault(near, []).append((cell, value))
    found: set[str] = set()
    for column in columns.values():
        names = {name.bare for name, _ in column}
        if len(names) >= 3 and names & sheet.known and not any(value.bare in sheet.known for _, value in column):
            found |= names
    return found


def _inside(text: str, known: set[str]) -> Iterator[tuple[str, str]]:
    """The pairs within one line. A second name must stand after a space, or be a known one: in "时间：见附件:一" the
    second colon belongs to the value."""
    starts: list[tuple[int, int, int]] = []  # where the name starts, where it ends, where the value starts
    for colon in _COLON.finditer(text):
        before = text[starts[-1][2] if starts else 0 : colon.start()]
        name = before if not starts else _last_name(before, known)
        if name is None or not 0 < len(_bare(name)) <= LONGEST_NAME or _SENTENCE.search(name):
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


def _run_on(sheet: _Sheet, names: Iterable[str], *, after: str) -> Iterator[_Pair]:
    """ "签订日期 2026年3月1日": a name at the start of a line, its value behind it without a colon. `after` is what
    must follow the name for it to be one, an aside in brackets apart."""
    spelt = {name: r"\s*".join(re.escape(c) for c in bare) for name in names if (bare := _bare(name))}
    for cell in sheet.cells:
        text = cell.text.translate(_VARIANTS)
        for name, letters in spelt.items():
            found = re.match(rf"{letters}\s*(?:\([^()]*\)|(?={after}))\s*([^\s:：].*)", text, re.I)
            if found:
                yield _Pair(name=name, value=found[1], score=cell.score)


def _best(name: str, pairs: Sequence[_Pair], asked: set[str]) -> str | None:
    """Of the pairs with that name, or one that ends with it, starts with it, holds it, or differs by one character
    that may be misread, in that order, the first. A pair with another name that is `asked` for belongs to that."""
    bare = _bare(name)
    fits: dict[int, _Pair] = {}
    for pair in reversed(pairs):
        other = _bare(pair.name)
        if not bare or (other != bare and other in asked):
            continue
        fit = (
            other == bare,
            other.endswith(bare),
            other.startswith(bare),
            bare in other,
            len(bare) >= 3 and len(other) == len(bare) and sum(a != b for a, b in zip(bare, other, strict=True)) == 1,
        )
        if any(fit):
            fits[fit.index(True)] = pair
    return normalised(name, fits[min(fits)].value) if fits else None


def _said(pairs: Iterable[_Pair]) -> Iterator[_Pair]:
    """Those whose value is more than a mark."""
    return (pair for pair in pairs if normalised(pair.name, pair.value))


def _bare(name: str) -> str:
    """A name for comparison: no spaces, no aside in brackets, no colon, lower case."""
    plain = re.sub(r"[\s:：*·]", "", narrowed(name).translate(_VARIANTS))
    return (_ASIDE.sub("", plain) or plain).casefold()


def _clean(name: str) -> str:
    """A name as it is shown: "甲 方(盖章)" -> "甲方"; Latin words keep their spaces."""
    shown = re.sub(r"(?<=[\u4e00-\u9fff])\s+(?=[\u4e00-\u9fff])", "", name.translate(_VARIANTS)).strip(" :：*·")
    return _ASIDE.sub("", shown) or shown
