"""Build a release: one folder, with a dataset card, that ``datasets``, four trainers and ``chiron train`` can read."""

import hashlib
import json
import logging
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final, TypedDict

from chiron._version import __version__
from chiron.cases.summary import draw_coverage
from chiron.dedup.contamination import BenchmarkItem
from chiron.errors import InputError
from chiron.extras import need
from chiron.importing.image_metadata import without_metadata
from chiron.importing.source import LeaveOut
from chiron.io import file_sha256, new_folder, write_atomically
from chiron.jobs.directory import WorkDirectory
from chiron.mmrp.card import MAP_FIGURE, ReleaseOptions, ReleaseSummary, write_card
from chiron.mmrp.checking import CheckReport, CheckSummary, check_rows
from chiron.mmrp.dataset_index import DatasetIndex, ImageFolders, PartSource, sources_of
from chiron.mmrp.exports.export import IMAGES, Exports, ReleasedImage, ReleasedRow
from chiron.mmrp.parquet import ParquetShards, features
from chiron.mmrp.row import ALL_PARTS, ROW_FORMAT, Part
from chiron.mmrp.splits import SPLITS, Split, SplitName, capped, count_cells, coverage_of_rows, curriculum_key, split_rows, weights
from chiron.providers.baselines.practice import is_practice
from chiron.providers.local.dialogue import Turn

__all__ = ["ReleaseOptions", "ReleaseSummary", "release"]

_log = logging.getLogger(__name__)
PROVENANCE, LEFT_OUT, CHECK = "provenance.json", "left_out.jsonl", "check.json"
_SUFFIXES: Final[Mapping[str, str]] = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tiff"}
RELEASE_FORMAT: Final = 1
"""Version of a release's files, documented in docs/formats.md."""


class SourceRecord(TypedDict):
    """A part that a release was made from."""

    directory: str
    """Name of its directory."""
    rows_sha256: str
    began: str | None
    """When its build began."""
    identity_sha256: str
    """Hash of the settings of its build."""


class ReleaseRecord(TypedDict):
    """Contents of ``provenance.json``: the settings of a release, and hashes of what it was made from."""

    format: int
    row_format: int
    chiron: str
    python: str
    datasets: str
    seed: int
    ratios: list[float]
    balance: int | None
    image_distance: int
    limits: dict[str, float]
    parts: list[SourceRecord]


class LeftOutRecord(TypedDict):
    """A line of ``left_out.jsonl``."""

    id: str
    reason: str
    detail: str


def release(
    directories: Sequence[Path],
    out: Path,
    *,
    images: ImageFolders | None = None,
    options: ReleaseOptions | None = None,
    benchmark_items: Iterable[BenchmarkItem] = (),
    watch: Callable[[str], None] = lambda _: None,
) -> ReleaseSummary:
    """Check, split and order the rows of some parts, and write a release atomically.

    Args:
        directories: directories of parts, as written by ``chiron build``.
        out: the folder to create.
        images: image folder for all parts, or one by part; by default the recorded one, else ``images/`` in the part's directory.
        options: options of the release.
        benchmark_items: items that the release must not contain.
        watch: called with the name of each phase that starts: ``checking``, ``splitting``, ``writing``, ``done``.

    Raises:
        InputError: a part cannot be read, a limit is exceeded, or ``out`` exists.
        DiskError: the disk is full; existing files are unchanged.
    """
    options = options or ReleaseOptions()
    features()  # fail early if "datasets" is missing
    need("matplotlib", "the card's map")  # fail early here too
    sources = sources_of(directories, images)
    with ExitStack() as stack:
        folder = stack.enter_context(new_folder(out, mark=PROVENANCE, replace=options.replace))
        watch("checking")
        index, report = stack.enter_context(
            check_rows(sources, limits=options.limits, benchmark_items=benchmark_items, distance=options.distance, spool=folder)
        )
        left_out = _faulty_rows(report)
        usable = [position for position in range(len(index.entries)) if position not in left_out]
        watch("splitting")
        splits = split_rows(index, usable, ratios=options.ratios, seed=options.seed)
        left_out |= dict.fromkeys(splits.left_out, "similar to a row of another split")
        chosen = _balanced(index, splits, options, left_out)
        watch("writing")
        counts = _write_rows(index, splits, chosen, folder)
        kept = [position for positions in chosen.values() for position in positions]
        entries = index.entries.at(kept)
        released = ReleaseSummary(
            path=out,
            left_out=Counter(left_out.values()),
            groups=len({splits.group[position] for position in kept}),
            largest_group=splits.largest,
            cells=count_cells(entries),
            **vars(counts),
        )
        _write_left_out(folder / LEFT_OUT, index, left_out, splits)
        write_atomically(folder / CHECK, [json.dumps(_without_examples(report), indent=2) + "\n"])
        write_atomically(folder / PROVENANCE, [json.dumps(_provenance(index, options), indent=2, ensure_ascii=False) + "\n"])
        draw_coverage(coverage_of_rows(entries), folder / MAP_FIGURE, noun="rows")
        write_card(folder, released, report, options)
    watch("done")
    return released


@dataclass
class _Counts:
    """What is counted while rows are written: fields of :class:`ReleaseSummary`."""

    rows: dict[tuple[Part, SplitName], int] = field(default_factory=dict)
    images: int = 0
    licenses: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    reviews: Counter[str] = field(default_factory=Counter)
    practice: int = 0


def _faulty_rows(report: CheckReport) -> dict[int, str]:
    """Return the rows with an error by position, and why they are left out.

    Raises:
        InputError: a limit is exceeded, or no row is without an error.
    """
    if not report.exceeded:
        if len(report.faulty) == report.rows:
            raise InputError("every row has an error, so there is nothing to release: see them with 'chiron build check'")
        left_out = {position: f"check: {name}" for position, name in report.faulty.items()}
        for reason, number in Counter(left_out.values()).items():
            _log.info("left out %d rows (%s)", number, reason)
        return left_out
    exceeded = ", ".join(
        f"{name} ({len(report.counts[name].rows):,} of {report.rows:,} rows, {report.share(name):.2%}; limit {report.limits[name]:.2%})"
        for name in report.exceeded
    )
    raise InputError(
        f"not released, limits are exceeded: {exceeded}: see the rows with 'chiron build check' and fix them,"
        f" or raise the limits with {report.higher_limits}"
    )


def _balanced(
    index: DatasetIndex, splits: Split, options: ReleaseOptions, left_out: dict[int, str]
) -> dict[tuple[Part, SplitName], list[int]]:
    """Return positions by part and split, each in curriculum order; add the rows removed by a cap to ``left_out``."""
    chosen: dict[tuple[Part, SplitName], list[int]] = {(part, split): [] for part in ALL_PARTS for split in SPLITS}
    for position in sorted(splits.split, key=lambda position: curriculum_key(index.entries[position])):
        chosen[index.entries[position].part, splits.split[position]].append(position)
    if options.balance is not None:
        for part in ALL_PARTS:
            positions = chosen[part, "train"]
            stay = {positions[i] for i in capped(index.entries.at(positions), options.balance, seed=options.seed)}
            left_out |= dict.fromkeys((p for p in positions if p not in stay), "over the cap of its cell")
            chosen[part, "train"] = [p for p in positions if p in stay]
    return chosen


def _write_rows(index: DatasetIndex, splits: Split, chosen: Mapping[tuple[Part, SplitName], list[int]], folder: Path) -> _Counts:
    counts = _Counts()
    store = _ImageStore(index, folder / IMAGES)
    with Exports(folder) as exports:
        for (part, split), positions in chosen.items():
            if not positions:
                continue
            shards = ParquetShards(folder / "data" / part, split, part)
            balance = weights(index.entries.at(positions))
            for order, (position, record) in enumerate(index.records(positions)):
                kept = [store.keep(image) for image in index.entries[position].images]
                row = ReleasedRow(
                    id=record["id"],
                    part=part,
                    split=split,
                    images=tuple(image for image, _ in kept),
                    turns=tuple(Turn(turn["role"], turn["content"]) for turn in record["messages"]),
                    record=record,
                    group=splits.group[position],
                    order=order,
                    weight=balance[order],
                )
                shards.add(row, [data for _, data in kept])
                exports.add(row)
                counts.licenses[record["licence"] or "not stated"] += 1
                if (review := record["provenance"].get("review")) is not None:
                    counts.reviews[review["status"]] += 1
                models = record["provenance"]["models"]
                counts.models.update(f"{role}: {model}" for role, model in models.items())
                counts.practice += any(map(is_practice, models.values()))
            shards.close()
            counts.rows[part, split] = shards.count
    counts.images = len(store.names)
    return counts


class _ImageStore:
    """Images of the release, each stored once.

    Metadata is removed and files are named by content, because both may contain names of people.
    """

    def __init__(self, index: DatasetIndex, folder: Path) -> None:
        self._index, self._folder = index, folder
        self.names: set[str] = set()
        """Names of its files."""

    def keep(self, image: int) -> tuple[ReleasedImage, bytes]:
        """Store an image, given its position in the index; return it with its file's bytes, without metadata."""
        taken = self._index.prints[image]
        if taken is None:
            raise AssertionError("rows with such images were left out")
        number, name = self._index.names[image]
        try:
            # The image was checked when it was hashed; its hash shows that the file is unchanged.
            data = (self._index.sources[number].folder.root / name).read_bytes()
        except OSError as error:
            raise InputError(f"image '{name}' can no longer be read ({error.strerror}): restore it and run the command again") from error
        if hashlib.sha256(data).hexdigest() != taken.sha256:
            raise InputError(f"image '{name}' changed while the release was written: run the command again")
        try:
            data = without_metadata(data)
        except LeaveOut as problem:
            raise InputError(f"image '{name}' may contain names: {problem}") from problem
        sha256 = hashlib.sha256(data).hexdigest()
        released = ReleasedImage(f"{sha256[:2]}/{sha256}.{_SUFFIXES.get(taken.format, 'img')}", taken.width, taken.height)
        if released.name not in self.names:
            target = self._folder / released.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            self.names.add(released.name)
        return released, data


def _write_left_out(path: Path, index: DatasetIndex, left_out: Mapping[int, str], splits: Split) -> None:
    def lines() -> Iterator[str]:
        for position in sorted(left_out):
            detail = splits.left_out.get(position, "")
            record: LeftOutRecord = {"id": index.entries[position].id, "reason": left_out[position], "detail": detail}
            yield json.dumps(record, ensure_ascii=False) + "\n"

    write_atomically(path, lines())


def _without_examples(report: CheckReport) -> CheckSummary:
    """Return the counts of the report without examples, since these quote rows that must stay private."""
    record = report.to_record()
    for check in record["checks"].values():
        del check["examples"]
    return record


def _provenance(index: DatasetIndex, options: ReleaseOptions) -> ReleaseRecord:
    return {
        "format": RELEASE_FORMAT,
        "row_format": ROW_FORMAT,
        "chiron": __version__,
        "python": platform.python_version(),
        "datasets": version("datasets"),
        "seed": options.seed,
        "ratios": list(options.ratios),
        "balance": options.balance,
        "image_distance": options.distance,
        "limits": dict(options.limits),
        "parts": [_source(source) for source in index.sources],
    }


def _source(source: PartSource) -> SourceRecord:
    run = WorkDirectory(source.directory).read_run() or {}
    return {
        "directory": source.directory.name,
        "rows_sha256": file_sha256(source.rows),
        "began": run.get("began"),
        "identity_sha256": hashlib.sha256(json.dumps(run.get("identity"), sort_keys=True).encode()).hexdigest(),
    }
