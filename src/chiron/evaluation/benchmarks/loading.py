"""Find a benchmark's files on disk or on the hub, and load every record as an item or a bad item."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from chiron.cases.images import CheckImage
from chiron.errors import InputError
from chiron.evaluation.benchmarks.benchmark import BadRecord, Benchmark, BenchmarkRecord
from chiron.evaluation.benchmarks.fields import UNKNOWN, Unreadable, read_records, yes_or_no
from chiron.evaluation.benchmarks.image_source import ImageSource, cache_folder
from chiron.evaluation.items import BadItem, Item, Kind
from chiron.evaluation.protocols.protocol import Protocol
from chiron.evaluation.registry import benchmarks
from chiron.extras import install_command


def _located(benchmark: Benchmark, data: Path | None) -> tuple[Path, str | None]:
    """Return the folder with the files, and the hub's commit; ``None`` for local files.

    The folder is ``DATA/NAME``, the data set's folder in ``DATA``, or ``DATA``. Without ``data``, it is in the hub's cache.
    """
    if data is None:
        return _from_hub(benchmark)
    if not data.is_dir():
        raise InputError(f"data folder {data} does not exist: {how_to_get(benchmark)}")
    return next((own for name in (benchmark.name, benchmark.folder) if (own := data / name).is_dir()), data), None


def how_to_get(benchmark: Benchmark) -> str:
    """Describe in one sentence what to download and where to put it."""
    if benchmark.hub is None:
        command = f"'chiron eval fetch {benchmark.name} --data DIR', or " if benchmark.web_files else ""
        return command + benchmark.instructions
    files = benchmark.files[0].replace("|", ", ")
    zips = f" with its {' or '.join(benchmark.archives)}" if benchmark.archives else ""
    # Show only the first of the alternative patterns, which is enough to act on.
    return (
        f"download {files}{zips} of the data set {benchmark.hub} ('chiron eval fetch {benchmark.name} --data DIR') and give --data DIR"
        + (f"; {benchmark.instructions}" if benchmark.instructions else "")
    )


def _from_hub(benchmark: Benchmark) -> tuple[Path, str]:
    if benchmark.hub is None:
        raise InputError(f"{benchmark.name} is not on the hub: {benchmark.instructions}")
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError(
            f"{benchmark.name} without --data is fetched from the hub, which needs the package datasets ({error}):"
            f" {install_command('eval')}"
        ) from error
    hub: Any = huggingface_hub
    wanted = [*(part for pattern in benchmark.files for part in pattern.split("|")), *benchmark.archives, *benchmark.extra_files]
    try:
        folder = Path(hub.snapshot_download(benchmark.hub, repo_type="dataset", allow_patterns=wanted))
    except Exception as error:
        # The hub client, its HTTP library and the system raise many error types. For the user all mean: not available here.
        raise InputError(f"{benchmark.name} could not be fetched from the hub ({type(error).__name__}): {how_to_get(benchmark)}") from error
    return folder, folder.resolve().name


@dataclass(frozen=True)
class LoadedBenchmark:
    """The questions of one benchmark, ready to be asked."""

    name: str
    items: tuple[Item | BadItem, ...]
    images: Path
    """The folder that image names are relative to; images in a zip are unpacked only when they are needed."""
    check: CheckImage = field(repr=False)
    """Finds and checks an image by its name."""
    revision: str | None = None
    """The hub's commit, if the data came from the hub."""
    notes: tuple[str, ...] = ()
    bare: bool = False
    """See :attr:`Benchmark.bare`."""
    counts_all: bool = False
    """See :attr:`Benchmark.counts_all`."""

    def counted_by(self, protocol: Protocol) -> tuple[Item | BadItem, ...]:
        """Return the items that count under a protocol: all of them if the benchmark requires it."""
        return self.items if self.counts_all else protocol.select(self.items)

    def shown_by(self, protocol: Protocol) -> list[Item | BadItem]:
        """Return the items that count under a protocol, as it asks them."""
        return [protocol.shown(item) if isinstance(item, Item) else item for item in self.counted_by(protocol)]

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the questions as loaded. It changes if the data change or are read differently."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(json.dumps(_fingerprinted(item), sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def load(benchmark: Benchmark, data: Path | None, run: Path) -> LoadedBenchmark:
    """Read a benchmark's files. Images are read only when they are needed.

    Args:
        benchmark: the benchmark.
        data: folder with its files, or with a subfolder of its name; ``None`` fetches them from the hub.
        run: run directory, used if the data folder cannot be written.

    Raises:
        InputError: the data are missing or have other columns.
        DiskError: images inside the records cannot be written to the cache.
    """
    folder, revision = _located(benchmark, data)
    files = _files(benchmark, folder)
    archives = [path for pattern in benchmark.archives for path in sorted(folder.glob(pattern))]
    image_source = ImageSource(folder, archives, cache_folder(folder, run, benchmark.name))
    extra_records = _extra_records(benchmark, folder)
    unassigned: list[int] = []
    items = tuple(_unique(_items(benchmark, files, image_source, extra_records, unassigned)))
    if not items:
        raise InputError(f"{benchmark.name}: {files[0]} contains no question of this benchmark: {how_to_get(benchmark)}")
    _need_images(benchmark, items, image_source, folder)
    notes = []
    if benchmark.n is not None and len(items) != benchmark.n:
        notes.append(f"{benchmark.name}: these files contain {len(items)} questions, the published ones {benchmark.n}")
    if unassigned:
        unnamed = f"{len(unassigned)} records do not name their benchmark (first: row {unassigned[0]})"
        notes.append(f"{benchmark.name}: {unnamed}: they are not in N")
    return LoadedBenchmark(
        benchmark.name, items, image_source.root, image_source.check, revision, tuple(notes), benchmark.bare, benchmark.counts_all
    )


def _files(benchmark: Benchmark, folder: Path) -> Sequence[Path]:
    # A folder named after another benchmark or data set belongs to that one, even if its file names match.
    others = {name for other in benchmarks().values() for name in (other.name, other.folder)} - {benchmark.name, benchmark.folder}
    for pattern in benchmark.files:
        paths = (path for part in pattern.split("|") for path in folder.glob(part))
        if found := sorted(path for path in paths if path.is_file() and path.relative_to(folder).parts[0] not in others):
            return found
    found = [path for path in sorted(folder.glob("*.json*")) if path.is_file() and _recognized(benchmark, path)]
    if len(found) > 1:
        raise InputError(
            f"{benchmark.name}: {' and '.join(path.name for path in found)} in {folder} could both be this benchmark: keep only one there"
        )
    if found:
        return found
    raise InputError(f"{benchmark.name} is not in {folder}: {how_to_get(benchmark)}")


def _recognized(benchmark: Benchmark, path: Path) -> bool:
    """Whether the file's first record belongs to the benchmark."""
    if benchmark.recognize is None or path.suffix not in {".json", ".jsonl"}:
        return False
    try:
        first = next(read_records(path), None)
    except InputError:
        return False  # an unrelated file
    return isinstance(first, dict) and benchmark.recognize(first)


def _extra_records(benchmark: Benchmark, folder: Path) -> Mapping[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for pattern in benchmark.extra_files:
        for path in sorted(folder.glob(pattern)):
            try:
                value = json.loads(path.read_text("utf-8-sig"))
            except (OSError, ValueError, RecursionError) as error:
                raise InputError(f"{path} cannot be read ({error}): download it again") from error
            if not isinstance(value, dict):
                raise InputError(f"{path} is not an object of records by id: download it again")
            found.update({key: entry if isinstance(entry, dict) else {"ground_truth": entry} for key, entry in value.items()})
    if benchmark.extra_files and not found:
        raise InputError(f"{benchmark.name}: {folder} has no {' or '.join(benchmark.extra_files)}: {how_to_get(benchmark)}")
    return found


def _items(
    benchmark: Benchmark,
    files: Sequence[Path],
    image_source: ImageSource,
    extra_records: Mapping[str, Mapping[str, Any]],
    unassigned: list[int],
) -> Iterator[Item | BadItem]:
    records = ((file, record) for file in files for record in read_records(file))
    for number, (file, record) in enumerate(records, 1):
        if isinstance(record, Unreadable):
            if benchmark.belongs is None:
                yield BadItem(f"row {number}", record.problem, "choice" if benchmark.closed else None)
            else:
                unassigned.append(number)
            continue
        if number == 1 and (missing := benchmark.missing_columns(record)):
            raise InputError(
                f"{benchmark.name}: {file} lacks the columns {', '.join(missing)}; it has {', '.join(map(str, islice(record, 20)))}."
                f" It may belong to another benchmark. To get this one, {how_to_get(benchmark)}"
            )
        belongs = benchmark.belongs is None or benchmark.belongs(record)
        if belongs is None:
            unassigned.append(number)
        elif belongs:
            yield _item(benchmark, BenchmarkRecord(record, number, benchmark.name, image_source, extra_records))


def _item(benchmark: Benchmark, record: BenchmarkRecord) -> Item | BadItem:
    raw, row, kind = record.raw, f"row {record.number}", _kind(benchmark, record.raw)
    name = next((str(raw[column]) for column in ("id", "qid", "index") if raw.get(column) not in (None, "")), row)
    if missing := benchmark.missing_columns(raw):
        return BadItem(name, f"{row} lacks {', '.join(missing)}", kind)
    try:
        item = benchmark.read(record)
    except BadRecord as problem:
        return BadItem(name, f"{row}: {problem}", kind)
    except (ValueError, TypeError) as error:
        # A value of an unexpected type makes this record bad; the others still load.
        return BadItem(name, f"{row}: it cannot be read as a question ({type(error).__name__}: {str(error)[:100]})", kind)
    lack = _imageless(benchmark, item)
    return BadItem(item.id, f"{row}: {lack}", _kind_of(item)) if lack else item


def _imageless(benchmark: Benchmark, item: Item) -> str:
    """Describe missing images: fewer than the text marks, or none at all. Empty if nothing is missing."""
    if item.marks > len(item.images):
        return f"its text has {item.marks} image marks, but it has {len(item.images)} images"
    return "it has no image" if benchmark.needs_image and not item.images else ""


def _kind(benchmark: Benchmark, raw: Mapping[str, Any]) -> Kind | None:
    """Guess the kind of question that a bad record would have been; ``None`` if the record does not show it."""
    called = str(raw.get("answer_type") or "").strip().upper()
    if called in {"CLOSED", "OPEN"}:
        return "choice" if called == "CLOSED" else "open"
    if benchmark.closed or raw.get("question_type") == "multiple-choice" or raw.get("options") not in (None, "", "[]", [], {}):
        return "choice"
    answer = raw.get("answer")
    if not isinstance(answer, str) or answer.strip() in {"", UNKNOWN}:
        return None
    return "yes_no" if yes_or_no(answer) else "open"


def _kind_of(item: Item | BadItem) -> Kind | None:
    labelled = isinstance(item, Item) and item.labels.get("answer_type", "").upper() == "CLOSED"
    return "choice" if labelled else item.kind


def _unique(items: Iterator[Item | BadItem]) -> Iterator[Item | BadItem]:
    """Make ids unique: a second item with the same id becomes a bad item, because tables could not tell the two apart."""
    seen: Counter[str] = Counter()
    for item in items:
        seen[item.id] += 1
        if seen[item.id] == 1:
            yield item
            continue
        label = f"{item.id} ({seen[item.id]})"
        problem = item.problem if isinstance(item, BadItem) else f"the id '{item.id}' is used twice: give each item its own id"
        yield BadItem(label, problem, _kind_of(item))


def _need_images(benchmark: Benchmark, items: Sequence[Item | BadItem], image_source: ImageSource, folder: Path) -> None:
    """Check that at least one image exists. If only some are missing, each item reports it.

    Raises:
        InputError: no named image exists.
    """
    names = [name for item in items if isinstance(item, Item) for name in item.images]
    if names and not any(image_source.has(name) for name in names):
        raise InputError(f"{benchmark.name}: none of its images is in {folder} (the first is '{names[0]}'): {how_to_get(benchmark)}")


def _fingerprinted(item: Item | BadItem) -> dict[str, Any]:
    if isinstance(item, BadItem):
        return {"id": item.id, "kind": item.kind}  # the problem is in this program's words, which may change
    values = {**vars(item), "labels": dict(item.labels)}
    # Add these keys only where they have a value, so that fingerprints of other benchmarks do not change.
    more = {"asked": [[turn.role, turn.text] for turn in values.pop("asked")], "alternatives": values.pop("alternatives")}
    return {**values, **{name: value for name, value in more.items() if value}}
