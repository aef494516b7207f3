"""Rows of MMRP, published or released: which are of a part, which images they name, and how a model is asked them."""

from collections.abc import Mapping
from typing import Any

from chiron.cases.image_marks import IMAGE_MARK
from chiron.evaluation.benchmarks.benchmark import BadRecord, BenchmarkRecord
from chiron.evaluation.benchmarks.fields import read_options
from chiron.providers.local.dialogue import Turn

_OF_A_BUILD = {"messages", "provenance"}
"""What rows of a build have and published ones do not. Their files may hold what is trained on, so they are not taken by their columns."""


def belongs(part: str, raw: Mapping[str, Any]) -> bool:
    """Whether a row is of this part. Published rows do not say; those about images have the column ``img_name``."""
    return bool(raw["part"] == part) if "part" in raw else "img_name" not in raw or part == "cot"


def is_published(part: str, raw: Mapping[str, Any]) -> bool:
    """Whether a row has the columns of the published rows of this part: question, answer, and ``img_name`` if it is about images."""
    pictured = "img_name" in raw
    known = {"question", "answer"} <= raw.keys() and not _OF_A_BUILD & raw.keys()
    return known and (pictured if part == "cot" else not pictured and "images" not in raw)


def named_images(row: BenchmarkRecord) -> tuple[str, ...]:
    """The images in the column ``img_name``: a list, a list written as a string, or one path.

    Raises:
        BadRecord: it is something else.
    """
    listed = row.raw["img_name"]
    names = (listed,) if isinstance(listed, str) and not listed.lstrip().startswith("[") else read_options(listed)
    return tuple(row.material.locate(name.strip().removeprefix("./")) for name in names)


def own_turns(row: BenchmarkRecord, *, plain: bool) -> tuple[Turn, ...]:
    """What a model trained on the row saw before its answer, to the letter; empty where a protocol has to word the question.

    A row of a release has its conversation. The authors send a published question as it is.

    Args:
        row: Released or published.
        plain: Whether it has neither images nor options, so that its question is all there is to ask.

    Raises:
        BadRecord: its conversation cannot be read.
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
