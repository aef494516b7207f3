"""Rows of MMRP, published or released: the part they belong to, their images, and how a model is asked."""

from collections.abc import Mapping
from typing import Any

from chiron.cases.case import IMAGE_MARK
from chiron.evaluation.benchmarks.benchmark import BadRecord, BenchmarkRecord
from chiron.evaluation.benchmarks.fields import read_options
from chiron.providers.local.dialogue import Turn

_OF_A_BUILD = {"messages", "provenance"}
"""Columns that only rows of a build have. Such files may contain training data, so they are not recognized by their columns."""


def belongs(part: str, raw: Mapping[str, Any]) -> bool:
    """Whether a row is of this part. Published rows do not record it; those with images have the column ``img_name``."""
    return bool(raw["part"] == part) if "part" in raw else "img_name" not in raw or part == "cot"


def is_published(part: str, raw: Mapping[str, Any]) -> bool:
    """Whether a row has the columns of this part's published rows: question, answer, and ``img_name`` if it is about images."""
    pictured = "img_name" in raw
    known = {"question", "answer"} <= raw.keys() and not _OF_A_BUILD & raw.keys()
    return known and (pictured if part == "cot" else not pictured and "images" not in raw)


def named_images(row: BenchmarkRecord) -> tuple[str, ...]:
    """Read the images in the column ``img_name``: a list, a list written as a string, or one path.

    Raises:
        BadRecord: the value has another form.
    """
    listed = row.raw["img_name"]
    names = (listed,) if isinstance(listed, str) and not listed.lstrip().startswith("[") else read_options(listed)
    return tuple(row.material.locate(name.strip().removeprefix("./")) for name in names)


def own_turns(row: BenchmarkRecord, *, plain: bool) -> tuple[Turn, ...]:
    """Return the exact turns that a model trained on the row saw before its answer. Empty if a protocol has to word the question.

    A released row contains its conversation. A published question is sent unchanged, as the authors do.

    Args:
        row: a released or published row.
        plain: whether the row has neither images nor options, so that the question is the whole prompt.

    Raises:
        BadRecord: the conversation cannot be read.
    """
    messages = row.raw.get("messages")
    if messages is None:
        question = str(row.raw["question"])
        return (Turn("user", question),) if plain or IMAGE_MARK in question else ()
    turns = tuple(map(_turn, messages))
    if not any(turn.role == "user" for turn in turns) or turns[-1].role != "assistant":
        raise BadRecord("its 'messages' do not end with an answer to a question")
    return turns[:-1]


def _turn(message: Any) -> Turn:
    role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
    if role not in ("system", "user", "assistant") or not isinstance(content, str):
        raise BadRecord("one of its 'messages' has no role or no text")
    return Turn(role, content)
