"""What the dashboard says, in English and in Chinese: the words of the reports, and its own."""

from orchestrator.dashboard.chinese import CHINESE
from orchestrator.reports.chinese import CHINESE as REPORTED
from orchestrator.reports.words import LANGUAGES, OUR_WORDS, Said, Words

__all__ = ["LANGUAGES", "PageWords", "chosen", "spoken"]


class PageWords(Words):
    """Says templates as reports do. What has no translation stays English: reasons are written by the policies."""

    def __call__(self, template: str, **values: object) -> str:
        if self.language == "zh" and template in CHINESE and not isinstance(template, Said):
            said = {name: self.word(str(value)) if name in OUR_WORDS else value for name, value in values.items()}
            return CHINESE[template].format(**said)
        return super().__call__(template, **values)

    def word(self, word: str) -> str:
        """A word that somebody else wrote: what is none of ours stays as it is, braces and all."""
        return self(word) if word in CHINESE or word in REPORTED else word


def chosen(asked: str | None, kept: str | None, accepted: str) -> str:
    """The language of a page: what the address asks for, else what was chosen before, else what the browser prefers."""
    for said in (asked, kept):
        if said in LANGUAGES:
            return said
    first = accepted.strip().lower()[:2]
    return first if first in LANGUAGES else "en"


def spoken(word: str) -> str:
    """A word of the ledger for people: `on_demand` is on-demand."""
    return word.replace("_", "-")
