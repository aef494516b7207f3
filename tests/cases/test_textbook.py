"""A textbook is read a line at a time, and what is no entry is named by its line."""

from pathlib import Path

import pytest

from chiron.cases.textbook import TextbookEntry, read_textbook
from chiron.errors import InputError


def textbook(folder: Path, text: str) -> Path:
    path = folder / "textbook.jsonl"
    path.write_bytes(text.encode())
    return path


def test_entries_are_read_whatever_their_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    text = '\ufeff{"answer": "A", "text": "one\u2028two\x85three"}\r\n\n{"answer": "B", "text": "four"}'
    assert read_textbook(textbook(tmp_path, text)) == (TextbookEntry("A", "one\u2028two\x85three"), TextbookEntry("B", "four"))


def test_a_missing_textbook_has_no_entries(tmp_path: Path) -> None:
    assert read_textbook(tmp_path / "textbook.jsonl") == ()
    (tmp_path / "textbook.jsonl").mkdir()
    with pytest.raises(InputError, match="directory"):
        read_textbook(tmp_path / "textbook.jsonl")


@pytest.mark.parametrize(
    "line", ["{", "[1]", "1", "null", '{"answer": "A"}', '{"answer": 1, "text": "x"}', "[" * 100_000, '{"answer":' * 100_000]
)
def test_an_invalid_entry_is_named_by_its_line(tmp_path: Path, line: str) -> None:
    with pytest.raises(InputError, match="line 2: not a textbook entry"):
        read_textbook(textbook(tmp_path, f'{{"answer": "A", "text": "x"}}\n{line}\n'))
