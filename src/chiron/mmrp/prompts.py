"""What author and reader are told: text files in this package, or the user's own in their place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from chiron.cases.case import Case
from chiron.cases.choices import lettered
from chiron.conversation.thinking import escape_markup
from chiron.errors import InputError
from chiron.mics.prompts import patient
from chiron.models.call import Message, Picture, Text
from chiron.models.prompt_texts import PromptKind, fill, hashes
from chiron.models.sections import section

_CASE = frozenset({"history", "findings"})
_KIND = PromptKind(
    "chiron.mmrp",
    {
        "author_system": frozenset(),
        "text": _CASE | {"count", "title", "answer"},
        "question": _CASE | {"manner", "title", "answer"},
        "manner_doctor": frozenset(),
        "manner_student": frozenset(),
        "manner_patient": frozenset(),
        "reader_system": frozenset(),
        "reader": _CASE | {"question", "options"},
        "reader_blind": frozenset({"question", "options"}),
        "reader_all": _CASE | {"question", "options"},
        "reader_question": _CASE | {"question", "answer"},
        "describe": frozenset(),
    },
    optional=_CASE | {"count", "title"},
)
NAMES = tuple(_KIND.placeholders)
"""Every prompt that a configuration may replace."""
UNKNOWN = "None given."


@dataclass(frozen=True)
class BuildPrompts:
    """The texts of one build."""

    texts: Mapping[str, str]
    """By name, all of :data:`NAMES`."""

    @classmethod
    def load(cls, replacements: Mapping[str, Path] | None = None) -> Self:
        """The package's prompts, with the user's own files in place of some.

        Raises:
            InputError: an unknown name, a file that cannot be read, or one that lacks a placeholder.
        """
        prompts = cls(_KIND.load(replacements))
        if not prompts.requests:
            raise InputError("prompt 'describe' holds no request: write one a line")
        return prompts

    def hashes(self, *names: str) -> dict[str, str]:
        """SHA-256 (hex) of these texts, or of all."""
        return hashes({name: self.texts[name] for name in names or self.texts})

    @property
    def requests(self) -> tuple[str, ...]:
        """Ways to ask for a description, one a line."""
        return tuple(line.strip() for line in self.texts["describe"].splitlines() if line.strip())

    def author(self, case: Case, count: int) -> tuple[Message, ...]:
        """For so many multiple-choice questions on a case's text."""
        return self._messages("author_system", self._fill("text", count=str(count), **_told(case), **_known(case)))

    def question(self, case: Case, manner: str, pictures: tuple[Picture, ...]) -> tuple[Message, ...]:
        """For a question and its answer, in a manner."""
        how = self.texts[f"manner_{manner}"].strip()
        return self._messages(
            "author_system", self._fill("question", manner=section("manner", how), **_told(case), **_known(case)), pictures
        )

    def reader(self, case: Case, question: str, options: Sequence[str]) -> tuple[Message, ...]:
        """For the right option, given the case."""
        return self._messages("reader_system", self._fill("reader", **_told(case), **_asked(question, options)))

    def reader_blind(self, question: str, options: Sequence[str]) -> tuple[Message, ...]:
        """For the right option, without the case."""
        return self._messages("reader_system", self._fill("reader_blind", **_asked(question, options)))

    def reader_all(self, case: Case, question: str, options: Sequence[str]) -> tuple[Message, ...]:
        """For every option that is right, given the case."""
        return self._messages("reader_system", self._fill("reader_all", **_told(case), **_asked(question, options)))

    def reader_question(self, case: Case, question: str, answer: str, pictures: tuple[Picture, ...]) -> tuple[Message, ...]:
        """For whether an answer to a question follows from the case. What ends thinking is escaped, as in the search's judge."""
        shown = {"question": section("question", escape_markup(question)), "answer": section("answer", escape_markup(answer))}
        body = self._fill("reader_question", **_told(case), **shown)
        return self._messages("reader_system", body, pictures)

    def _messages(self, system: str, body: str, pictures: tuple[Picture, ...] = ()) -> tuple[Message, ...]:
        told = self.texts[system].strip()
        before = (Message("system", (Text(told),)),) if told else ()
        return (*before, Message("user", (*pictures, Text(body))))

    def _fill(self, name: str, **values: str) -> str:
        return fill(self.texts[name], **values)


def _told(case: Case) -> dict[str, str]:
    return {"history": section("history", patient(case)), "findings": section("findings", "\n".join(case.findings) or UNKNOWN)}


def _known(case: Case) -> dict[str, str]:
    return {"title": section("title", case.title or UNKNOWN), "answer": section("answer", case.answer or UNKNOWN)}


def _asked(question: str, options: Sequence[str]) -> dict[str, str]:
    return {"question": section("question", question), "options": section("options", lettered(options))}
