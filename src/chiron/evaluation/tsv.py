"""TSV export of a benchmark for VLMEvalKit: base64 images, a column per option, the answer's letter, and the item's own id."""

import base64
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chiron.cases.case import IMAGE_MARK
from chiron.cases.images import ImageProblem
from chiron.conversation.short_answers import LETTERS
from chiron.errors import InputError
from chiron.evaluation.benchmarks.loading import LoadedBenchmark
from chiron.evaluation.items import BadItem, Item, lettered
from chiron.evaluation.protocols.protocol import Protocol
from chiron.io import write_atomically

_READ_AS_MISSING = frozenset(
    """#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|null""".split("|")
)
"""Texts that pandas, which VLMEvalKit uses, reads as an empty cell."""


class _LeftOut(ValueError):
    """An item that cannot be written to the file; the message gives the reason."""


@dataclass(frozen=True)
class _Form:
    """The file's columns. VLMEvalKit derives the kind of benchmark from them."""

    letters: str
    """Letters of the option columns; empty for questions without options."""
    pictured: bool
    """Whether the file has an image column. VLMEvalKit then skips every row without an image."""
    numeric: frozenset[str]
    """Columns whose texts are all numbers. pandas would read ``007`` as 7, and ``5`` next to an empty cell as 5.0."""

    @classmethod
    def of(cls, items: Sequence[Item | BadItem]) -> "_Form":
        asked = [item for item in items if isinstance(item, Item)]
        letters = LETTERS[: max((len(item.options) for item in asked), default=0)]
        columns = {letter: [item.options[n] for item in asked if n < len(item.options)] for n, letter in enumerate(letters)}
        columns |= {"id": [item.id for item in asked], "answer": [] if letters else [item.answer for item in asked]}
        numeric = frozenset(name for name, texts in columns.items() if texts and all(map(_is_number, texts)))
        return cls(letters, any(item.images for item in asked), numeric)

    @property
    def head(self) -> list[str]:
        return ["index", "id", *(["image"] if self.pictured else []), "question", *self.letters, "answer", "category", "split"]


def export_tsv(loaded: LoadedBenchmark, protocol: Protocol, path: Path) -> tuple[int, list[str]]:
    """Write the questions that a protocol counts.

    VLMEvalKit reads a file with option columns as multiple choice, so such a file leaves out questions without options. If no question has
    options, the file is one of open questions, which need images. ``index`` is the row number, because VLMEvalKit names image files by it.
    ``id`` is the item's own id and appears in VLMEvalKit's prediction table. Several images are a Python list in one cell.

    Returns:
        The number of questions written, and one line per item left out, with the reason.

    Raises:
        InputError: no question could be written.
        DiskError: the disk is full.
    """
    items = loaded.shown_by(protocol)
    form = _Form.of(items)
    if not form.letters and not form.pictured:
        raise InputError(f"{loaded.name} has open questions without images, for which VLMEvalKit has no form: choose another benchmark")
    numeric = set(form.numeric)
    left_out: list[str] = []
    count = 0

    def lines() -> Iterator[str]:
        nonlocal count
        yield _line(form.head)
        for item in items:
            try:
                row = _row(loaded, item, form)
            except (ImageProblem, _LeftOut) as problem:
                left_out.append(f"{item.id}: {problem}")
                continue
            count += 1
            yield _line(_as_texts([str(count - 1), item.id, *row], form.head, numeric))

    write_atomically(path, lines())
    if not count:
        path.unlink()
        raise InputError(f"{loaded.name} has no item to write: {left_out[0] if left_out else 'the protocol asks none of its questions'}")
    return count, left_out


def _row(loaded: LoadedBenchmark, item: Item | BadItem, form: _Form) -> list[str]:
    if isinstance(item, BadItem):
        raise _LeftOut(item.problem)
    if form.letters and not item.options:
        raise _LeftOut("it has no options, and VLMEvalKit reads this file as multiple choice")
    if form.pictured and not item.images:
        raise _LeftOut("it has no image, and VLMEvalKit skips such a row of this file")
    images = [base64.b64encode(loaded.check(name).path.read_bytes()).decode() for name in item.images]
    options = [*item.options, *[""] * (len(form.letters) - len(item.options))]
    answer = LETTERS[item.gold] if item.gold is not None else item.answer
    category = item.labels.get("question_type") or item.labels.get("modality") or item.kind
    cells = [images[0] if len(images) == 1 else repr(images)] if form.pictured else []
    own = "\n\n".join(turn.text for turn in item.asked if turn.role == "user")
    # Drop the option list from the question, because the options have their own columns.
    question = own.replace(lettered(item.options), "") if own and item.options else own or item.question
    return [*cells, *map(_kept, (question.replace(IMAGE_MARK, "").strip(), *options, answer, category)), "test"]


def _kept(text: str) -> str:
    """Append a space to a text that pandas would read as an empty cell, such as the option ``None``."""
    return f"{text} " if text in _READ_AS_MISSING else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _as_texts(cells: list[str], head: list[str], numeric: set[str]) -> list[str]:
    """Append a no-break space to the first cell of each numeric column: pandas then reads the column as texts."""
    marked = []
    for name, cell in zip(head, cells, strict=True):
        marks = name in numeric and bool(cell)
        marked.append(f"{cell}\N{NO-BREAK SPACE}" if marks else cell)
        if marks:
            numeric.discard(name)
    return marked


def _line(cells: list[str]) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter="\t", lineterminator="\n").writerow(cells)
    return out.getvalue()
