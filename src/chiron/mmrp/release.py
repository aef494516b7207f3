"""Build a release: one folder, with a dataset card, that ``datasets``, four trainers and ``chiron train`` can read."""

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from chiron._version import __version__
from chiron.cases.coverage import draw_coverage
from chiron.dedup.image_hash import ImagePrint
from chiron.errors import InputError
from chiron.extras import need
from chiron.importing.drafts import LeaveOut
from chiron.importing.image_metadata import without_metadata
from chiron.io import new_folder, write_atomically
from chiron.jobs.directory import WorkDirectory
from chiron.mmrp.card import MAP_FIGURE, write_card
from chiron.mmrp.checking import CheckReport, check_rows
from chiron.mmrp.checks.overlap import BenchmarkItem
from chiron.mmrp.coverage import capped, count_cells, coverage_of_rows, curriculum_key, weights
from chiron.mmrp.dataset_index import DatasetIndex, ImageFolders, sources_of
from chiron.mmrp.exports.rows import IMAGES, ReleasedImage, ReleasedRow
from chiron.mmrp.exports.writer import Exports
from chiron.mmrp.parquet import ParquetShards, features
from chiron.mmrp.release_types import ReleaseOptions, ReleaseSummary
from chiron.mmrp.row import ALL_PARTS, Part
from chiron.mmrp.splits import SPLITS, Split, SplitName, split_rows
from chiron.providers.local.dialogue import Turn

PROVENANCE, LEFT_OUT, CHECK = "provenance.json", "left_out.jsonl", "check.json"
_SUFFIXES: Final[Mapping[str, str]] = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tiff"}


def release(
    directories: Sequence[Path],
    out: Path,
    *,
    images: ImageFolders | None = None,
    wishes: ReleaseOptions | None = None,
    foreign: Iterable[BenchmarkItem] = (),
    watch: Callable[[str], None] = lambda _: None,
) -> ReleaseSummary:
    """Check, split and order the rows of some parts, and write a release atomically.

    Args:
        directories: directories of parts, as written by ``chiron build``.
        out: the folder to create.
        images: image folder for all parts, or one by part; by default the recorded one, else ``images/`` in the part's directory.
        wishes: options of the release.
        foreign: benchmark items, which the release must not contain.
        watch: called with the name of each phase that starts: ``checking``, ``dividing``, ``writing``, ``done``.

    Raises:
        InputError: a part cannot be read, a limit is exceeded, or ``out`` exists.
        DiskError: the disk is full; existing files are unchanged.
    """
    wishes = wishes or ReleaseOptions()
    features()  # fail early if "datasets" is missing
    need("matplotlib", "the card's map")  # fail early here too
    sources = sources_of(directories, images)
    with ExitStack() as stack:
        folder = stack.enter_context(new_folder(out, mark=PROVENANCE, replace=wishes.replace))
        watch("checking")
        survey, report = stack.enter_context(
            check_rows(sources, limits=wishes.limits, foreign=foreign, distance=wishes.distance, spool=folder)
        )
        _need_passed(report)
        left_out = {position: f"check: {name}" for position, name in report.faulty.items()}
        usable = [position for position in range(len(survey.entries)) if position not in left_out]
        if not usable:
            raise InputError("no row is left to release: 'chiron build check' shows what is wrong with them")
        watch("dividing")
        division = split_rows(survey, usable, ratios=wishes.ratios, seed=wishes.seed)
        left_out |= dict.fromkeys(division.left_out, "like a row of another split")
        chosen = _balanced(survey, division, wishes, left_out)
        watch("writing")
        tally = _write_rows(survey, division, chosen, folder)
        kept = [position for positions in chosen.values() for position in positions]
        entries = [survey.entries[position] for position in kept]
        released = ReleaseSummary(
            path=out,
            rows=tally.rows,
            images=tally.images,
            left_out=Counter(left_out.values()),
            groups=len({division.group[position] for position in kept}),
            largest_group=division.largest,
            cells=count_cells(entries),
            licences=tally.licences,
            models=tally.models,
        )
        _write_left_out(folder / LEFT_OUT, survey, left_out, division)
        write_atomically(folder / CHECK, [json.dumps(_counts(report), indent=2) + "\n"])
        write_atomically(folder / PROVENANCE, [json.dumps(_provenance(survey, wishes), indent=2, ensure_ascii=False) + "\n"])
        draw_coverage(coverage_of_rows(entries), folder / MAP_FIGURE, noun="rows")
        write_card(folder, released, report, licence=wishes.licence, modalities=wishes.modalities, body_systems=wishes.body_systems)
    watch("done")
    return released


@dataclass
class _Tally:
    rows: dict[tuple[Part, SplitName], int] = field(default_factory=dict)
    images: int = 0
    licences: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)


def _need_passed(report: CheckReport) -> None:
    if report.passed:
        told = ", ".join(
            f"{name} ({len(report.tallies[name].rows):,} of {report.rows:,} rows, {report.share(name):.2%};"
            f" limit {report.limits[name]:.2%})"
            for name in report.passed
        )
        raise InputError(f"not released: {told}: see them with 'chiron build check', mend them, or raise the limit: {report.higher_limits}")


def _balanced(
    survey: DatasetIndex, division: Split, wishes: ReleaseOptions, left_out: dict[int, str]
) -> dict[tuple[Part, SplitName], list[int]]:
    """Return positions by part and split, each in curriculum order; add the rows removed by a cap to ``left_out``."""
    chosen: dict[tuple[Part, SplitName], list[int]] = {(part, split): [] for part in ALL_PARTS for split in SPLITS}
    for position in sorted(division.split, key=lambda position: curriculum_key(survey.entries[position])):
        chosen[survey.entries[position].part, division.split[position]].append(position)
    if wishes.balance is not None:
        for part in ALL_PARTS:
            positions = chosen[part, "train"]
            stay = {positions[i] for i in capped([survey.entries[p] for p in positions], wishes.balance, seed=wishes.seed)}
            left_out |= dict.fromkeys((p for p in positions if p not in stay), "over the cap of its cell")
            chosen[part, "train"] = [p for p in positions if p in stay]
    return chosen


def _write_rows(survey: DatasetIndex, division: Split, chosen: Mapping[tuple[Part, SplitName], list[int]], folder: Path) -> _Tally:
    tally = _Tally()
    store = _ImageStore(survey, folder / IMAGES)
    with Exports(folder) as exports:
        for (part, split), positions in chosen.items():
            if not positions:
                continue
            shards = ParquetShards(folder / "data" / part, split, part)
            balance = weights([survey.entries[position] for position in positions])
            for order, (position, record) in enumerate(survey.records(positions)):
                kept = [store.keep(image) for image in survey.entries[position].images]
                row = ReleasedRow(
                    id=survey.entries[position].id,
                    part=part,
                    split=split,
                    images=tuple(image for image, _ in kept),
                    turns=tuple(Turn(turn["role"], turn["content"]) for turn in record["messages"]),
                    record=record,
                    group=division.group[position],
                    order=order,
                    weight=balance[order],
                )
                shards.add(row, [data for _, data in kept])
                exports.add(row)
                tally.licences[record["licence"] or "not stated"] += 1
                tally.models.update({f"{role}: {model}" for role, model in record["provenance"]["models"].items()})
            shards.close()
            tally.rows[part, split] = shards.count
    tally.images = store.count
    return tally


class _ImageStore:
    """Images of the release, each stored once.

    Metadata is removed and files are named by content, because both may contain names of people.
    """

    def __init__(self, survey: DatasetIndex, folder: Path) -> None:
        self._survey, self._folder = survey, folder
        self._there: set[str] = set()

    @property
    def count(self) -> int:
        """Number of files."""
        return len(self._there)

    def keep(self, image: int) -> tuple[ReleasedImage, bytes]:
        """Store an image, given its position in the index; return it with its file's bytes, without metadata."""
        taken = self._survey.prints[image]
        if taken is None:
            raise AssertionError("rows with such images were left out")
        number, name = self._survey.names[image]
        try:
            # The image was checked when it was hashed; its hash shows that the file is unchanged.
            data = (self._survey.sources[number].folder.root / name).read_bytes()
        except OSError as error:
            raise InputError(f"image '{name}' cannot be read any more ({error.strerror}): run this again") from error
        if hashlib.sha256(data).hexdigest() != taken.sha256:
            raise InputError(f"image '{name}' changed while the release was made: run this again")
        try:
            data = without_metadata(data)
        except LeaveOut as problem:
            raise InputError(f"image '{name}' may hold names: {problem}") from problem
        released = ReleasedImage(_released_name(data, taken), taken.width, taken.height)
        if released.name not in self._there:
            target = self._folder / released.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            self._there.add(released.name)
        return released, data


def _released_name(data: bytes, taken: ImagePrint) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    return f"{sha256[:2]}/{sha256}.{_SUFFIXES.get(taken.format, 'img')}"


def _write_left_out(path: Path, survey: DatasetIndex, left_out: Mapping[int, str], division: Split) -> None:
    def lines() -> Iterator[str]:
        for position in sorted(left_out):
            record = {"id": survey.entries[position].id, "reason": left_out[position], "detail": division.left_out.get(position, "")}
            yield json.dumps(record, ensure_ascii=False) + "\n"

    write_atomically(path, lines())


def _counts(report: CheckReport) -> dict[str, Any]:
    """Return the counts of the report without examples, since these quote rows that must stay private."""
    record = report.to_record()
    for check in record["checks"].values():
        del check["examples"]
    return record


def _provenance(survey: DatasetIndex, wishes: ReleaseOptions) -> dict[str, Any]:
    return {
        "chiron": __version__,
        "python": platform.python_version(),
        "datasets": version("datasets"),
        "seed": wishes.seed,
        "ratios": list(wishes.ratios),
        "balance": wishes.balance,
        "image_distance": wishes.distance,
        "limits": dict(wishes.limits),
        "parts": [
            {
                "directory": source.directory.name,
                "rows_sha256": _file_sha256(source.rows),
                "began": (run := WorkDirectory(source.directory).read_run() or {}).get("began"),
                "identity_sha256": hashlib.sha256(json.dumps(run.get("identity"), sort_keys=True).encode()).hexdigest(),
            }
            for source in survey.sources
        ],
    }


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
