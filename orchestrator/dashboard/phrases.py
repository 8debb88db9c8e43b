"""English sentences that somebody else wrote, known by their pattern, and their Chinese."""

import re
from collections.abc import Mapping


class Phrases:
    """Patterns with {names} for what varies, and the same in Chinese; a {key} is one word. The one that says most is
    tried first.
    """

    def __init__(self, chinese: Mapping[str, str]) -> None:
        # a pattern that begins with anybody's name may take another sentence for its own
        ordered = sorted(chinese, key=lambda one: ("{name}" in one[:6], -len(re.sub(r"{\w+}", "", one))))
        self._known = [(_pattern(english), chinese[english]) for english in ordered]

    def find(self, text: str) -> tuple[str, dict[str, str]] | None:
        """The Chinese of a sentence and what is to be put into it; None where nobody has translated it."""
        for pattern, chinese in self._known:
            if found := pattern.fullmatch(text):
                return chinese, found.groupdict()
        return None


def _pattern(english: str) -> re.Pattern[str]:
    pieces = re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+?)", re.escape(english))
    return re.compile(pieces.replace("(?P<key>.+?)", r"(?P<key>\w+)"), re.DOTALL)
