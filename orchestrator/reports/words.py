"""What a report says, in English and in Chinese. English templates are the keys, as gettext has it."""

from dataclasses import dataclass

from orchestrator.reports.chinese import CHINESE

LANGUAGES = ("en", "zh")
#: what is put into a template and is a word of ours itself; all else is somebody's name or a figure, and stays as it is
OUR_WORDS = frozenset({"basis", "hours", "period", "state", "step", "terms"})


class Said(str):
    """A sentence in English that remembers its template and values, so that it can be said in another language."""

    template: str
    values: dict[str, object]

    def __new__(cls, template: str, **values: object) -> "Said":
        said = super().__new__(cls, template.format(**values))
        said.template, said.values = template, values
        return said


@dataclass(frozen=True, slots=True)
class Words:
    """Says templates and Saids in a language. What has no translation stays English."""

    language: str = "en"

    def __call__(self, template: str, **values: object) -> str:
        if isinstance(template, Said):
            return self(template.template, **template.values)
        if self.language != "zh":
            return template.format(**values)
        said = {name: CHINESE.get(str(value), value) if name in OUR_WORDS else value for name, value in values.items()}
        return CHINESE.get(template, template).format(**said)
