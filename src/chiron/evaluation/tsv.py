"""A benchmark as VLMEvalKit reads it: TSV, images in base64, a column an option, the answer's letter."""

import base64
import csv
import io
from collections.abc import Iterator
from pathlib import Path

from chiron.cases.image_marks import IMAGE_MARK
from chiron.cases.images import ImageProblem
from chiron.errors import InputError
from chiron.evaluation.benchmarks.loading import Loaded
from chiron.evaluation.item import BadItem, Item
from chiron.evaluation.protocols.protocol import Protocol
from chiron.evaluation.rendering import LETTERS, lettered
from chiron.files import write_atomically


def export_tsv(loaded: Loaded, protocol: Protocol, path: Path) -> tuple[int, list[str]]:
    """Write the questions that a protocol takes; how many, and what was left out and why, a line each.

    Of several images the cell holds a Python list, as VLMEvalKit expects it. An item that cannot be put has no place in such a file.

    Raises:
        InputError: not one question could be written.
        DiskError: the disk is full.
    """
    items = [protocol.shown(item) if isinstance(item, Item) else item for item in loaded.counted_by(protocol)]
    letters = LETTERS[: max((len(item.options) for item in items if isinstance(item, Item)), default=0)]
    left_out: list[str] = []
    count = 0

    def lines() -> Iterator[str]:
        nonlocal count
        yield _line(["index", "image", "question", *letters, "answer", "category", "split"])
        for item in items:
            try:
                row = _row(loaded, item, letters)
            except ImageProblem as problem:
                left_out.append(f"{item.id}: {problem}")
                continue
            count += 1
            yield _line([str(count - 1), *row])

    write_atomically(path, lines())
    if not count:
        path.unlink()
        raise InputError(f"{loaded.name} has nothing to write: {left_out[0] if left_out else 'no question is of this protocol'}")
    return count, left_out


def _row(loaded: Loaded, item: Item | BadItem, letters: str) -> list[str]:
    if isinstance(item, BadItem):
        raise ImageProblem(item.problem)
    images = [base64.b64encode(loaded.check(name).path.read_bytes()).decode() for name in item.images]
    options = [*item.options, *[""] * (len(letters) - len(item.options))]
    answer = LETTERS[item.gold] if item.gold is not None else item.answer
    category = item.labels.get("question_type") or item.labels.get("modality") or item.kind
    cell = images[0] if len(images) == 1 else repr(images) if images else ""
    own = "\n\n".join(turn.text for turn in item.asked if turn.role == "user")
    # The options have columns of their own.
    question = own.replace(lettered(item.options), "") if own and item.options else own or item.question
    return [cell, question.replace(IMAGE_MARK, "").strip(), *options, answer, category, "test"]


def _line(cells: list[str]) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter="\t", lineterminator="\n").writerow(cells)
    return out.getvalue()
