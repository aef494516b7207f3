"""Read rows of a CSV file or spreadsheet as text, in any dialect and encoding; report cells that are not text."""

import csv
import io
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from chiron.errors import InputError
from chiron.extras import need
from chiron.importing.source import UNKNOWN, decode

_DELIMITERS = (",", ";", "\t", "|")
_LONGEST = 2000
"""Maximum lines of one CSV record. A longer one means an unclosed quotation mark."""
_OPEN = 'a quotation mark opens in this row and is not closed before other rows begin: close it, or write it twice ("")'
_TWO_ROWS = (
    "a cell begins on the first of these lines and ends on the second, which looks like a row: close the quotation mark where the"
    " cell ends, or, if it is one cell, write it on one line"
)
_MAX_CELLS = 5_000_000
"""Maximum cells of a sheet. A larger sheet is not a list of cases and would need gigabytes."""
_MERGED = re.compile(rb'mergeCell\b[^>]*?\bref="([A-Z]{1,3})(\d{1,7}):([A-Z]{1,3})(\d{1,7})"')
_MAX_XML = 256 * 1024 * 1024
"""Maximum unpacked bytes of an .xlsx file's sheets and texts."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Cell without usable text; ``problem`` says what it contains."""

    problem: str


Cell = str | Unreadable


@dataclass(frozen=True, slots=True)
class SheetRow:
    """Table row; ``place`` is its location for the user, such as ``row 5``."""

    place: str
    cells: tuple[Cell, ...]
    problem: str | None = None
    """Why the whole row cannot be read."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """One sheet, or a whole CSV file."""

    name: str
    rows: Iterable[SheetRow]
    note: str | None = None


def sheets_of(path: Path) -> list[Sheet]:
    """Return the visible sheets of a table file, in order.

    Raises:
        InputError: the file does not have the format of its suffix, or a package is missing.
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
    """Return the delimiter that splits the first lines most consistently into the most columns."""

    def columns(delimiter: str) -> tuple[int, int]:
        widths = [len(row.cells) for row, _ in zip(_lines(text[:20_000], delimiter), range(20), strict=False)]
        usual = max(widths, key=lambda w: (widths.count(w), w), default=1)
        return (widths.count(usual) if usual > 1 else 0, usual)

    return max(_DELIMITERS, key=columns)


def _lines(text: str, delimiter: str) -> Iterator[SheetRow]:
    """Yield the records of delimited text. For an unreadable record only its first line is dropped; reading resumes at the next line."""
    lines = list(io.StringIO(text, newline=""))
    at = width = 0
    while at < len(lines):
        place = f"line {at + 1}"
        reader = csv.reader((lines[i] for i in range(at, min(len(lines), at + _LONGEST))), delimiter=delimiter, strict=True)
        try:
            values = next(reader)
        except csv.Error as error:
            open_quote = "unexpected end" in str(error)
            yield SheetRow(place, (), _OPEN if open_quote else f"cannot be read ({error}): look for a quotation mark that is never closed")
            at += 1
            continue
        more = lines[at + 1 : at + reader.line_num]
        inside = [_width(line, delimiter) for line in more]
        if _swallows(len(values), inside, width):
            yield SheetRow(place, (), _OPEN)
            at += 1
            continue
        if len(inside) == 1 and inside[0] == len(values) == width and _as_a_row(lines[at], more[0], delimiter):
            # It is unclear if this is one row or two, and a wrong guess could assign an answer to another patient's question.
            yield SheetRow(f"lines {at + 1} and {at + 2}", (), _TWO_ROWS)
            at += 2
            continue
        if not inside:
            width = max(width, len(values))
        at += reader.line_num
        yield SheetRow(place, tuple(_decoded(v) for v in values))


def _width(line: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader([line], delimiter=delimiter), []))
    except csv.Error:
        return 0


def _swallows(own: int, inside: list[int], width: int) -> bool:
    """Return whether a multi-line record looks like rows merged by an unclosed quotation mark.

    Prose may contain as many commas as a row. Then the record as a whole has the table's width, but not every line inside it does.

    Args:
        own: number of columns of the record.
        inside: number of columns of each further line, read alone.
        width: number of columns of the table.
    """
    if width < 2 or width not in inside:
        return False
    return own != width or (len(inside) > 1 and set(inside) == {width})


def _as_a_row(first: str, second: str, delimiter: str) -> bool:
    """Return whether the second line of a cell is delimited like a row.

    In prose, a blank follows every comma and semicolon. In rows it does not, unless the whole table has such blanks.
    """

    def spaced(parts: Sequence[str]) -> bool:
        return bool(parts) and all(part[:1].isspace() for part in parts)

    cells = second.partition('"')[0].split(delimiter)[1:]
    return bool(cells) and (not spaced(cells) or spaced(first.partition('"')[0].split(delimiter)[1:-1]))


def _decoded(value: str) -> Cell:
    return Unreadable("holds a byte of no known encoding: save the file as UTF-8") if UNKNOWN in value else value.strip()


def _excel(path: Path) -> Iterator[Sheet]:
    openpyxl = need("openpyxl", "a spreadsheet (.xlsx)")
    _refuse_giants(path)
    formulas = _load(openpyxl, path, values=False)
    values = _load(openpyxl, path, values=True)
    for sheet in formulas.worksheets:
        if sheet.sheet_state == "visible":
            yield Sheet(sheet.title, _excel_rows(sheet, values[sheet.title], path))


def _load(openpyxl: Any, path: Path, *, values: bool) -> Any:
    import warnings

    try:
        # openpyxl warns about styles and validation rules that it drops; they are not needed.
        with warnings.catch_warnings(action="ignore"):
            return openpyxl.load_workbook(path, data_only=values)
    except OSError:
        raise
    except Exception as error:
        # openpyxl raises many exception types on damaged archives and XML.
        raise InputError(f"{path} is not a readable spreadsheet ({type(error).__name__}): open it and save it as .xlsx") from error


def _refuse_giants(path: Path) -> None:
    """Raise an error if a workbook is too large, before its cells are unpacked.

    openpyxl creates every cell of a merged area on loading, up to 17 billion.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = [part for part in archive.infolist() if part.filename.endswith(".xml")]
            if sum(part.file_size for part in parts) > _MAX_XML:
                raise InputError(f"{path} has more than {_MAX_XML // 2**20} MiB of cells: save the list of cases alone")
            for part in parts:
                areas = _MERGED.findall(archive.read(part)) if "worksheets/" in part.filename else []
                if sum(_area(*corners) for corners in areas) > _MAX_CELLS:
                    raise InputError(f"{path} merges more than {_MAX_CELLS:,} cells: merge only the rows of the list")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path} is not a readable spreadsheet ({type(error).__name__}): open it and save it as .xlsx") from error


def _area(left: bytes, top: bytes, right: bytes, bottom: bytes) -> int:
    def column(letters: bytes) -> int:
        number = 0
        for letter in letters:
            number = number * 26 + letter - 64
        return number

    return (abs(column(right) - column(left)) + 1) * (abs(int(bottom) - int(top)) + 1)


def _excel_rows(sheet: Any, values: Any, path: Path) -> Iterator[SheetRow]:
    # Use stored cells only: iter_rows would create all others, millions of them if one stray cell is in the far corner.
    stored: Mapping[tuple[int, int], Any] = sheet._cells  # noqa: SLF001
    if len(stored) > _MAX_CELLS:
        raise InputError(f"{path}: sheet '{sheet.title}' has more than {_MAX_CELLS:,} cells: save the list of cases alone")
    shown = values._cells  # noqa: SLF001
    merged = {
        (row, column): (area.min_row, area.min_col)
        for area in sheet.merged_cells.ranges
        for row in range(area.min_row, area.max_row + 1)
        for column in range(area.min_col, area.max_col + 1)
    }
    rows: dict[int, dict[int, Cell]] = {}
    for number, column in sorted({*stored, *merged}):
        # The text of a merged area is stored in its first cell and applies to all.
        at = merged.get((number, column), (number, column))
        cell = stored.get(at)
        if cell is None or (cell.value is None and cell.data_type != "e"):
            continue
        value = shown[at].value if at in shown else None
        rows.setdefault(number, {})[column] = _cell(value, cell.coordinate, formula=cell.data_type == "f", error=cell.data_type == "e")
    for number in range(1, max(rows, default=0) + 1):
        cells = rows.get(number, {})
        yield SheetRow(f"row {number}", tuple(cells.get(column, "") for column in range(1, max(cells, default=0) + 1)))


def _calamine(path: Path) -> Iterator[Sheet]:
    calamine = need("python_calamine", f"a spreadsheet ({path.suffix})")
    try:
        book = calamine.CalamineWorkbook.from_path(str(path))
        for name in book.sheet_names:
            sheet = book.get_sheet_by_name(name)
            if sheet.total_height * sheet.total_width > _MAX_CELLS:
                raise InputError(f"{path}: sheet '{name}' has more than {_MAX_CELLS:,} cells: save the list of cases alone")
            rows = sheet.to_python(skip_empty_area=False)
            yield Sheet(name, [_calamine_row(n, values) for n, values in enumerate(rows, start=1)])
    except calamine.CalamineError as error:
        raise InputError(f"{path} is not a readable spreadsheet: open it and save it as .xlsx") from error


def _calamine_row(number: int, values: Sequence[Any]) -> SheetRow:
    return SheetRow(f"row {number}", tuple(_cell(value, f"{_letters(i)}{number}") for i, value in enumerate(values, start=1)))


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
        return Unreadable(f"cell {name} contains a formula that failed: fix it, or enter its value")
    text = "" if value is None else str(value).strip()
    match value:
        case bool():
            return text.lower()
        case datetime() | date() | time() | timedelta():
            return Unreadable(
                f"cell {name} contains a date or time, which is not supported; if it is not a date (such as 1/2), format it as text"
                " and enter it again"
            )
        case float() if value.is_integer():
            return str(int(value))
        case _:
            return text
