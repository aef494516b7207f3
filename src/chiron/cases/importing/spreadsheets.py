"""Rows of a CSV file or spreadsheet as text, whatever its dialect, encoding or kind; what cannot be text says why."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from chiron.cases.importing.encodings import UNKNOWN, decode
from chiron.cases.importing.extras import need
from chiron.errors import InputError

_DELIMITERS = (",", ";", "\t", "|")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A cell that holds no text; ``problem`` says what it holds instead."""

    problem: str


Cell = str | Unreadable


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table; ``place`` is where a person finds it, such as ``row 5``."""

    place: str
    cells: tuple[Cell, ...]
    problem: str | None = None
    """Why none of it can be read."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """One sheet, or a whole CSV file."""

    name: str
    rows: Iterable[Row]
    note: str | None = None


def sheets_of(path: Path) -> list[Sheet]:
    """The visible sheets of a table file, in order.

    Raises:
        InputError: it cannot be read as what its name says, or a package is missing.
    """
    try:
        match path.suffix.lower():
            case ".csv" | ".tsv" | ".txt":
                return [_delimited(path)]
            case ".xlsx" | ".xlsm":
                return list(_excel(path))
            case _:
                return list(_calamine(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or 'the file is damaged'}") from error


def _delimited(path: Path) -> Sheet:
    text, encoding = decode(path.read_bytes())
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(text)
    return Sheet(path.name, _lines(text, delimiter), None if encoding == "UTF-8" else f"read as {encoding}")


def _delimiter(text: str) -> str:
    """Of the four in use the one that cuts the first lines into the most columns, again and again alike."""

    def columns(delimiter: str) -> tuple[int, int]:
        widths = [len(row.cells) for row, _ in zip(_lines(text[:20_000], delimiter), range(20), strict=False)]
        usual = max(widths, key=lambda w: (widths.count(w), w), default=1)
        return (widths.count(usual) if usual > 1 else 0, usual)

    return max(_DELIMITERS, key=columns)


def _lines(text: str, delimiter: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    last = 0
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            place, last = f"line {last + 1}", reader.line_num
            yield Row(place, (), f"cannot be read ({error}): look for a quotation mark that is never closed")
            continue
        place, last = f"line {last + 1}", reader.line_num
        yield Row(place, tuple(_decoded(v) for v in values))


def _decoded(value: str) -> Cell:
    return Unreadable("holds a byte of no known encoding: save the file as UTF-8") if UNKNOWN in value else value.strip()


def _excel(path: Path) -> Iterator[Sheet]:
    openpyxl = need("openpyxl", "a spreadsheet (.xlsx)")
    formulas = _load(openpyxl, path, values=False)
    values = _load(openpyxl, path, values=True)
    for sheet in formulas.worksheets:
        if sheet.sheet_state == "visible":
            yield Sheet(sheet.title, _excel_rows(sheet, values[sheet.title]))


def _load(openpyxl: Any, path: Path, *, values: bool) -> Any:
    import warnings

    try:
        with warnings.catch_warnings():
            # openpyxl warns of styles and validation rules that it does not keep; nothing of them is wanted.
            warnings.simplefilter("ignore")
            return openpyxl.load_workbook(path, data_only=values)
    except OSError:
        raise
    except Exception as error:
        # Damaged archives and XML fail in every way there is.
        raise InputError(f"{path} is no spreadsheet that can be read ({type(error).__name__}): open it and save it as .xlsx") from error


def _excel_rows(sheet: Any, values: Any) -> Iterator[Row]:
    merged = {
        (row, column): (area.min_row, area.min_col)
        for area in sheet.merged_cells.ranges
        for row in range(area.min_row, area.max_row + 1)
        for column in range(area.min_col, area.max_col + 1)
    }
    for number in range(1, sheet.max_row + 1):
        cells = []
        for column in range(1, sheet.max_column + 1):
            # A merged cell's text stands in its first cell, and is meant for all.
            at = merged.get((number, column), (number, column))
            cell = sheet.cell(*at)
            cells.append(_cell(values.cell(*at).value, cell.coordinate, formula=cell.data_type == "f", error=cell.data_type == "e"))
        yield Row(f"row {number}", tuple(cells))


def _calamine(path: Path) -> Iterator[Sheet]:
    calamine = need("python_calamine", f"a spreadsheet ({path.suffix})")
    try:
        book = calamine.CalamineWorkbook.from_path(str(path))
        for name in book.sheet_names:
            rows = book.get_sheet_by_name(name).to_python(skip_empty_area=False)
            yield Sheet(name, [_calamine_row(n, values) for n, values in enumerate(rows, start=1)])
    except calamine.CalamineError as error:
        raise InputError(f"{path} is no spreadsheet that can be read: open it and save it as .xlsx") from error


def _calamine_row(number: int, values: Sequence[Any]) -> Row:
    return Row(f"row {number}", tuple(_cell(value, f"{_letters(i)}{number}") for i, value in enumerate(values, start=1)))


def _letters(number: int) -> str:
    letters = ""
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(65 + rest) + letters
    return letters


def _cell(value: Any, name: str, *, formula: bool = False, error: bool = False) -> Cell:
    if formula and value is None:
        return Unreadable(f"cell {name} holds a formula that was never calculated: open the file in a spreadsheet program and save it")
    if error or (formula and isinstance(value, str) and value.startswith("#")):
        return Unreadable(f"cell {name} holds a formula that failed: mend it, or type its value in")
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case datetime() | date() | time() | timedelta():
            return Unreadable(f"cell {name} holds a date or time, which is not taken; if it is none (as 1/2), format it as text and type it again")
        case float() if value.is_integer():
            return str(int(value))
        case _:
            return str(value).strip()
