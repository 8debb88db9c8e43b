"""Plots of a month report as SVG text, drawn here: bars by day, and the way from the baseline to what was paid.

Words stay words, so that the page's own fonts show them, Chinese ones too; nothing is loaded from anywhere.
"""

from collections.abc import Sequence
from html import escape

#: of the Okabe-Ito palette: told apart by the colour-blind, and in grey
PAID, SAVED, DEARER, QUIET = "#0072b2", "#009e73", "#d55e00", "#9aa5b1"
WIDTH, HEIGHT = 720, 160
LEFT, BOTTOM, TOP = 62, 24, 12


def bars(labels: Sequence[str], values: Sequence[int], shown: Sequence[str], tips: Sequence[str], title: str) -> str:
    """A bar for each label. `shown` are the values in words: the highest stands at the axis; `tips` at the pointer."""
    most = max([0, *values])
    step = (WIDTH - LEFT) / max(1, len(values))
    high = HEIGHT - TOP - BOTTOM
    parts = [_rule(TOP), _rule(HEIGHT - BOTTOM)]
    if most:
        parts.append(_text(LEFT - 6, TOP + 4, shown[values.index(most)], "end"))
    parts.append(_text(LEFT - 6, HEIGHT - BOTTOM + 4, "0", "end"))
    for place, (label, value, tip) in enumerate(zip(labels, values, tips, strict=True)):
        at = LEFT + place * step
        tall = max(0, value) * high / most if most else 0
        bar = _box(at + step * 0.12, HEIGHT - BOTTOM - tall, step * 0.76, tall, PAID)
        parts.append(f"<g><title>{escape(tip)}</title>{bar}</g>")
        parts.append(_text(at + step / 2, HEIGHT - 8, label, "middle"))
    return _svg(parts, HEIGHT, title)


def waterfall(steps: Sequence[tuple[str, int, str]], title: str) -> str:
    """A line for each step (label, micro-units, in words): the first and the last whole, those between as changes."""
    line, label_width, words_width = 30, 150, 120
    low, high, level = 0, 0, 0
    spans = []
    for place, (_, micros, _) in enumerate(steps):
        whole = place in (0, len(steps) - 1)
        start, level = (0, micros) if whole else (level, level + micros)
        low, high = min(low, start, level), max(high, start, level)
        spans.append((start, level, whole))
    scale = (WIDTH - label_width - words_width) / max(1, high - low)
    parts = []
    for place, ((label, micros, words), (start, end, whole)) in enumerate(zip(steps, spans, strict=True)):
        top = TOP + place * line
        left = label_width + (min(start, end) - low) * scale
        colour = (QUIET if place == 0 else PAID) if whole else (SAVED if micros <= 0 else DEARER)
        parts += [
            _text(label_width - 8, top + 15, label, "end"),
            _box(left, top + 3, max(1.0, abs(end - start) * scale), line - 12, colour),
            _text(left + abs(end - start) * scale + 6, top + 15, words, "start"),
        ]
    return _svg(parts, TOP + line * len(steps) + 4, title)


def _svg(parts: Sequence[str], height: int, title: str) -> str:
    name = escape(title)
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{name}" xmlns="http://www.w3.org/2000/svg">'
    return "".join([head, f"<title>{name}</title>", *parts, "</svg>"])


def _box(left: float, top: float, wide: float, tall: float, colour: str) -> str:
    return f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{tall:.1f}" rx="1.5" fill="{colour}"/>'


def _rule(top: float) -> str:
    return f'<line x1="{LEFT}" y1="{top}" x2="{WIDTH}" y2="{top}" class="rule"/>'


def _text(left: float, top: float, words: str, anchor: str) -> str:
    return f'<text x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
