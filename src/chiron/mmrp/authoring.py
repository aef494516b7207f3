"""Calls to the author and reader models, and strict parsers of their replies (JSON, questions, choices)."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from chiron.cases.reader import AnswerPool
from chiron.client.call import Call, Message, Reply, Role
from chiron.conversation.markup import split_thinking
from chiron.conversation.reasoning import parse_reasoning
from chiron.errors import InputError
from chiron.jobs.directory import WorkDirectory
from chiron.jobs.engine import engine_of
from chiron.jobs.job import units_in_flight
from chiron.jobs.roles import Roles, identity_of
from chiron.mmrp.config import BuildFile, BuildPrompts
from chiron.mmrp.part import BuildOptions, PartRun, origin, preparation_of
from chiron.mmrp.row import PartName
from chiron.text import normalize_answer


@dataclass(frozen=True)
class BuildRoles:
    """Author and reader models of a build, with their prompts."""

    config: BuildFile
    prompts: BuildPrompts
    roles: Roles

    @classmethod
    def of(cls, config: BuildFile, cases: Path, *, need_reader: bool, need_keys: bool = True) -> "BuildRoles":
        """Create the roles, and validate prompts, keys and embedded models before any call is paid for.

        Raises:
            InputError: one of them is missing, or a reader is needed but not configured.
        """
        if need_reader and config.build.reader is None:
            raise InputError("'chiron build text' needs build.reader: a model that answers every question with the case and without it")
        roles = Roles.of(config, answers=lambda: AnswerPool.of_cases(cases), need_keys=need_keys)
        return cls(config, BuildPrompts.load(config.build.prompts), roles)

    def fields(
        self, part: PartName, prepare: Callable[..., PartRun[Any]], cases: Path, out: Path, options: BuildOptions, **others: Any
    ) -> dict[str, Any]:
        """Return the fields of a build that asks these models. ``others``: options of ``prepare`` that are not in ``options``.

        Raises:
            InputError: the engine cannot be used.
        """
        images, limit, shard = options.get("images"), options.get("limit"), options.get("shard")
        arguments = {"cases": str(cases.absolute()), "limit": limit, "shard": shard, "images": images and str(images.absolute())}
        arguments |= {name: value for name, value in others.items() if value is not None}
        recorded = {"config": self.config.model_dump(mode="json"), "prompts": dict(self.prompts.texts)}
        return {
            "part": part,
            "directory": WorkDirectory(out),
            "about": {**origin(cases, images, limit, shard), **recorded},
            "endpoints": self.roles.endpoints,
            "budget_usd": self.config.build.budget_usd,
            "in_flight": units_in_flight(self.config.build.cases_in_flight, self.roles.endpoints),
            "engine": engine_of(options.get("engine", "local"), options.get("engine_options")),
            "again": preparation_of(part, prepare, self.config, arguments),
        }

    def call(self, role: Role, messages: tuple[Message, ...], *, sample_index: int = 0) -> Call:
        build = self.config.build
        temperature = build.author_temperature if role == "author" else build.reader_temperature
        return self.roles.one(role).call(role, messages, temperature, sample_index)

    def models(self) -> Mapping[str, str]:
        """Return the model identity by role, for the provenance of rows."""
        return {role: model.identity for role, (model,) in self.roles.by_role.items()}

    def identity(self) -> dict[str, Any]:
        """Return the settings that results depend on."""
        build = self.config.build
        return {
            **{role: identity_of(model) for role, (model,) in self.roles.by_role.items()},
            "temperatures": {"author": build.author_temperature, "reader": build.reader_temperature},
            "seed": build.seed,
            "prompts": self.prompts.hashes(),
        }


_OPENING: Final = re.compile(r"[{\[]")
_LONGEST: Final = 100_000
"""Maximum number of characters parsed in a reply."""
_TRIES: Final = 50
"""Maximum number of brackets tried as the start of JSON; prevents quadratic time on a reply full of brackets."""


class BrokenReply(ValueError):
    """Raised for a reply in the wrong format; the message says briefly what is wrong."""

    def refused(self, reply: Reply) -> "Refused":
        """Return why the reply is unusable."""
        return Refused("broken reply", f"{self}; the token limit ended it" if reply.cut_off else str(self))


def read_json(reply: str) -> Any:
    """Parse the first JSON object or list of a reply; skip thinking, greetings and code fences around it.

    Raises:
        BrokenReply: not found in the reply.
    """
    thinking = split_thinking(reply[:_LONGEST])
    # An unclosed thinking tag may be part of the JSON, or the model forgot to close it.
    text = reply[:_LONGEST] if thinking.unclosed and not thinking.endings else thinking.said
    decoder = json.JSONDecoder()
    problem = "no JSON in the reply"
    for number, opening in enumerate(_OPENING.finditer(text)):
        if number == _TRIES:
            break
        try:
            value, _ = decoder.raw_decode(text, opening.start())
        except (ValueError, RecursionError) as error:
            problem = f"broken JSON: {getattr(error, 'msg', 'nested too deeply')}" if number == 0 else problem
            continue
        if value and (isinstance(value, dict) or all(isinstance(item, dict) for item in value)):
            return value
    raise BrokenReply(problem)


def one_line(text: str) -> str:
    """Replace every run of white space by one blank."""
    return " ".join(text.split())


OPTIONS = 4
_LETTER = re.compile(r"\s*[(\[]?([A-Da-d])[)\].:]\s*")

Line = Annotated[str, Field(min_length=1, max_length=1200)]


class MultipleChoice(BaseModel):
    """A multiple-choice question as its author wrote it; :meth:`right` finds the right option."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    question: Line
    options: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=400)], ...], Field(min_length=1, max_length=26)]
    answer: Line
    reasoning: Annotated[tuple[Line, ...], Field(min_length=1, max_length=12)]

    @field_validator("question", "answer", mode="before")
    @classmethod
    def _on_one_line(cls, value: Any) -> Any:
        return one_line(value) if isinstance(value, str) else value

    @field_validator("options", mode="before")
    @classmethod
    def _a_list(cls, value: Any) -> Any:
        listed = list(value.values()) if isinstance(value, dict) else value
        if not isinstance(listed, list) or not all(isinstance(option, str) for option in listed):
            return value
        lines = [one_line(option) for option in listed]
        # Strip letters only if every option has its own: "A. fumigatus" also starts with one.
        letters = [match[1].upper() if (match := _LETTER.match(line)) else "" for line in lines]
        return [_LETTER.sub("", line, count=1) for line in lines] if letters == list("ABCDEFGHIJ"[: len(lines)]) else lines

    @field_validator("reasoning", mode="before")
    @classmethod
    def _steps(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = list(parse_reasoning(value).steps) or [line for line in value.splitlines() if line.strip()]
        if not isinstance(value, list) or not all(isinstance(step, str) for step in value):
            return value
        # A step header at the start of a step, or inside it, would split the step in two.
        steps = [" ".join(parsed) if (parsed := parse_reasoning(step).steps) else step for step in value]
        return [line for step in steps if (line := one_line(step.replace("###", " ")))]

    def right(self) -> int:
        """Return the index of the right option.

        Raises:
            BrokenReply: the answer is not one of the options.
        """
        plain = [normalize_answer(option) for option in self.options]
        if (named := normalize_answer(self.answer)) in plain:
            index = plain.index(named)
            if len(named) == 1 and named in "abcd"[: len(plain)] and "abcd".index(named) != index:
                raise BrokenReply("the answer is the letter of one option and the text of another")
            return index
        without = _LETTER.match(self.answer + ".") if len(self.answer) <= 2 else _LETTER.match(self.answer)
        if without is not None:
            index = "ABCD".index(without[1].upper())
            rest = normalize_answer(self.answer[without.end() :])
            if index < len(plain) and rest in {"", plain[index]}:
                return index
        raise BrokenReply("the answer is not one of the options")


class OpenQuestion(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Refused:
    """An item in an author's reply that is unusable, and why."""

    reason: str
    detail: str
    text: str = ""


def read_choices(reply: str, count: int) -> list[MultipleChoice | Refused]:
    """Parse at most ``count`` multiple-choice questions of a reply; an invalid one becomes a :class:`Refused`.

    Raises:
        BrokenReply: the reply is unreadable.
    """
    value = read_json(reply)
    listed = value.get("questions", [value]) if isinstance(value, dict) else value
    if not isinstance(listed, list) or not listed:
        raise BrokenReply("no list of questions in the reply")
    return [_choice(item) for item in listed[:count]]


def read_asked(reply: str) -> OpenQuestion:
    """Parse the question and answer of a reply.

    Raises:
        BrokenReply: not found in the reply.
    """
    value = read_json(reply)
    if isinstance(value, list):
        value = value[0]
    try:
        return OpenQuestion.model_validate(value)
    except ValidationError as error:
        raise BrokenReply(_first(error)) from None


def _choice(item: Any) -> MultipleChoice | Refused:
    try:
        choice = MultipleChoice.model_validate(item)
    except ValidationError as error:
        return Refused("broken reply", _first(error), _question(item))
    if len(choice.options) != OPTIONS:
        return Refused("not four options", f"{len(choice.options)} options", choice.question)
    if len({normalize_answer(option) for option in choice.options}) < OPTIONS:
        return Refused("not four options", "two of the options are the same", choice.question)
    try:
        choice.right()
    except BrokenReply as problem:
        return Refused("broken reply", str(problem), choice.question)
    return choice


def _question(item: Any) -> str:
    question = item.get("question") if isinstance(item, dict) else None
    return one_line(question)[:1200] if isinstance(question, str) else ""


def _first(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, fault["loc"]))
    return f"{place}: {fault['msg']}" if place else str(fault["msg"])
