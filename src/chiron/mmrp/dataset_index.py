"""One pass over the rows of a dataset's parts: what checks, splits and exports need of each, and where to find the rest again.

Rows stay on disk. Of each one some hundred bytes stay in memory, of each image its print.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from sys import intern
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chiron.cases.image_marks import IMAGE_MARK
from chiron.cases.images import ImageFolder
from chiron.dedup.image_hash import DISTANCE, ImagePrint, alike, print_images
from chiron.dedup.near_texts import TextIndex
from chiron.errors import InputError
from chiron.jobs.directory import WorkDirectory
from chiron.mmrp.row import ROWS, MmrpRow, Part, read_rows

_AT_ONCE = 512
"""Rows read before their images are looked at: enough that two threads have something to do."""


@dataclass(frozen=True, slots=True)
class PartSource:
    """The directory of a part, and where its images lie."""

    directory: Path
    folder: ImageFolder

    @property
    def rows(self) -> Path:
        """Its ``rows.jsonl``."""
        return self.directory / ROWS


@dataclass(frozen=True, slots=True)
class IndexedRow:
    """What is kept of a row."""

    id: str
    part: Part
    case_id: str
    patient: str
    images: tuple[int, ...]
    """Positions in :attr:`DatasetIndex.prints`."""
    text: int
    """Number of everything said in it, in :attr:`DatasetIndex.texts`."""
    question: int
    """Number of its question, in :attr:`DatasetIndex.questions`."""
    modalities: tuple[str, ...]
    body_system: str | None
    difficulty: float | None
    depth: int | None
    licence: str | None
    source: int
    """Position in :attr:`DatasetIndex.sources`."""
    offset: int
    """Bytes from the beginning of the source's ``rows.jsonl`` to its line."""


class DatasetIndex(AbstractContextManager["DatasetIndex"]):
    """The rows of some parts, looked over once."""

    def __init__(
        self,
        sources: Sequence[PartSource],
        *,
        watch: Callable[[MmrpRow], None] = lambda _: None,
        distance: int = DISTANCE,
        spool: Path | None = None,
    ) -> None:
        """Read everything. ``watch`` sees each row as it passes; ``spool`` is the folder for temporary files.

        Raises:
            InputError: a directory holds no rows, or rows that are none.
            DiskError: the disk is full.
        """
        self.sources = tuple(sources)
        self.entries: list[IndexedRow] = []
        self.prints: list[ImagePrint | None] = []
        """An image each; ``None`` if it cannot be opened."""
        self.problems: dict[int, str] = {}
        """Why an image cannot be opened, by its position."""
        self.names: list[tuple[int, str]] = []
        """Source and name of each image."""
        self.texts = TextIndex(spool)
        self.questions = TextIndex(spool)
        self.distance = distance
        self._known: dict[tuple[Path, str], int] = {}
        try:
            for number, source in enumerate(self.sources):
                self._read(number, source, watch)
        except BaseException:
            self.close()
            raise

    def _read(self, number: int, source: PartSource, watch: Callable[[MmrpRow], None]) -> None:
        rows = _with_offsets(source.rows)
        while batch := list(islice(rows, _AT_ONCE)):
            self._look_at_images(number, [row for row, _ in batch])
            for row, offset in batch:
                watch(row)
                self.entries.append(self._entry(row, number, offset))

    def __exit__(self, *_: object) -> None:
        """Give the temporary files back."""
        self.close()

    def close(self) -> None:
        """Give the temporary files back."""
        self.texts.close()
        self.questions.close()

    @cached_property
    def image_groups(self) -> NDArray[np.int64]:
        """For each image the first one that is nearly the same, ``(images,)``."""
        return alike(self.prints, distance=self.distance)

    @cached_property
    def text_links(self) -> list[tuple[int, int, float]]:
        """What ties together the texts of rows without images that say nearly the same: see :meth:`TextIndex.links`.

        Words alone tie no rows with images: a hundred normal chests may be described alike.
        """
        return list(self.texts.links({entry.text for entry in self.entries if not entry.images}))

    def records(self, positions: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Rows as JSON, in the order asked for, with their positions.

        Raises:
            InputError: a file is not what it was.
        """
        files: dict[int, Any] = {}
        try:
            for position in positions:
                entry = self.entries[position]
                source = self.sources[entry.source]
                if entry.source not in files:
                    files[entry.source] = source.rows.open("rb")
                files[entry.source].seek(entry.offset)
                try:
                    record = json.loads(files[entry.source].readline())
                    changed = record["id"] != entry.id
                except (ValueError, KeyError, TypeError):
                    changed, record = True, {}
                if changed:
                    raise InputError(f"{source.rows} changed while it was read: wait for what writes it, and run this again")
                yield position, record
        except OSError as error:
            raise InputError(f"rows cannot be read again ({error.strerror}: {error.filename})") from error
        finally:
            for file in files.values():
                file.close()

    def _look_at_images(self, number: int, rows: list[MmrpRow]) -> None:
        folder = self.sources[number].folder
        fresh = {name: None for row in rows for name in row.images if (folder.root, name) not in self._known}
        for name, taken in zip(fresh, print_images(folder, list(fresh)), strict=True):
            position = self._known[folder.root, name] = len(self.prints)
            self.names.append((number, name))
            if isinstance(taken, str):
                self.problems[position] = taken
                self.prints.append(None)
            else:
                self.prints.append(taken)

    def _entry(self, row: MmrpRow, number: int, offset: int) -> IndexedRow:
        root = self.sources[number].folder.root
        return IndexedRow(
            id=row.id,
            part=row.part,
            case_id=row.case_id,
            patient=row.patient,
            images=tuple(self._known[root, name] for name in row.images),
            text=self.texts.add(_words(row)),
            question=self.questions.add(row.question.replace(IMAGE_MARK, " ")),
            modalities=tuple(map(intern, row.modalities)),
            body_system=None if row.body_system is None else intern(row.body_system),
            difficulty=row.difficulty,
            depth=row.depth,
            licence=None if row.licence is None else intern(row.licence),
            source=number,
            offset=offset,
        )


ImageFolders = Path | Mapping[Path, Path]
"""Where images lie: one folder for all parts, or a folder by the part's directory."""


def sources_of(directories: Sequence[Path], images: ImageFolders | None = None) -> list[PartSource]:
    """The parts' directories with their image folders: the one named, else what their ``run.json`` says, else ``images/`` in them.

    Raises:
        InputError: none is named, one has no rows, or the image folder is not there.
    """
    if not directories:
        raise InputError("name at least one directory that 'chiron build' wrote")
    named = images if isinstance(images, Mapping) else dict.fromkeys(directories, images)
    for folder in named.values():
        if folder is not None and not folder.is_dir():
            raise InputError(
                f"image folder {folder} does not exist: name the right one with --images DIR, or --images PART=DIR for one part"
            )
    sources = []
    for directory in directories:
        if not (directory / ROWS).is_file():
            raise InputError(f"{directory} has no {ROWS}: name a directory that 'chiron build text', 'alignment' or 'cot' wrote")
        run = WorkDirectory(directory).read_run() or {}
        root = named.get(directory) or (Path(run["images"]) if isinstance(run.get("images"), str) else directory / "images")
        sources.append(PartSource(directory, ImageFolder(root)))
    return sources


def _with_offsets(path: Path) -> Iterator[tuple[MmrpRow, int]]:
    """Rows and where their lines begin. The file is read twice in step: a row a line is the format's rule."""
    offset = 0
    try:
        with path.open("rb") as lines:
            for row, line in zip(read_rows(path), lines, strict=True):
                yield row, offset
                offset += len(line)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name a directory that 'chiron build' wrote") from error


def _words(row: MmrpRow) -> str:
    """All that is said in a row, instructions of the system apart: these are the same in every row."""
    return " ".join(turn.text for turn in row.turns if turn.role != "system").replace(IMAGE_MARK, " ")
