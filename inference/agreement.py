"""How far two readings of the same pages agree."""

import json
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Written = tuple[str, tuple[tuple[float, float], ...]]
"""A text and the corners around it, in pixels."""
Page = list[Written]


def agreement(reference: Sequence[Page], ours: Sequence[Page]) -> tuple[float, float]:
    """Of the reference's lines, and of its characters, the share found where it stands."""
    lines = equal = characters = found = 0
    for expected, page in zip(reference, ours, strict=True):
        for text, there in zip((text for text, _ in expected), _matched(expected, page), strict=True):
            lines += 1
            equal += text == there
            characters += len(text)
            blocks = SequenceMatcher(a=text, b=there, autojunk=False).get_matching_blocks()
            found += sum(block.size for block in blocks)
    return (equal / lines if lines else 1.0, found / characters if characters else 1.0)


def known_texts(folder: Path, paths: Sequence[Path]) -> list[Page]:
    """What `ground_truth.json` in the folder says stands on each image: nothing where it is absent or silent.

    {NAME: {"instances": [{"polygon": [x, y, ...], "text", "ignore"}]}}. Raises ValueError for another shape, OSError.
    """
    file = folder / "ground_truth.json"
    try:
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return [
            [
                (one["text"], tuple(zip(one["polygon"][::2], one["polygon"][1::2], strict=True)))
                for one in known.get(path.name, {}).get("instances", [])
                if one["text"] and not one.get("ignore")
            ]
            for path in paths
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: not of the shape that is known: {error}") from None


def _matched(expected: Page, page: Page) -> list[str]:
    """The text of the line that overlaps each expected one most, by at least half of the smaller; else nothing."""
    if not expected or not page:
        return [""] * len(expected)
    a, b = _bounds(expected)[:, None], _bounds(page)[None]
    shared = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(axis=-1)
    smaller = np.minimum(*((each[..., 2:] - each[..., :2]).prod(axis=-1) for each in (a, b)))
    overlap = shared / np.maximum(smaller, 1)
    return [page[i][0] if overlap[row, i] >= 0.5 else "" for row, i in enumerate(overlap.argmax(axis=1))]


def _bounds(page: Page) -> NDArray[np.float64]:
    """n x (left, top, right, bottom)."""
    corners = [np.array(box, np.float64) for _, box in page]
    return np.array([[*each.min(axis=0), *each.max(axis=0)] for each in corners])
