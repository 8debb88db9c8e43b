"""One value, one spelling: amounts, dates, phone numbers, and full-width letters and digits."""

import re
from datetime import date
from decimal import Decimal

#: full-width letters, digits, signs and brackets; the other Chinese punctuation belongs to Chinese text and stays
_WIDE = {
    code: code - 0xFEE0 for a, b in ((0xFF10, 0xFF19), (0xFF21, 0xFF3A), (0xFF41, 0xFF5A)) for code in range(a, b + 1)
}
_WIDE |= {ord(wide): ord(narrow) for wide, narrow in zip("％＋－−．／＠＃＆￥　（）∶", "%+--./@#&¥ ():", strict=True)}

_AMOUNT_NAMES = re.compile(r"金额|单价|总价|价格|售价|合计|总计|小计|税额|费用?$|款$|[价额]$|amount|total|price", re.I)
_DATE_NAMES = re.compile(r"日期|时间|date", re.I)
_PHONE_NAMES = re.compile(r"电话|手机|传真|热线|联系方式|tel|phone|fax|mobile", re.I)

_CHINESE_GAP = re.compile(r"(?<=[\u4e00-\u9fff])\s+(?=[\u4e00-\u9fff(])")

_MINUS = r"((?:(?<!\w)-)?)"  # after a word or a number it is a dash
_NUMBER = r"((?:\d{1,3}(?:[,，]\s?\d{3})+|\d+)(?:\.\d+)?)"
_TIMES = {"万": 10**4, "亿": 10**8, "万亿": 10**12}
_LARGE = rf"({'|'.join(sorted(_TIMES, reverse=True))})?"
_SIGNED = re.compile(rf"{_MINUS}\s*(?:¥|RMB|CNY|\$|USD|€)\s*(-?){_NUMBER}\s*{_LARGE}", re.I)
_IN_YUAN = re.compile(rf"{_MINUS}(){_NUMBER}\s*{_LARGE}\s*[元圆]")
_BARE = re.compile(rf"{_MINUS}(){_NUMBER}\s*{_LARGE}\s*整?")
_CAPITALS = re.compile(r"[零壹贰叁肆伍陆柒捌玖拾佰仟万亿元圆角分整正]{2,}")
_DATE = re.compile(
    r"(\d{4})\s*[年\-/.]\s*(\d{1,2})\s*(?:[月\-/.]\s*(\d{1,2})\s*日?|月)(?:[T\s]*(\d{1,2})\s*[:：时]\s*(\d{2})(?:\s*[:：分]\s*(\d{2}))?)?"
)
_COMPACT_DATE = re.compile(r"(\d{4})(\d{2})(\d{2})")
_MOBILE = re.compile(r"(?:\+?86[-\s]?)?(1[3-9]\d)[-\s]?(\d{4})[-\s]?(\d{4})")
_SERVICE = re.compile(r"([48]00)[-\s]?(\d{3})[-\s]?(\d{4})")
_LANDLINE = re.compile(r"\(?(?:\+?86[-\s]?)?(0\d{2,3})\)?[-\s]?(\d{7,8})(?:\s*[-转]\s*(\d{1,6}))?")


def narrowed(text: str) -> str:
    """Full-width letters, digits, signs and brackets as plain ones."""
    return text.translate(_WIDE)


def normalised(name: str, value: str) -> str:
    """The value as a machine wants it; `name`, the field's, decides where the value alone does not.

    "¥86,500.00" -> "86500.00"; "2026年3月1日" -> "2026-03-01"; "138 1234 5678" -> "13812345678".
    What is none of these comes back with its edges trimmed and without spaces between Chinese characters.
    """
    value = _CHINESE_GAP.sub("", narrowed(value).strip(" \t:：;；,，。、_"))
    if _PHONE_NAMES.search(name):
        return phone(value) or value
    if _AMOUNT_NAMES.search(name):
        return amount(value) or value
    return (
        (moment(value, compact=True) if _DATE_NAMES.search(name) else None)
        or moment(value)
        or _whole(_SIGNED, value)
        or (phone(value) if _MOBILE.fullmatch(value) else None)
        or value
    )


def amount(value: str) -> str | None:
    """The number in an amount of money, decimals as written; None without one."""
    for pattern in (_SIGNED, _IN_YUAN):
        if found := pattern.search(value):
            return _plain(found)
    if found := _CAPITALS.search(value):
        return _from_capitals(found[0])
    return _whole(_BARE, value)


def moment(value: str, *, compact: bool = False) -> str | None:
    """A whole date as 2026-03-01, with a time as 2026-03-01 08:30, without a day as 2026-03; None otherwise."""
    found = _DATE.fullmatch(value) or (_COMPACT_DATE.fullmatch(value) if compact else None)
    if not found:
        return None
    year, month, day = found.group(1, 2, 3)
    try:
        checked = date(int(year), int(month), int(day or 1))
    except ValueError:
        return None
    if not day:
        return f"{checked:%Y-%m}"
    clock = [f"{int(part):02}" for part in found.groups()[3:] if part]
    return f"{checked:%Y-%m-%d} {':'.join(clock)}" if clock else f"{checked:%Y-%m-%d}"


def phone(value: str) -> str | None:
    """13812345678, 010-62345678, 010-62345678-801 or 400-810-8888; None when it is no such number."""
    if found := _MOBILE.fullmatch(value):
        return "".join(found.groups())
    if found := _SERVICE.fullmatch(value) or _LANDLINE.fullmatch(value):
        return "-".join(part for part in found.groups() if part)
    return None


def _whole(pattern: re.Pattern[str], value: str) -> str | None:
    found = pattern.fullmatch(value)
    return _plain(found) if found else None


def _plain(found: re.Match[str]) -> str:
    digits = (found[1] or found[2]) + re.sub(r"[,，\s]", "", found[3])
    return f"{(Decimal(digits) * _TIMES[found[4]]).normalize():f}" if found[4] else digits


def _from_capitals(text: str) -> str | None:
    """捌万陆仟伍佰元整 -> 86500.00 (the spelling that invoices and cheques use against forgery)."""
    digits = {c: i for i, c in enumerate("零壹贰叁肆伍陆柒捌玖")}
    units = {"拾": 10, "佰": 100, "仟": 1000}
    total = section = digit = cents = 0
    for c in text:
        if c in digits:
            digit = digits[c]
        elif c in units:
            section, digit = section + (digit or 1) * units[c], 0
        elif c == "万":
            total, section, digit = total + (section + digit) * 10**4, 0, 0
        elif c == "亿":
            total, section, digit = (total + section + digit) * 10**8, 0, 0
        elif c in "元圆":
            total, section, digit = total + section + digit, 0, 0
        elif c in "角分":
            cents, digit = cents + digit * (10 if c == "角" else 1), 0
    total += section + digit
    return f"{total}.{cents:02}" if total or cents else None
