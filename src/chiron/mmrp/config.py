"""Configuration of a build, and the prompts of the author and reader models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from chiron.cases.case import Case
from chiron.cases.choices import lettered
from chiron.client.call import ImagePart, Message
from chiron.client.config import Strict
from chiron.client.prompts import PromptSet, section, user_message
from chiron.conversation.markup import escape_markup
from chiron.errors import InputError
from chiron.jobs.config import JobFile, JobSection, Temperature
from chiron.mics.prompts import patient

Persona = Literal["doctor", "student", "patient"]
"""Who asks whom: doctor to doctor, student to teacher, patient to doctor."""
PERSONAS: tuple[Persona, ...] = ("doctor", "student", "patient")
Share = Annotated[float, Field(ge=0, le=1)]


class BuildTokens(Strict):
    """Maximum number of tokens of a reply, by role. A model's own ``max_tokens`` takes precedence."""

    author: PositiveInt = 2048
    reader: PositiveInt = 512


class BuildConfig(JobSection):
    """The ``build`` section: models, thresholds and prompts."""

    role_keys: ClassVar[tuple[str, ...]] = ("author", "reader")
    author: str
    """Model that writes questions."""
    reader: str | None = None
    """Model that answers them, with and without the case; required by ``chiron build text``."""
    questions_per_case: Annotated[int, Field(ge=1, le=10)] = 1
    """Number of multiple-choice questions per case; ``chiron build questions`` writes one per persona."""
    personas: Annotated[tuple[Persona, ...], Field(min_length=1)] = PERSONAS
    """Personas used by ``chiron build questions``."""
    samples: PositiveInt = 2
    """Number of reader answers per question with the case."""
    samples_threshold: Share = 0.5
    """A question is kept if more than this share of these answers are right."""
    blind_samples: NonNegativeInt = 4
    """Number of reader answers without the case; 0 disables them."""
    blind_threshold: Share = 0.5
    """A question is dropped if more than this share of the blind answers are right; guessing among four options gives 0.25."""
    read_questions: bool = False
    """Whether the reader checks the questions of ``chiron build questions``."""
    show_images: bool = False
    """Whether author and reader of ``chiron build questions`` see the images; required for cases without findings."""
    author_temperature: Temperature = 0.7
    reader_temperature: Temperature = 0.7
    max_tokens: BuildTokens = BuildTokens()
    cases_in_flight: PositiveInt | None = None
    """Default: 256, or 2000 if a model is asked through batches."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.personas)) < len(self.personas):
            raise ValueError("personas contains a persona twice: name each once")
        if self.read_questions and self.reader is None:
            raise ValueError("read_questions needs a reader: name a model with reader")
        return self


class BuildFile(JobFile):
    section: ClassVar[str] = "build"
    build: BuildConfig


def load_build(path: Path | str, **overrides: Any) -> BuildFile:
    """Read and validate a configuration file; ``overrides`` replace keys of ``build``.

    Raises:
        InputError: the file is invalid; the message names the location and the nearest known key.
    """
    return BuildFile.read(path, **overrides)


_CASE = frozenset({"history", "findings"})
UNKNOWN = "None given."


@dataclass(frozen=True)
class BuildPrompts(PromptSet):
    package: ClassVar[str] = "chiron.mmrp"
    placeholders: ClassVar[Mapping[str, frozenset[str]]] = {
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
    }
    optional: ClassVar[frozenset[str]] = _CASE | {"count", "title"}

    @classmethod
    def load(cls, replacements: Mapping[str, Path | str] | None = None) -> Self:
        """Load the prompts; the prompt ``describe`` must contain a request."""
        prompts = super().load(replacements)
        if not prompts.requests:
            raise InputError("prompt 'describe' contains no request: write one request per line")
        return prompts

    @property
    def requests(self) -> tuple[str, ...]:
        """Requests for a description, one per line of the prompt."""
        return tuple(line.strip() for line in self.texts["describe"].splitlines() if line.strip())

    def author(self, case: Case, count: int) -> tuple[Message, ...]:
        """Ask the author for ``count`` multiple-choice questions about a case's text."""
        return self._messages("author_system", self.fill("text", count=str(count), **_shown(case), **_known(case)))

    def question(self, case: Case, persona: str, pictures: tuple[ImagePart, ...]) -> tuple[Message, ...]:
        """Ask the author for a question and its answer, as a persona."""
        manner = section("manner", self.texts[f"manner_{persona}"].strip())
        return self._messages("author_system", self.fill("question", manner=manner, **_shown(case), **_known(case)), pictures)

    def reader(self, case: Case, question: str, options: Sequence[str]) -> tuple[Message, ...]:
        """Ask the reader for the right option, with the case."""
        return self._messages("reader_system", self.fill("reader", **_shown(case), **_asked(question, options)))

    def reader_blind(self, question: str, options: Sequence[str]) -> tuple[Message, ...]:
        """Ask the reader for the right option, without the case."""
        return self._messages("reader_system", self.fill("reader_blind", **_asked(question, options)))

    def reader_all(self, case: Case, question: str, options: Sequence[str]) -> tuple[Message, ...]:
        """Ask the reader for every right option, with the case."""
        return self._messages("reader_system", self.fill("reader_all", **_shown(case), **_asked(question, options)))

    def reader_question(self, case: Case, question: str, answer: str, pictures: tuple[ImagePart, ...]) -> tuple[Message, ...]:
        """Ask the reader whether an answer follows from the case. Thinking tags are escaped, as in the search's judge prompt."""
        shown = {"question": section("question", escape_markup(question)), "answer": section("answer", escape_markup(answer))}
        body = self.fill("reader_question", **_shown(case), **shown)
        return self._messages("reader_system", body, pictures)

    def _messages(self, system: str, body: str, pictures: tuple[ImagePart, ...] = ()) -> tuple[Message, ...]:
        return self.with_system(system, user_message(body, pictures))


def _shown(case: Case) -> dict[str, str]:
    return {"history": section("history", patient(case)), "findings": section("findings", "\n".join(case.findings) or UNKNOWN)}


def _known(case: Case) -> dict[str, str]:
    return {"title": section("title", case.title or UNKNOWN), "answer": section("answer", case.answer or UNKNOWN)}


def _asked(question: str, options: Sequence[str]) -> dict[str, str]:
    return {"question": section("question", question), "options": section("options", lettered(options))}
