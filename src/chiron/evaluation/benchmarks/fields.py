"""Read published records and their fields: many file formats, options, answers, image marks, and rows of MMRP."""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiron.cases import choices
from chiron.cases.case import IMAGE_MARK
from chiron.conversation.short_answers import LETTERS
from chiron.errors import InputError
from chiron.evaluation.benchmarks.benchmark import BadRecord, BenchmarkRecord
from chiron.evaluation.items import Item
from chiron.extras import install_command
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
        raise BadRecord(f"its answer is {str(letter)[:60]!r}, which is not one of its {len(options)} options")
    return index


def gold_by_position(position: Any, options: Sequence[str]) -> int:
    """Check the index of the right option, from 0.

    Raises:
        BadRecord: no option has this index.
    """
    if not isinstance(position, int) or not 0 <= position < len(options):
        raise BadRecord(f"its answer is {position!r}, which is not the position of one of its {len(options)} options")
    return position


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
            raise BadRecord(f"its answer {answer[:60]!r} equals two of its options")
    raise BadRecord(f"its answer {answer[:60]!r} is not one of its {len(options)} options")


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
        raise BadRecord(f"its text refers to image {lost[0]}, which does not exist")
    unmarked = [name for n, name in sorted(numbered.items()) if n not in order]
    return tuple(_NUMBERED_MARK.sub(IMAGE_MARK, text) for text in texts), (*unmarked, *(numbered[n] for n in order))


def without_options(name: str, question: str, answer: str, images: tuple[str, ...], labels: Mapping[str, str] | None = None) -> Item:
    """Build a question without options; the answers ``yes`` and ``no`` make it a yes/no question."""
    word = yes_or_no(answer)
    return Item(
        name, question, word or answer, images, kind="yes_no" if word else "open", group=" ".join(images), labels=dict(labels or {})
    )


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
        raise BadRecord(f"it has {len(options)} options; a choice must have 2 to {len(LETTERS)}")
    # Published data sometimes repeat a wrong option. The right one can still be chosen.
    if options.count(options[gold]) > 1:
        raise BadRecord("two of its options equal its answer")
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
    return tuple(row.image_source.locate(name.strip().removeprefix("./")) for name in names)


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
    readers = {".json": _json, ".jsonl": _jsonl, ".csv": _csv, ".txt": _txt, ".parquet": _parquet, ".arrow": _arrow}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise InputError(f"{path}: unknown file format; a benchmark's file must end in {', '.join(readers)}")
    try:
        for record in read(path):
            yield record if isinstance(record, dict | Unreadable) else Unreadable(f"a record is {type(record).__name__}, not an object")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): download it again") from error
    except (ValueError, csv.Error, RecursionError) as error:
        raise InputError(
            f"{path} is not valid {path.suffix[1:].upper()} ({' '.join(str(error).split())[:200]}): download it again"
        ) from error


def _json(path: Path) -> Iterator[Any]:
    value = json.loads(path.read_text("utf-8-sig"))
    if isinstance(value, dict):
        # Some files have their list under a key ("data", "test"), or a list of each split; some map ids to records; some have a list under
        # two keys.
        lists = [v for v in value.values() if isinstance(v, list)]
        objects = {key: v for key, v in value.items() if isinstance(v, dict)}
        if objects and all(isinstance(part, list) for v in objects.values() for part in v.values()):
            value = [_with_keys(record, key, part) for key, v in objects.items() for part, records in v.items() for record in records]
        elif len(lists) > 1 and not objects:
            value = [_with_keys(record, key) for key, records in value.items() if isinstance(records, list) for record in records]
        else:
            value = lists[0] if len(lists) == 1 else [{"id": key, **v} for key, v in objects.items()]
    if not isinstance(value, list):
        raise InputError(f"{path} contains neither a list nor an object of records: download it again")
    yield from value


def _with_keys(record: Any, *keys: str) -> Any:
    return {**{f"key_{n}": key for n, key in enumerate(keys, 1)}, **record} if isinstance(record, dict) else record


def _txt(path: Path) -> Iterator[Any]:
    """Read a text file with one record per line, as the column ``line``."""
    yield from ({"line": line} for line in path.read_text("utf-8-sig").splitlines() if line.strip())


def _jsonl(path: Path) -> Iterator[Any]:
    for line in read_jsonl(path, hint=": download it again"):
        yield Unreadable(line.value.problem) if isinstance(line.value, BrokenJson) else line.value


def _csv(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for record in csv.DictReader(file, strict=True):
            # csv stores extra cells under the key None and fills missing ones with None.
            yield Unreadable("it has more cells than the header has columns") if None in record else record


def _parquet(path: Path) -> Iterator[Any]:
    with _needs_pyarrow():
        from pyarrow import parquet
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
            yield from batch.to_pylist()


def _arrow(path: Path) -> Iterator[Any]:
    """Read Arrow: ``datasets`` writes the stream format, other programs the file format."""
    with _needs_pyarrow():
        import pyarrow as pa
        from pyarrow import ipc
    with pa.memory_map(str(path)) as source:
        try:
            batches: Any = ipc.open_stream(source)
        except pa.ArrowInvalid:
            opened = ipc.open_file(source)
            batches = (opened.get_batch(number) for number in range(opened.num_record_batches))
        for batch in batches:
            for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
                yield from batch.slice(start, _ROWS_AT_ONCE).to_pylist()


@contextmanager
def _needs_pyarrow() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise InputError(f"Parquet and Arrow need pyarrow ({error}): {install_command('eval')}") from error
