"""Import a CSV file or spreadsheet with one case per row and images in files."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from chiron.cases.case import IMAGE_MARK, Case, age_band
from chiron.cases.choices import letter_without_options, split_options
from chiron.cases.formats import CaseProblem, is_placeholder, parse_case
from chiron.cases.images import ImageFolder
from chiron.cases.modalities import modality_of
from chiron.errors import InputError
from chiron.importing.columns import LETTER_ALONE, NO_QUESTION, ColumnMap, count_recognized, map_columns, paragraphs, settle, with_options
from chiron.importing.phi_filter import Pseudonyms, folder_name, identifiers, named
from chiron.importing.source import (
    GROUP_FOLDER,
    ID_TELLS,
    TABLES,
    Draft,
    DraftGroup,
    DraftImage,
    ImportOptions,
    LeaveOut,
    LeftOut,
    SourceReading,
    Why,
    files_under,
    the_file,
)
from chiron.importing.spreadsheets import Sheet, SheetRow, Unreadable, sheets_of
from chiron.importing.writer import copied

_HEADER_WITHIN = 20
"""Number of rows to search for a header, since titles and remarks may precede it."""
_SEPARATORS = re.compile(r"[;\n|]")
_TEXTS = ("question", "answer", "history", "age", "sex", "title", "modality", "body_system")


@dataclass(frozen=True, slots=True)
class Table:
    """Table with a known header."""

    name: str
    columns: ColumnMap
    rows: tuple[SheetRow, ...]
    """Non-empty rows below the header."""
    note: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A row's values by field."""

    place: str
    texts: Mapping[str, str]
    images: tuple[str, ...]
    known: frozenset[str]
    options: tuple[str, ...] = ()
    """Options of a multiple-choice question."""


def open_table(path: Path, options: ImportOptions, usual: str = "question=...,images=...") -> Table:
    """Find the sheet and the header of a table.

    Args:
        path: file of the table.
        options: names of columns and sheet.
        usual: value of ``--map`` for the error message.

    Raises:
        InputError: the file cannot be read, has no recognizable header, or lacks a requested column or sheet.
    """
    sheets = sheets_of(path)
    if options.sheet is not None:
        names = [s.name for s in sheets]
        sheets = [s for s in sheets if s.name == options.sheet]
        if not sheets:
            raise InputError(f"{path} has no sheet '{options.sheet}' (there are {', '.join(names)})")
    seen: list[str] = []
    for sheet in sheets:
        rows = list(sheet.rows)
        found = [(count_recognized(_header(row), options.columns), -i) for i, row in enumerate(islice(rows, _HEADER_WITHIN))]
        best, at = max(found, default=(0, 0))
        # A single match may be a title. But if the user names columns, accept it to report which ones are missing.
        if best >= 2 or (best == 1 and options.columns):
            return _table(path, sheet, rows, -at, options)
        seen += [h for row in rows[:1] for h in _header(row) if h]
    listed = ", ".join(seen[:12]) or "nothing"
    raise InputError(f"{path}: no header in the first {_HEADER_WITHIN} rows (seen: {listed}): name the columns, as --map {usual}")


def _table(path: Path, sheet: Sheet, rows: list[SheetRow], at: int, options: ImportOptions) -> Table:
    columns = map_columns(_header(rows[at]), options.columns, str(path))
    below = tuple(row for row in rows[at + 1 :] if row.problem or any(row.cells))
    name = path.name if sheet.name == path.name else f"{path.name}, sheet '{sheet.name}'"
    return Table(name, columns, below, sheet.note)


def _header(row: SheetRow) -> tuple[str, ...]:
    return tuple(cell if isinstance(cell, str) else "" for cell in row.cells)


def entries(table: Table) -> Iterator[Entry | LeftOut]:
    """Yield rows by field. Consecutive rows with the same id and no conflicting values become one entry."""
    held: Entry | None = None
    for row in table.rows:
        entry = _entry(table, row)
        if isinstance(entry, Entry) and held is not None and (joined := _join(held, entry)) is not None:
            held = joined
            continue
        if held is not None:
            yield held
        held = entry if isinstance(entry, Entry) else None
        if isinstance(entry, LeftOut):
            yield entry
    if held is not None:
        yield held


def _join(first: Entry, second: Entry) -> Entry | None:
    if not first.texts.get("id") or second.texts.get("id") != first.texts["id"]:
        return None
    if any(text and text != first.texts.get(field) for field, text in second.texts.items()):
        return None
    return replace(first, images=tuple(dict.fromkeys(first.images + second.images)))


def _entry(table: Table, row: SheetRow) -> Entry | LeftOut:
    place = f"{table.name}, {row.place}"
    if row.problem is not None:
        return LeftOut(place, None, Why.RECORD, row.problem)
    texts: dict[str, str] = {}
    images: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    try:
        for field, at in table.columns.places.items():
            cells = _filled(row, at, field)
            if field == "images":
                images = tuple(name for cell in cells for part in _SEPARATORS.split(cell) if (name := part.strip()))
            elif field == "options":
                options = split_options(cells[0]) if cells and len(at) == 1 else tuple(cells)
            else:
                texts[field] = "\n\n".join(cell for cell in cells if not is_placeholder(cell))
    except ValueError as problem:
        return LeftOut(place, texts.get("id") or None, Why.RECORD, str(problem))
    values = [row.cells[i] for i in table.columns.identifiers if i < len(row.cells)]
    return Entry(place, texts, images, named(values), options)


def _filled(row: SheetRow, at: Sequence[int], field: str) -> list[str]:
    """Return a field's cells that are not empty.

    Raises:
        ValueError: one of them is unreadable.
    """
    filled = []
    for cell in (row.cells[i] for i in at if i < len(row.cells)):
        if isinstance(cell, Unreadable):
            raise ValueError(f"field '{field}': {cell.problem}")  # noqa: TRY004 - consistent with the other record errors
        if cell:
            filled.append(cell)
    return filled


def read_table(source: Path, options: ImportOptions, pseudonyms: Pseudonyms) -> SourceReading:
    """Read the draft cases of a table.

    Raises:
        InputError: as in :func:`open_table`, or the image folder does not exist.
    """
    path = the_file(source, TABLES, "table")
    table = open_table(path, options)
    if options.images is not None and not os.path.isdir(options.images):
        raise InputError(f"image folder {options.images} does not exist or cannot be reached: name the right one with --images DIR")
    images = TableImages(options.images or path.parent, fallback=options.images is None, hidden=options.keep_ids is False)

    def items() -> Iterator[Draft | LeftOut]:
        for number, entry in enumerate(entries(table), start=1):
            if isinstance(entry, LeftOut):
                yield replace(entry, id=told_id(entry.id, options, pseudonyms))
                continue
            try:
                yield draft_of(entry, f"{path.stem}-{number:05d}", partial(images.pictures, entry.images), options, pseudonyms)
            except LeaveOut as reason:
                yield LeftOut(entry.place, told_id(entry.texts.get("id"), options, pseudonyms), reason.why, str(reason))

    notes = [table.columns.words(), *([table.note] if table.note else [])]
    return SourceReading(items(), len(table.rows), tuple(notes))


class TableImages:
    """Image files of a table, named in its cells or stored in a folder named after the case id."""

    def __init__(self, root: Path, *, fallback: bool, hidden: bool) -> None:
        """Set the folders to search.

        Args:
            root: folder that paths are relative to.
            fallback: also search ``images/`` in it.
            hidden: do not show file names in error messages.
        """
        self._hidden = hidden
        self._folders = [ImageFolder(root), *([ImageFolder(root / "images")] if fallback else [])]

    def pictures(self, names: Sequence[str], case_id: str, under: str, group: str) -> tuple[DraftImage, ...]:
        """Return the images of a row.

        Args:
            names: paths from the row; if empty, the files in the folder named after the case.
            case_id: the case's id.
            under: output folder of the case.
            group: image group for paths that do not name one.

        Raises:
            LeaveOut: the row has no image.
        """
        if not names:
            names = self._of_folder(case_id)
        if not names:
            raise LeaveOut(Why.IMAGE, "no image: the row names no image, and no image folder has the name of its id")
        kept: dict[str, int] = {}
        pictures = []
        for name in (given.replace("\\", "/") for given in names):  # Windows paths use backslashes
            folder = next((f for f in self._folders if _exists(f, name)), self._folders[0])
            parents = [part for part in PurePosixPath(name).parts[:-1] if GROUP_FOLDER.fullmatch(part)]
            place = parents[-1].lower().replace(" ", "-") if parents else group
            number = kept[place] = kept.get(place, -1) + 1
            kept_as = "/".join(p for p in (under, place, f"{number}{PurePosixPath(name).suffix.lower()[:6]}") if p)
            pictures.append(DraftImage(kept_as, copied(folder, name, called=kept_as if self._hidden else None)))
        return tuple(pictures)

    def _of_folder(self, case_id: str) -> list[str]:
        if case_id in {".", ".."} or "/" in case_id or "\\" in case_id or "\x00" in case_id:
            return []
        for folder in self._folders:
            if os.path.isdir(place := folder.root / case_id):
                files = (str(p.relative_to(folder.root).as_posix()) for p in files_under(place))
                return sorted(files, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])
        return []


def _exists(folder: ImageFolder, name: str) -> bool:
    """Return whether the file exists. Reading it later checks that it is inside the folder."""
    return ".." not in PurePosixPath(name).parts and os.path.isfile(folder.root / name)


Pictures = Callable[[str, str, str], tuple[DraftImage, ...]]
"""Returns a row's images, for the id of its case, the output folder of the case, and an image group."""


def told_id(source_id: str | None, options: ImportOptions, pseudonyms: Pseudonyms) -> str | None:
    """Return the id to show in messages: a pseudonym if ids are hidden."""
    return pseudonyms.name("case", source_id) if source_id and options.keep_ids is False else source_id or None


def draft_of(entry: Entry, default_id: str, pictures: Pictures, options: ImportOptions, pseudonyms: Pseudonyms) -> Draft:
    """Convert an entry to a draft case.

    Raises:
        LeaveOut: the entry is not a valid case.
    """
    texts = entry.texts
    source_id = texts.get("id") or default_id
    hidden = options.keep_ids is False
    settled = settle(texts, options.question)
    case = _case(settled, pseudonyms.name("case", source_id) if hidden else source_id, options.modality)
    case = with_options(case, entry.options)
    if texts.get("patient"):
        patient = texts["patient"] if options.keep_ids else pseudonyms.name("patient", texts["patient"])
        case = replace(case, meta=MappingProxyType({**case.meta, "patient": patient}))
    modality = modality_of(case.modality) if case.modality else None
    group = f"{modality.slug}_group1" if modality is not None else ""
    known = entry.known | (identifiers(source_id) if hidden else frozenset()) - identifiers(case.id)
    notes = [ID_TELLS] * bool(options.keep_ids is None and entry.known & identifiers(case.id))
    notes += [NO_QUESTION] * bool(texts.get("impression") and not case.question)
    notes += [LETTER_ALONE] * letter_without_options(case.question, case.answer)
    images = pictures(source_id, folder_name(case.id), group)
    if (marks := case.question.count(IMAGE_MARK)) > len(images):
        raise LeaveOut(Why.RECORD, f"the question marks {marks} images and the row names {len(images)}")
    return Draft(case, (DraftGroup(images, entry.place),), entry.place, known, tuple(notes))


def _case(texts: Mapping[str, str], case_id: str, modality: str | None) -> Case:
    record: dict[str, object] = {field: texts.get(field, "") for field in _TEXTS}
    # The images are read later. As many placeholder names as marks let the case pass validation.
    names = [f"-{n}" for n in range(max(1, texts.get("question", "").count(IMAGE_MARK)))]
    record |= {"id": case_id, "images": names, "findings": paragraphs(texts.get("findings", ""))}
    record["age"] = age_band(texts["age"]) if texts.get("age") else None
    record["modality"] = texts.get("modality") or modality
    try:
        return replace(parse_case(record, unlabeled=True), images=())
    except CaseProblem as problem:
        raise LeaveOut(Why.RECORD, str(problem)) from problem
