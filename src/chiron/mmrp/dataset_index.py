"""Index of the rows of a dataset's parts: what checks, splits and exports need, built in one pass.

Rows and their index entries are on disk. Memory holds about a hundred bytes per row, and a hash and a thumbnail per image.
"""

import logging
import marshal
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self, cast, overload

import numpy as np
from numpy.typing import NDArray

from chiron.cases.case import IMAGE_MARK
from chiron.cases.images import ImageFolder
from chiron.dedup.contamination import BenchmarkItem, wordings
from chiron.dedup.image_hash import DISTANCE, ImagePrint, alike, print_images
from chiron.dedup.low_memory import SpoolFile
from chiron.dedup.near_texts import TextIndex
from chiron.errors import InputError
from chiron.io import parse_json
from chiron.jobs.directory import WorkDirectory
from chiron.mmrp.row import ROWS, MmrpRow, Part, RowRecord, read_rows_with_offsets

_log = logging.getLogger(__name__)
_AT_ONCE = 512
"""Number of rows read before their images are hashed: enough work for two threads."""


@dataclass(frozen=True, slots=True)
class PartSource:
    directory: Path
    folder: ImageFolder

    @property
    def rows(self) -> Path:
        return self.directory / ROWS


class IndexedRow(NamedTuple):
    """What checks and splits need of a row."""

    id: str
    part: Part
    case_id: str
    patient: str
    images: tuple[int, ...]
    """Positions in :attr:`DatasetIndex.prints`."""
    text: int
    """Number of its whole text in :attr:`DatasetIndex.texts`."""
    questions: tuple[int, ...]
    """Numbers of its question's wordings in :attr:`DatasetIndex.questions`."""
    modalities: tuple[str, ...]
    body_system: str | None
    difficulty: float | None
    depth: int | None
    source: int
    """Position in :attr:`DatasetIndex.sources`."""
    offset: int
    """Byte offset of its line in the source's ``rows.jsonl``."""


class IndexedRows(Sequence[IndexedRow]):
    """Index entries, by position of their rows. They are read from a temporary file each time, so that memory holds 12 bytes per row."""

    def __init__(self, spool: SpoolFile, offsets: "array[int]", sizes: "array[int]") -> None:
        """``offsets``, ``sizes``: where each entry starts in the file, and its number of bytes."""
        self._spool, self._offsets, self._sizes = spool, offsets, sizes

    def append(self, row: IndexedRow) -> None:
        """Add the entry of the next row.

        Raises:
            DiskError: the disk is full.
        """
        data = marshal.dumps(tuple(row))
        self._offsets.append(self._spool.size)
        self._sizes.append(len(data))
        self._spool.append(data)

    def at(self, positions: Collection[int]) -> Self:
        """Return the entries at some positions."""
        offsets = array("q", (self._offsets[position] for position in positions))
        return type(self)(self._spool, offsets, array("I", (self._sizes[position] for position in positions)))

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, position: int) -> IndexedRow: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[IndexedRow]: ...
    def __getitem__(self, position: int | slice) -> IndexedRow | Sequence[IndexedRow]:
        if isinstance(position, slice):
            return self.at(range(len(self))[position])
        data = self._spool.read(self._offsets[position], self._sizes[position])
        return IndexedRow._make(marshal.loads(data))  # noqa: S302 - from an anonymous file that only this process writes


class DatasetIndex:
    """Index of the rows of one or more parts. :meth:`close` it after use."""

    def __init__(
        self,
        sources: Sequence[PartSource],
        *,
        watch: Callable[[MmrpRow], None] = lambda _: None,
        benchmark_items: Iterable[BenchmarkItem] = (),
        distance: int = DISTANCE,
        spool: Path | None = None,
    ) -> None:
        """Read all rows.

        Args:
            sources: the parts.
            watch: called with each row.
            benchmark_items: items that the dataset must not contain.
            distance: maximum number of differing bits between perceptual hashes of nearly identical images.
            spool: folder for temporary files.

        Raises:
            InputError: a directory has no rows, or a line is not a row.
            DiskError: the disk is full.
        """
        self.sources = tuple(sources)
        self.benchmark_items = tuple(benchmark_items)
        self._spool = SpoolFile(spool)
        self.entries = IndexedRows(self._spool, array("q"), array("I"))
        self.prints: list[ImagePrint | None] = []
        """Perceptual hash of each image; ``None`` if it cannot be opened."""
        self.problems: dict[int, str] = {}
        """Why an image cannot be opened, by position."""
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
        rows = read_rows_with_offsets(source.rows)
        while batch := list(islice(rows, _AT_ONCE)):
            self._look_at_images(number, [row for row, _ in batch])
            for row, offset in batch:
                watch(row)
                self.entries.append(self._entry(row, number, offset))

    def close(self) -> None:
        self._spool.close()
        self.texts.close()
        self.questions.close()

    @cached_property
    def image_groups(self) -> NDArray[np.int64]:
        """Return, for each image, the first one that is nearly identical; shape (images,)."""
        return alike(self.prints, distance=self.distance)

    @cached_property
    def text_links(self) -> list[tuple[int, int, float]]:
        """Return the links between nearly identical texts of rows without images: see :meth:`TextIndex.links`.

        Rows with images are not linked by words: a hundred normal chests may have the same description.
        """
        return list(self.texts.links(entry.text for entry in self.entries if not entry.images))

    def records(self, positions: Sequence[int]) -> Iterator[tuple[int, RowRecord]]:
        """Read rows as JSON objects, with their positions, in the given order.

        Raises:
            InputError: a file has changed.
        """
        files: dict[int, Any] = {}
        try:
            for position in positions:
                entry = self.entries[position]
                source = self.sources[entry.source]
                if entry.source not in files:
                    files[entry.source] = source.rows.open("rb")
                files[entry.source].seek(entry.offset)
                record = parse_json(files[entry.source].readline())
                if not isinstance(record, dict) or record.get("id") != entry.id:
                    raise InputError(f"{source.rows} changed while it was read: wait until it is complete, then run the command again")
                yield position, cast("RowRecord", record)
        except OSError as error:
            raise InputError(
                f"{error.filename} cannot be read again ({error.strerror}): check the disk and run the command again"
            ) from error
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
                _log.warning("%s", taken)
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
            questions=tuple(self.questions.add(text) for text in wordings(row.question)),
            modalities=row.modalities,
            body_system=row.body_system,
            difficulty=row.difficulty,
            depth=row.depth,
            source=number,
            offset=offset,
        )


ImageFolders = Path | Mapping[Path, Path]
"""Image folder for all parts, or by the part's directory."""


def sources_of(directories: Sequence[Path], images: ImageFolders | None = None) -> list[PartSource]:
    """Return the parts with their image folders: the named one, else the one in ``run.json``, else ``images/`` in the directory.

    Raises:
        InputError: no directory is given, one has no rows, or an image folder does not exist.
    """
    if not directories:
        raise InputError("name at least one directory that 'chiron build' wrote")
    named = images if isinstance(images, Mapping) else dict.fromkeys(directories, images)
    for folder in named.values():
        if folder is not None and not folder.is_dir():
            raise InputError(
                f"image folder {folder} does not exist: name an existing one with --images DIR, or --images PART=DIR for one part"
            )
    sources = []
    for directory in directories:
        if not (directory / ROWS).is_file():
            raise InputError(f"{directory} has no {ROWS}: name a directory that 'chiron build text', 'alignment' or 'cot' wrote")
        run = WorkDirectory(directory).read_run() or {}
        root = named.get(directory) or (Path(run["images"]) if isinstance(run.get("images"), str) else directory / "images")
        sources.append(PartSource(directory, ImageFolder(root)))
    return sources


def _words(row: MmrpRow) -> str:
    """Return the text of a row without system turns, which are the same in every row. A rejected completion is part of it."""
    texts = [turn.text for turn in row.turns if turn.role != "system"]
    if "rejected" in row.signal:
        texts.append(str(row.signal["rejected"]))
    return " ".join(texts).replace(IMAGE_MARK, " ")
