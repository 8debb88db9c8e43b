"""An image as a browser can show it, and what was read of it as HTML over and beside it."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import cv2
import numpy as np

from inference import drawing, images
from inference.images import Pixels
from inference.refusals import Refusal
from inference.ui.refusals import told
from inference.ui.words import Language, refusal_key, said

SHOWN_SIDE = 1600  # pixels of the longest side
SMALL_SIDE = 720  # in the gallery
QUALITY = 82  # of a JPEG, where letters stay clean


def shown(content: bytes, *, max_bytes: int, max_pixels: int) -> bytes:
    """A JPEG of the image, turned as its EXIF tag says. Raises BadImage."""
    return _jpeg(_within(images.decode(content, max_bytes=max_bytes, max_pixels=max_pixels), SHOWN_SIDE))


def small(content: bytes, page: Mapping[str, Any], *, max_bytes: int, max_pixels: int) -> bytes:
    """A small JPEG of the image with a frame around each line. Raises BadImage."""
    canvas = _within(images.decode(content, max_bytes=max_bytes, max_pixels=max_pixels), SMALL_SIDE)
    ratio = canvas.shape[1] / page["width"]
    for line in page["lines"]:
        corners = np.rint(np.array(line["box"]) * ratio).astype(np.int32)
        cv2.polylines(canvas, [corners], isClosed=True, color=drawing.FRAME, thickness=1, lineType=cv2.LINE_AA)
    return _jpeg(canvas)


def html(page: Mapping[str, Any], jpeg: bytes, language: Language) -> str:
    """The picture with a frame for each line over it, the lines, the values."""
    head = said(
        language,
        "read_in",
        lines=len(page["lines"]),
        milliseconds=round(page["processing_time_ms"]),
        width=page["width"],
        height=page["height"],
        model=page["model"],
        precision=page["precision"],
    )
    alt = escape(said(language, "picture"))
    source = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
    return (
        f'<section class="halve-page"><p class="halve-head">{escape(head)}</p>'
        f'<div class="halve-picture"><img src="{source}" alt="{alt}">{_frames(page)}</div>'
        f'<div class="halve-found"><div>{_lines(page["lines"], language)}</div>'
        f"{_values(page['structured_data'], language)}</div>"
        "</section>"
    )


def refused(refusal: Refusal, language: Language) -> str:
    """One line."""
    word = _kind(refusal, language)
    why = told(refusal.reason, language)
    return f'<p class="halve-refused" role="alert"><strong>{escape(word)}</strong> {escape(why)}</p>'


def in_words(refusal: Refusal, language: Language) -> str:
    """Without markup: in Chinese the kind of refusal goes before, for what the replica says may be English."""
    why = told(refusal.reason, language)
    return why if language == "en" else f"{_kind(refusal, language)}（{why}）"


def note(text: str) -> str:
    return f'<p class="halve-note">{escape(text)}</p>'


def both(english: str, chinese: str, tag: str = "p") -> str:
    """Of which the style sheet shows the one in the page's language."""
    return f'<{tag} lang="en">{escape(english)}</{tag}><{tag} lang="zh-CN">{escape(chinese)}</{tag}>'


def waiting() -> str:
    """Where the text will stand."""
    words = both(said("en", "nothing_yet"), said("zh", "nothing_yet"))
    return f'<div class="halve-waiting">{words}</div>'


def progress(words: str, done: int, count: int) -> str:
    return (
        f'<p class="halve-head" role="status">{escape(words)}</p>'
        f'<progress value="{done}" max="{count}" aria-label="{escape(words)}"></progress>'
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are text. The last cell of a row that has fewer than there are heads takes the rest of it."""
    head = "".join(f'<th scope="col">{escape(one)}</th>' for one in heads)
    body = "".join(f"<tr>{_cells(row, len(heads))}</tr>" for row in rows)
    return (
        '<div class="halve-scroll" tabindex="0"><table class="halve-table">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Name and value, one below the other."""
    rows = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in pairs)
    return f'<table class="halve-table halve-facts"><tbody>{rows}</tbody></table>'


def _kind(refusal: Refusal, language: Language) -> str:
    return said(language, refusal_key(refusal.status), seconds=refusal.retry_after_seconds)


def _cells(row: Sequence[str], count: int) -> str:
    *first, last = row
    wide = f' colspan="{count - len(first)}"' if len(row) < count else ""
    return "".join(f"<td>{escape(cell)}</td>" for cell in first) + f"<td{wide}>{escape(last)}</td>"


def _frames(page: Mapping[str, Any]) -> str:
    frames = "".join(
        f'<polygon points="{" ".join(f"{x},{y}" for x, y in line["box"])}" {_place(number, line)}>'
        f"<title>{number} {escape(line['text'])}</title></polygon>"
        for number, line in enumerate(page["lines"], start=1)
    )
    size = f'viewBox="0 0 {page["width"]} {page["height"]}" preserveAspectRatio="none"'
    return f'<svg {size} aria-hidden="true">{frames}</svg>'


def _lines(lines: Sequence[Mapping[str, Any]], language: Language) -> str:
    head = f"<h3>{escape(said(language, 'text'))}</h3>"
    if not lines:
        return f"{head}{note(said(language, 'no_text'))}"
    copy, copied = escape(said(language, "copy")), escape(said(language, "copied"))
    items = "".join(
        f'<li tabindex="0" {_place(number, line)}><span class="halve-number">{number}</span>'
        f'<span class="halve-text">{escape(line["text"])}</span>'
        f'<span class="halve-score">{line["score"]:.0%}</span></li>'
        for number, line in enumerate(lines, start=1)
    )
    button = f'<button type="button" class="halve-copy" data-copied="{copied}">{copy}</button>'
    return f'<div class="halve-bar">{head}{button}</div><ol class="halve-lines">{items}</ol>'


def _place(number: int, line: Mapping[str, Any]) -> str:
    return f'data-line="{number}" data-score="{line["score"]}"'


def _values(values: Mapping[str, str | None], language: Language) -> str:
    if not values:
        return ""
    missing = said(language, "not_found")
    pairs = [(name, missing if value is None else value) for name, value in values.items()]
    return f'<div class="halve-values"><h3>{escape(said(language, "values"))}</h3>{facts(pairs)}</div>'


def _within(pixels: Pixels, side: int) -> Pixels:
    ratio = side / max(pixels.shape[:2])
    if ratio >= 1:
        return pixels
    size = max(1, round(pixels.shape[1] * ratio)), max(1, round(pixels.shape[0] * ratio))
    smaller: Pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return smaller


def _jpeg(pixels: Pixels) -> bytes:
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
