"""Read published records and their fields: many file formats, options, answers, image marks."""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiron.cases import choices
from chiron.cases.image_marks import IMAGE_MARK
from chiron.errors import InputError
from chiron.evaluation.benchmarks.benchmark import BadRecord
from chiron.evaluation.items import LETTERS, Item
from chiron.io import BrokenJson, read_jsonl
from chiron.providers.local.dialogue import Turn
from chiron.text import normalize_answer

UNKNOWN = "?"
"""Placeholder for an answer that is withheld."""
_NUMBERED_MARK = re.compile(r"<image\s{0,9}([0-9]{1,4})>")
"""A mark with more digits is not an image number."""


def read_options(value: Any) -> tuple[str, ...]:
    """Read options from a list, a mapping by letter, ``[{letter, content}]``, or a Python or JSON string of these. Nothing is executed.

    Raises:
        BadRecord: the value has none of these forms, or an option is empty.
    """
    try:
        return choices.read_options(value)
    except ValueError as problem:
        raise BadRecord(str(problem)) from problem


def gold_by_letter(letter: Any, options: Sequence[str]) -> int:
    """Return the index of the option that a letter names.

    Raises:
        BadRecord: no option has this letter.
    """
    if isinstance(letter, list | tuple) and len(letter) == 1:
        letter = letter[0]
    index = LETTERS.find(str(letter).strip().upper()) if len(str(letter).strip()) == 1 else -1
    if not 0 <= index < len(options):
        raise BadRecord(f"its answer is {str(letter)[:60]!r}, which is none of its {len(options)} options")
    return index


def gold_by_text(answer: str, options: Sequence[str]) -> int:
    """Return the index of the option that equals the answer, word for word or after normalization.

    Raises:
        BadRecord: no option equals the answer, or two do.
    """
    for same in (lambda a, b: a.strip() == b.strip(), lambda a, b: normalize_answer(a) == normalize_answer(b)):
        found = [n for n, option in enumerate(options) if same(option, answer)]
        if len(found) == 1:
            return found[0]
        if len(found) > 1:
            raise BadRecord(f"its answer {answer[:60]!r} is two of its options")
    raise BadRecord(f"its answer {answer[:60]!r} is none of its {len(options)} options")


def yes_or_no(answer: str) -> str | None:
    """Return ``yes`` or ``no`` if the answer is exactly that, else ``None``."""
    word = answer.strip().strip(".").lower()
    return word if word in {"yes", "no"} else None


def with_marks(texts: Sequence[str], numbered: Mapping[int, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Replace ``<image n>`` with ``<image>``, and order the images by these marks. Images without a mark come first.

    Raises:
        BadRecord: a mark has no image.
    """
    order = [int(n) for text in texts for n in _NUMBERED_MARK.findall(text)]
    if lost := [n for n in order if n not in numbered]:
        raise BadRecord(f"its text speaks of image {lost[0]}, which is not there")
    unmarked = [name for n, name in sorted(numbered.items()) if n not in order]
    return tuple(_NUMBERED_MARK.sub(IMAGE_MARK, text) for text in texts), (*unmarked, *(numbered[n] for n in order))


def choice(
    name: str,
    question: str,
    options: Sequence[str],
    gold: int,
    images: tuple[str, ...],
    labels: Mapping[str, str] | None = None,
    group: str = "",
    asked: tuple[Turn, ...] = (),
) -> Item:
    """Build a question with options; the options ``yes`` and ``no`` make it a yes/no question.

    Raises:
        BadRecord: there are too few options, more than there are letters, or two equal the right one.
    """
    if not 2 <= len(options) <= len(LETTERS):
        raise BadRecord(f"it has {len(options)} options; a choice has 2 to {len(LETTERS)}")
    # Published data sometimes repeat a wrong option. The right one can still be chosen.
    if options.count(options[gold]) > 1:
        raise BadRecord("two of its options are the same as its answer")
    polar = sorted(yes_or_no(option) or "" for option in options) == ["no", "yes"]
    return Item(
        name,
        question,
        yes_or_no(options[gold]) or "" if polar else options[gold],
        images,
        tuple(options),
        gold,
        "yes_no" if polar else "choice",
        group or " ".join(images),
        dict(labels or {}),
        asked,
    )


FORMATS = (".json", ".jsonl", ".csv", ".parquet", ".arrow")
_ROWS_AT_ONCE = 32
"""Batch size for Parquet and Arrow; a row may hold megabytes of images."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that could not be read, and why."""

    problem: str


Record = dict[str, Any] | Unreadable


def read_records(path: Path) -> Iterator[Record]:
    """Yield every record of a file; the extension selects the format.

    Raises:
        InputError: the file does not have the format of its extension, or the extra ``eval`` is missing.
    """
    readers = {".json": _json, ".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet, ".arrow": _arrow}
    try:
        for record in readers[path.suffix.lower()](path):
            yield record if isinstance(record, dict | Unreadable) else Unreadable(f"a record is {type(record).__name__}, not an object")
    except KeyError as error:
        if path.suffix.lower() in readers:
            raise
        raise InputError(f"{path}: files of a benchmark end in {', '.join(FORMATS)}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): download it again") from error
    except (ValueError, csv.Error, RecursionError) as error:
        raise InputError(
            f"{path} is no readable {path.suffix[1:].upper()} ({' '.join(str(error).split())[:200]}): download it again"
        ) from error


def _json(path: Path) -> Iterator[Any]:
    value = json.loads(path.read_text("utf-8-sig"))
    if isinstance(value, dict):
        # Some files have their list under a key ("data", "test"); some map ids to records.
        lists = [v for v in value.values() if isinstance(v, list)]
        value = lists[0] if len(lists) == 1 else [{"id": key, **v} for key, v in value.items() if isinstance(v, dict)]
    if not isinstance(value, list):
        raise InputError(f"{path} holds neither a list nor an object of records")
    yield from value


def _jsonl(path: Path) -> Iterator[Any]:
    for line in read_jsonl(path, hint=": download it again"):
        yield Unreadable(line.value.problem) if isinstance(line.value, BrokenJson) else line.value


def _csv(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for record in csv.DictReader(file, strict=True):
            # csv stores extra cells under the key None and fills missing ones with None.
            yield Unreadable("it has more cells than the header has columns") if None in record else record


def _parquet(path: Path) -> Iterator[Any]:
    parquet = _pyarrow("parquet")
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
            yield from batch.to_pylist()


def _arrow(path: Path) -> Iterator[Any]:
    """Read Arrow: ``datasets`` writes the stream format, other programs the file format."""
    pyarrow, ipc = _pyarrow(), _pyarrow("ipc")
    with pyarrow.memory_map(str(path)) as source:
        try:
            batches: Any = ipc.open_stream(source)
        except pyarrow.ArrowInvalid:
            opened = ipc.open_file(source)
            batches = (opened.get_batch(number) for number in range(opened.num_record_batches))
        for batch in batches:
            for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
                yield from batch.slice(start, _ROWS_AT_ONCE).to_pylist()


def _pyarrow(part: str = "") -> Any:
    try:
        from importlib import import_module

        return import_module(f"pyarrow.{part}" if part else "pyarrow")
    except ImportError as error:
        raise InputError(f"Parquet and Arrow need pyarrow ({error}): pip install 'chiron-med[eval]'") from error
