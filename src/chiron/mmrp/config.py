"""Configuration of a build, and the prompts of the author and reader models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from chiron.cases.case import Case
from chiron.cases.choices import lettered
from chiron.client.call import ImagePart, Message, TextPart
from chiron.client.config import ProviderConfig, Strict
from chiron.client.config_file import ConfigFile, check_section, read_config
from chiron.client.prompts import PromptKind, fill, hashes, section
from chiron.conversation.markup import escape_markup
from chiron.errors import InputError
from chiron.mics.prompts import patient

Manner = Literal["doctor", "student", "patient"]
"""Who asks whom: doctor to doctor, student to teacher, patient to doctor."""
MANNERS: tuple[Manner, ...] = ("doctor", "student", "patient")
Temperature = Annotated[float, Field(ge=0, le=2)]
Share = Annotated[float, Field(ge=0, le=1)]


class TokenLimits(Strict):
    """Maximum number of tokens of a reply, by role. A model's own ``max_tokens`` takes precedence."""

    author: PositiveInt = 2048
    reader: PositiveInt = 512


class BuildConfig(Strict):
    """The ``build`` section: models, thresholds and prompts."""

    author: str
    """Model that writes questions."""
    reader: str | None = None
    """Model that answers them, with and without the case; required by ``chiron build text``."""
    questions_per_case: Annotated[int, Field(ge=1, le=10)] = 1
    """Number of multiple-choice questions per case; ``chiron build questions`` writes one per persona."""
    personas: Annotated[tuple[Manner, ...], Field(min_length=1)] = MANNERS
    """Personas used by ``chiron build questions``."""
    tries: PositiveInt = 2
    """Number of reader answers per question with the case."""
    tries_threshold: Share = 0.5
    """A question is kept if more than this share of these answers are right."""
    blind_tries: NonNegativeInt = 4
    """Number of reader answers without the case; 0 disables them."""
    blind_threshold: Share = 0.5
    """A question is dropped if more than this share of the blind answers are right; guessing among four options gives 0.25."""
    read_questions: bool = False
    """Whether the reader checks the questions of ``chiron build questions``."""
    show_images: bool = False
    """Whether author and reader of ``chiron build questions`` see the images; required for cases without findings."""
    author_temperature: Temperature = 0.7
    reader_temperature: Temperature = 0.7
    seed: int = 0
    """Seed of the order of options and the wording of requests."""
    image_side: Annotated[int, Field(ge=28)] = 1536
    """Longest side, in pixels, of the images sent to models."""
    max_tokens: TokenLimits = TokenLimits()
    prompts: dict[str, str] = Field(default_factory=dict)
    """Files that replace prompts, by name; relative to the configuration file."""
    budget_usd: PositiveFloat | None = None
    cases_in_flight: PositiveInt = 256

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.personas)) < len(self.personas):
            raise ValueError("personas names one of them twice")
        if self.read_questions and self.reader is None:
            raise ValueError("read_questions needs a reader")
        return self


class BuildFile(ConfigFile):
    """A configuration file with a ``build`` section."""

    build: BuildConfig

    @model_validator(mode="after")
    def _known_and_priced(self) -> Self:
        self.need_known([(f"build.{role}", name) for role, name in self.named()])
        if self.build.budget_usd is not None:
            self.need_prices(self.build_models())
        return self

    def named(self) -> list[tuple[str, str]]:
        """Return (role, model name) of author and reader."""
        reader = [("reader", self.build.reader)] if self.build.reader is not None else []
        return [("author", self.build.author), *reader]

    def build_models(self) -> dict[str, ProviderConfig]:
        """Return the models of the build."""
        return {name: self.models[name] for _, name in self.named()}


def load_build(path: Path | str, **overrides: Any) -> BuildFile:
    """Read and validate a configuration file; ``overrides`` replace keys of ``build``.

    Raises:
        InputError: the file is invalid; the message names the location and the nearest known key.
    """
    return check_build(read_config(path), origin=Path(path), **overrides)


def check_build(data: dict[str, Any], *, origin: Path, **overrides: Any) -> BuildFile:
    """Validate the contents of a configuration file.

    Raises:
        InputError: as :func:`load_build`.
    """
    return check_section(BuildFile, data, "build", origin=origin, **overrides)


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
"""Prompts that a configuration may replace."""
UNKNOWN = "None given."


@dataclass(frozen=True)
class BuildPrompts:
    """The prompt texts of one build."""

    texts: Mapping[str, str]
    """Texts by name; all of :data:`NAMES`."""

    @classmethod
    def load(cls, replacements: Mapping[str, Path] | None = None) -> Self:
        """Load the package's prompts; ``replacements`` names files that replace some of them.

        Raises:
            InputError: a name is unknown, a file cannot be read, or a placeholder is missing.
        """
        prompts = cls(_KIND.load(replacements))
        if not prompts.requests:
            raise InputError("prompt 'describe' holds no request: write one a line")
        return prompts

    def hashes(self, *names: str) -> dict[str, str]:
        """Return the SHA-256 (hex) of the named texts, or of all."""
        return hashes({name: self.texts[name] for name in names or self.texts})

    @property
    def requests(self) -> tuple[str, ...]:
        """Requests for a description, one per line of the prompt."""
        return tuple(line.strip() for line in self.texts["describe"].splitlines() if line.strip())

    def author(self, case: Case, count: int) -> tuple[Message, ...]:
        """Ask the author for ``count`` multiple-choice questions about a case's text."""
        return self._messages("author_system", self._fill("text", count=str(count), **_told(case), **_known(case)))

    def question(self, case: Case, manner: str, pictures: tuple[ImagePart, ...]) -> tuple[Message, ...]:
        """Ask the author for a question and its answer, as a persona."""
        how = self.texts[f"manner_{manner}"].strip()
        return self._messages(
            "author_system", self._fill("question", manner=section("manner", how), **_told(case), **_known(case)), pictures
        )

    def reader(self, case: Case, question: str, options: Sequence[str]) -> tuple[Message, ...]:
        """Ask the reader for the right option, with the case."""
        return self._messages("reader_system", self._fill("reader", **_told(case), **_asked(question, options)))

    def reader_blind(self, question: str, options: Sequence[str]) -> tuple[Message, ...]:
        """Ask the reader for the right option, without the case."""
        return self._messages("reader_system", self._fill("reader_blind", **_asked(question, options)))

    def reader_all(self, case: Case, question: str, options: Sequence[str]) -> tuple[Message, ...]:
        """Ask the reader for every right option, with the case."""
        return self._messages("reader_system", self._fill("reader_all", **_told(case), **_asked(question, options)))

    def reader_question(self, case: Case, question: str, answer: str, pictures: tuple[ImagePart, ...]) -> tuple[Message, ...]:
        """Ask the reader whether an answer follows from the case. Thinking tags are escaped, as in the search's judge prompt."""
        shown = {"question": section("question", escape_markup(question)), "answer": section("answer", escape_markup(answer))}
        body = self._fill("reader_question", **_told(case), **shown)
        return self._messages("reader_system", body, pictures)

    def _messages(self, system: str, body: str, pictures: tuple[ImagePart, ...] = ()) -> tuple[Message, ...]:
        told = self.texts[system].strip()
        before = (Message("system", (TextPart(told),)),) if told else ()
        return (*before, Message("user", (*pictures, TextPart(body))))

    def _fill(self, name: str, **values: str) -> str:
        return fill(self.texts[name], **values)


def _told(case: Case) -> dict[str, str]:
    return {"history": section("history", patient(case)), "findings": section("findings", "\n".join(case.findings) or UNKNOWN)}


def _known(case: Case) -> dict[str, str]:
    return {"title": section("title", case.title or UNKNOWN), "answer": section("answer", case.answer or UNKNOWN)}


def _asked(question: str, options: Sequence[str]) -> dict[str, str]:
    return {"question": section("question", question), "options": section("options", lettered(options))}
