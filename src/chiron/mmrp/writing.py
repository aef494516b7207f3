"""What an author writes, read strictly: multiple-choice questions, and questions with an answer."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from chiron.conversation.reasoning import parse_reasoning
from chiron.mmrp.structured import BrokenReply, one_line, read_json
from chiron.models.offline.matching import normalise

OPTIONS = 4
_LETTER = re.compile(r"\s*[(\[]?([A-Da-d])[)\].:]\s*")

Line = Annotated[str, Field(min_length=1, max_length=1200)]


class Choice(BaseModel):
    """A multiple-choice question as its author wrote it, the right option not yet found."""

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
        # Letters only where every option has its own: "A. fumigatus" begins with one too.
        letters = [match[1].upper() if (match := _LETTER.match(line)) else "" for line in lines]
        return [_LETTER.sub("", line, count=1) for line in lines] if letters == list("ABCDEFGHIJ"[: len(lines)]) else lines

    @field_validator("reasoning", mode="before")
    @classmethod
    def _steps(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = list(parse_reasoning(value).steps) or [line for line in value.splitlines() if line.strip()]
        if not isinstance(value, list) or not all(isinstance(step, str) for step in value):
            return value
        # A step's own mark, or one inside it, would make two of one.
        steps = [" ".join(parsed) if (parsed := parse_reasoning(step).steps) else step for step in value]
        return [line for step in steps if (line := one_line(step.replace("###", " ")))]

    def right(self) -> int:
        """Index of the right option.

        Raises:
            BrokenReply: the answer is none of them.
        """
        plain = [normalise(option) for option in self.options]
        if (named := normalise(self.answer)) in plain:
            index = plain.index(named)
            if len(named) == 1 and named in "abcd"[: len(plain)] and "abcd".index(named) != index:
                raise BrokenReply("the answer is the letter of one option and the text of another")
            return index
        without = _LETTER.match(self.answer + ".") if len(self.answer) <= 2 else _LETTER.match(self.answer)
        if without is not None:
            index = "ABCD".index(without[1].upper())
            rest = normalise(self.answer[without.end() :])
            if index < len(plain) and rest in {"", plain[index]}:
                return index
        raise BrokenReply("the answer is none of the options")


class Asked(BaseModel):
    """A question and its answer."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that an author wrote and that cannot be used."""

    reason: str
    detail: str
    text: str = ""


def read_choices(reply: str, count: int) -> list[Choice | Refused]:
    """The multiple-choice questions of a reply, at most ``count``; each that is not as agreed comes as a :class:`Refused`.

    Raises:
        BrokenReply: there is nothing to read.
    """
    value = read_json(reply)
    listed = value.get("questions", [value]) if isinstance(value, dict) else value
    if not isinstance(listed, list) or not listed:
        raise BrokenReply("no list of questions in the reply")
    return [_choice(item) for item in listed[:count]]


def read_asked(reply: str) -> Asked:
    """The question and answer of a reply.

    Raises:
        BrokenReply: there is none.
    """
    value = read_json(reply)
    if isinstance(value, list):
        value = value[0]
    try:
        return Asked.model_validate(value)
    except ValidationError as error:
        raise BrokenReply(_first(error)) from None


def _choice(item: Any) -> Choice | Refused:
    try:
        choice = Choice.model_validate(item)
    except ValidationError as error:
        return Refused("broken reply", _first(error), _question(item))
    if len(choice.options) != OPTIONS:
        return Refused("not four options", f"{len(choice.options)} options", choice.question)
    if len({normalise(option) for option in choice.options}) < OPTIONS:
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
