"""Parse the three formats of a case: two published ones and the project's tidy format, which is also the one written.

Published: ``rid``, ``messages`` (question and answer), ``images``, ``title``, ``certainty``, ``presentation``, ``age_label``,
``gender_label``, ``caption`` (findings in which ``<image>`` marks refer to the images, in order).

Published for evaluation: ``id``, ``img_name`` (a path or list of paths, relative to the folder that contains ``images/``), ``question``
(may contain image marks), ``answer``.

Written by the authors' search: ``rid``, ``question``, ``gt_answer``, ``images``. ``chiron build cot`` reads its reasoning and scores.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from chiron.cases.case import IMAGE_MARK, Case
from chiron.cases.choices import parse_literal
from chiron.terminal import printable

# Apply to stripped text only: leading blanks would make the match quadratic.
_QUESTION_MARK = re.compile(r"\A\**\s*question\s*:?\s*\**\s*:?\s*", re.IGNORECASE)
_ANSWER_MARK = re.compile(r"\A\**\s*(?:correct\s+)?answer\s*:?\s*\**\s*:?\s*", re.IGNORECASE)
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_IMAGE_MARKS = re.compile(r"<image>(?:\s*<image>)*\s*")
_PLACEHOLDERS = frozenset({"nan", "n/a", "#n/a", "<na>", "null", "undefined", "#value!", "#ref!"})
_NAMED_FIELDS = 12
LONG_TEXT = 50_000
"""Characters above which a text gets a warning."""
MAX_TEXT = 1_000_000
"""Maximum bytes of UTF-8. A longer text belongs to more than one case."""
NO_QUESTION = (
    "it has no question and no answer: make questions with 'chiron build questions', or check it as it is with"
    " 'chiron cases check --unlabeled'"
)
_IMPORT = "'chiron cases import' takes other names, and --map FIELD=NAME says which is which"
_NO_IMAGES = "no images: field 'images' must be a list of at least one path"
_TIDY = ("id", "question", "answer", "images", "history", "findings", "age", "sex", "title", "modality", "body_system")
_PUBLISHED = ("rid", "messages", "images", "title", "presentation", "age_label", "gender_label", "caption")


class CaseProblem(ValueError):
    """A record is not a case; the message names the field, what is wrong with it and how to fix it."""


def parse_case(record: object, *, unlabeled: bool = False) -> Case:
    """Parse one record in any supported format.

    Args:
        record: decoded JSON value.
        unlabeled: also accept a record without question and answer, or without images.

    Raises:
        CaseProblem: a field is missing, empty or of the wrong type.
    """
    if not isinstance(record, Mapping):
        raise CaseProblem(f"a case is a JSON object, but this is {_kind(record)}")
    case = _read_form(record)
    _check_images(case, record, unlabeled=unlabeled)
    if not case.question and not case.answer:
        if unlabeled:
            return case
        raise CaseProblem(NO_QUESTION)
    for name, text, role in (("question", case.question, "user"), ("answer", case.answer, "assistant")):
        if not text and "messages" in record:
            raise CaseProblem(f"no {name}: 'messages' needs an entry of role '{role}' with text")
        if not text:
            raise CaseProblem(f"no {name}: field '{name}' is missing, empty, or a placeholder such as nan or N/A")
        if is_written_list(text):
            raise CaseProblem(f"field '{name}' is a list written as text: give one {name}")
    return case


def _read_form(record: Mapping[str, Any]) -> Case:
    if "img_name" in record and "images" not in record:
        record = _with_images(record)
    if "gt_answer" in record and "messages" not in record:
        record = {
            "id": record.get("rid"),
            "question": record.get("question"),
            "answer": record["gt_answer"],
            "images": record.get("images"),
        }
    if not {"id", "rid"} & set(record):
        raise CaseProblem(f"it has {fields_of(record)}; a case needs 'id', 'images', 'question' and 'answer': {_IMPORT}")
    return _parse_published(record) if "rid" in record or "messages" in record else _parse_tidy(record)


def _check_images(case: Case, record: Mapping[str, Any], *, unlabeled: bool) -> None:
    if not case.images and not unlabeled:
        known = {"images", "img_name"} & set(record)
        raise CaseProblem(_NO_IMAGES if known else f"it has {fields_of(record)}; a case needs 'images': {_IMPORT}")
    marks = case.question.count(IMAGE_MARK)
    if case.images and marks > len(case.images):
        raise CaseProblem(f"the question marks {marks} images and the case has {len(case.images)}: add the missing ones to 'images'")


def _with_images(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert an evaluation record: image paths relative to the image folder, answer without emphasis."""
    named, answer = record["img_name"], record.get("answer")
    names = [named] if isinstance(named, str) else named
    if isinstance(names, list):
        names = [name.removeprefix("./").removeprefix("images/") if isinstance(name, str) else name for name in names]
    kept = {key: value for key, value in record.items() if key != "img_name"}
    return {**kept, "images": names, "answer": answer.strip("* ") if isinstance(answer, str) else answer}


def fields_of(record: Mapping[str, Any]) -> str:
    """List a record's fields for an error message: ``'image', 'conversations'``."""
    names = [f"'{printable(str(name))[:40]}'" for name in record]
    return (
        ", ".join(names[:_NAMED_FIELDS]) + (f" and {len(names) - _NAMED_FIELDS} more fields" if len(names) > _NAMED_FIELDS else "")
        or "no field"
    )


def is_placeholder(text: str) -> bool:
    """Return whether a text is a placeholder that programs write for a missing value."""
    return text.strip().casefold() in _PLACEHOLDERS


def is_written_list(text: str) -> bool:
    """Return whether a text is a list in Python or JSON syntax, and not prose in brackets."""
    return text.startswith("[") and text.endswith("]") and isinstance(parse_literal(text), list)


def case_id(record: object) -> str | None:
    """Return the id of a record that may otherwise be invalid."""
    if not isinstance(record, Mapping):
        return None
    value = record.get("id", record.get("rid"))
    return _sound(str(value)) if isinstance(value, str | int) and str(value).strip() else None


def _parse_tidy(record: Mapping[str, Any]) -> Case:
    return Case(
        id=_id(record, "id"),
        question=_text(record, "question"),
        answer=_text(record, "answer"),
        images=_images(record),
        history=_text(record, "history"),
        findings=_texts(record, "findings"),
        age=_optional(record, "age"),
        sex=_optional(record, "sex"),
        title=_optional(record, "title"),
        modality=_optional(record, "modality"),
        body_system=_optional(record, "body_system"),
        meta=_rest(record, _TIDY),
    )


def _parse_published(record: Mapping[str, Any]) -> Case:
    question, answer = _dialogue(record)
    return Case(
        id=_id(record, "rid"),
        question=question,
        answer=answer,
        images=_images(record),
        history=_text(record, "presentation"),
        findings=tuple(_number_images(_texts(record, "caption"))),
        age=_optional(record, "age_label"),
        sex=_optional(record, "gender_label"),
        title=_optional(record, "title"),
        meta=_rest(record, _PUBLISHED),
    )


def _dialogue(record: Mapping[str, Any]) -> tuple[str, str]:
    messages = record.get("messages")
    if not isinstance(messages, list) or not all(isinstance(m, Mapping) for m in messages):
        raise CaseProblem("field 'messages' must be a list of {role, content} objects: a user's question, an assistant's answer")
    turns_by_role: dict[str, str] = {}
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if isinstance(role, str) and isinstance(content, str):
            turns_by_role.setdefault(role, content)
    question = _clean(_QUESTION_MARK.sub("", turns_by_role.get("user", "").strip()))
    return question, _clean(_ANSWER_MARK.sub("", turns_by_role.get("assistant", "").strip()))


def _number_images(captions: tuple[str, ...]) -> list[str]:
    """Number each ``<image>`` mark: "According to the <image>, no fracture" becomes "According to image 1, no fracture"."""
    count = 0

    def name(match: re.Match[str]) -> str:
        nonlocal count
        first = count + 1
        count += match.group().count("<image>")
        return " and ".join(f"image {n}" for n in range(first, count + 1)) + " "

    return [_tidy_spaces(_IMAGE_MARKS.sub(name, caption)) for caption in captions]


def _tidy_spaces(text: str) -> str:
    return re.sub(r"\b(image \d+) +(?=[,.;:)]|$)", r"\1", text.replace("the image ", "image ")).strip()


def image_marks(findings: tuple[str, ...]) -> int:
    """Return the highest ``image n`` that the findings refer to."""
    return max((int(n) for text in findings for n in re.findall(r"\bimage (\d{1,3})\b", text)), default=0)


def _id(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise CaseProblem(f"field '{name}' must be a non-empty string: every case needs an id")
    text = _sound(str(value)).strip()
    if len(text) > 200 or text != printable(text):
        raise CaseProblem(f"field '{name}' must be at most 200 printable characters")
    return text


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if value is None:
        value = ""
    if not isinstance(value, str):
        raise CaseProblem(f"field '{name}' must be text, but is {_kind(value)}")
    if len(value) * 4 > MAX_TEXT and (size := len(value.encode("utf-8", "replace"))) > MAX_TEXT:
        raise CaseProblem(f"field '{name}' has {size:,} bytes, more than {MAX_TEXT:,}: shorten it to what belongs to the case")
    return "" if is_placeholder(value) else _clean(value)


def _optional(record: Mapping[str, Any], name: str) -> str | None:
    value = record.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    return _text({name: value}, name) or None


def _texts(record: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = record.get(name)
    if value is None:
        return ()
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise CaseProblem(f"field '{name}' must be a list of texts, but is {_kind(value)}")
    return tuple(text for v in value if (text := _text({name: v}, name)))


def _images(record: Mapping[str, Any]) -> tuple[str, ...]:
    value = record.get("images")
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | None):
        raise CaseProblem(_NO_IMAGES)
    if not value:
        return ()
    if not all(isinstance(v, str) and v.strip() for v in value):
        raise CaseProblem("field 'images' must be a list of paths that are not empty")
    return tuple(_sound(name) for name in value)


def _rest(record: Mapping[str, Any], known: tuple[str, ...]) -> Mapping[str, Any]:
    return MappingProxyType({k: v for k, v in record.items() if k not in known})


def _clean(text: str) -> str:
    """Replace HTML line breaks and no-break spaces, which are common in the published data, with plain ones."""
    return _BREAK.sub("\n", _sound(text)).replace("\xa0", " ").strip()


def _sound(text: str) -> str:
    """Replace lone surrogates, which JSON may contain but which cannot be encoded as UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
