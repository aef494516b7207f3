"""A case's text, looked over before it goes on: fields and lines that may say who the patient is."""

from collections.abc import Collection, Iterator
from typing import Any

from chiron.cases.case import Case
from chiron.cases.importing.identifying import find_identifying
from chiron.cases.importing.phi_patterns import Kind


def screen(case: Case, known: Collection[str] = ()) -> list[str]:
    """What may identify somebody, as ``date in findings[2], line 3``: the kind and the place, never the text."""
    said = []
    for field, text in _texts(case):
        marks = find_identifying(text, known)
        if field in {"id", "patient"}:
            # A number is what an id is made of; a name is not.
            marks = tuple(m for m in marks if m.kind in {Kind.NAME, Kind.EMAIL})
        said += sorted({f"{m.kind} in {field}, line {m.line}" for m in marks})
    return said


def longest_text(case: Case) -> tuple[str, str]:
    """The field with the longest text, and that text."""
    return max(_texts(case), key=lambda found: len(found[1]))


def _texts(case: Case) -> Iterator[tuple[str, str]]:
    yield "id", case.id
    yield "question", case.question
    yield "answer", case.answer
    yield "history", case.history
    for number, text in enumerate(case.findings, start=1):
        yield f"findings[{number}]", text
    for field in ("age", "sex", "title", "modality", "body_system"):
        if (value := getattr(case, field)) is not None:
            yield field, value
    for key, value in case.meta.items():
        yield from _named(str(key), "", value)


def _named(key: str, above: str, value: Any, depth: int = 0) -> Iterator[tuple[str, str]]:
    """A field's own name and what it holds. A name that may say who somebody is stands in no reason."""
    told = "a field" if find_identifying(key) else key
    field = f"{above}.{told}" if above else told
    yield f"the name of {field}", key
    yield from _strings(field, value, depth)


def _strings(field: str, value: Any, depth: int = 0) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, dict) and depth < 20:
        for key, inner in value.items():
            yield from _named(str(key), field, inner, depth + 1)
    elif isinstance(value, list | tuple) and depth < 20:
        for number, inner in enumerate(value, start=1):
            yield from _strings(f"{field}[{number}]", inner, depth + 1)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        # A program that reads a column of numbers makes 44556671.0 of somebody's 44556671.
        yield field, str(value).removesuffix(".0")
