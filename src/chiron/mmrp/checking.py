"""Run all checks of a dataset, and compare the number of findings with the limits."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from math import ceil
from pathlib import Path
from typing import Any, Final, NotRequired, TypedDict

from chiron.dedup.contamination import BenchmarkItem
from chiron.dedup.image_hash import DISTANCE
from chiron.dedup.low_memory import SpoolFile
from chiron.errors import InputError
from chiron.io import write_atomically
from chiron.mmrp.checks.check import Finding, checks, look_at
from chiron.mmrp.dataset_index import DatasetIndex, PartSource
from chiron.mmrp.row import MmrpRow, RowRecord
from chiron.reports.shell import render_page
from chiron.reports.thumbnails import thumbnails

EXAMPLES: Final = 5
"""Maximum number of examples per check on the page."""


CHECK_FORMAT: Final = 1
"""Version of ``check.json`` and ``findings.jsonl``, documented in docs/formats.md."""


class CheckRecord(TypedDict):
    """Counts of one check."""

    rows: int
    errors: int
    share: float
    limit: float
    examples: NotRequired[list[dict[str, str]]]
    """The first findings (:class:`~chiron.mmrp.checks.check.Finding`). Absent in a release, because they quote rows."""


class CheckSummary(TypedDict):
    """Contents of ``check.json``."""

    format: int
    rows: int
    compared_with: dict[str, int]
    """Number of items compared, by benchmark."""
    rows_with_errors: int
    limits_passed: list[str]
    """Checks whose limit is exceeded."""
    checks: dict[str, CheckRecord]


@dataclass(slots=True)
class CheckCounts:
    rows: set[int] = field(default_factory=set)
    """Positions of the rows with a finding."""
    errors: set[int] = field(default_factory=set)
    """Positions of the rows with an error."""
    examples: list[tuple[int, Finding]] = field(default_factory=list)
    """The first findings, with the positions of their rows."""


class CheckReport:
    def __init__(self, limits: Mapping[str, float], spool: Path | None = None) -> None:
        """Create an empty report.

        Args:
            limits: by check, from :func:`limits_of`.
            spool: folder for temporary files.
        """
        self.limits = limits
        self.rows = 0
        self.counts: dict[str, CheckCounts] = {name: CheckCounts() for name in checks()}
        self.faulty: dict[int, str] = {}
        """The first check that found an error, by row position."""
        self.compared: Counter[str] = Counter()
        """Number of questions the rows were compared with, by benchmark."""
        self._file = SpoolFile(spool)

    def add(self, position: int, finding: Finding) -> None:
        """Add a finding for the row at a position.

        Raises:
            DiskError: the disk is full.
        """
        counts = self.counts[finding.check]
        if position not in counts.rows and len(counts.examples) < EXAMPLES:
            counts.examples.append((position, finding))
        counts.rows.add(position)
        if finding.severity == "error":
            counts.errors.add(position)
            self.faulty.setdefault(position, finding.check)
        self._file.append((json.dumps(asdict(finding), ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))

    def findings(self) -> Iterator[str]:
        """Yield every finding as a line of JSON."""
        self._file.flush()
        self._file.file.seek(0)
        yield from (line.decode() for line in self._file.file)

    def close(self) -> None:
        self._file.close()

    def share(self, name: str) -> float:
        """Return the share of rows with a finding of one check."""
        return len(self.counts[name].rows) / self.rows if self.rows else 0.0

    @property
    def exceeded(self) -> list[str]:
        """Names of the checks whose limit is exceeded."""
        return [name for name in checks() if self.share(name) > self.limits[name]]

    @property
    def compared_with(self) -> str:
        """The benchmarks that the rows were compared with, as text. Without benchmarks, an absence of findings means little."""
        if not self.compared:
            return "compared with no benchmark"
        return "compared with " + ", ".join(f"{name} ({number:,} questions)" for name, number in sorted(self.compared.items()))

    @property
    def higher_limits(self) -> str:
        """The command-line options that would let these rows pass."""
        return " ".join(f"--limit {name}={ceil(100 * self.share(name)) / 100:g}" for name in self.exceeded)

    def to_record(self) -> CheckSummary:
        return {
            "format": CHECK_FORMAT,
            "rows": self.rows,
            "compared_with": dict(sorted(self.compared.items())),
            "rows_with_errors": len(self.faulty),
            "limits_passed": self.exceeded,
            "checks": {
                name: {
                    "rows": len(counts.rows),
                    "errors": len(counts.errors),
                    "share": self.share(name),
                    "limit": self.limits[name],
                    "examples": [asdict(finding) for _, finding in counts.examples],
                }
                for name, counts in self.counts.items()
            },
        }


def limits_of(changes: Iterable[str] = ()) -> dict[str, float]:
    """Return every check's limit; ``changes`` are ``name=share``, as on the command line.

    Raises:
        InputError: the check is unknown, or the share is not between 0 and 1.
    """
    limits = {name: check.limit for name, check in checks().items()}
    for change in changes:
        name, _, share = change.partition("=")
        if name not in limits:
            raise InputError(f"--limit {change}: unknown check '{name}'; choose one of {', '.join(limits)}")
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            raise InputError(f"--limit {change}: the share is not a number from 0 to 1: write {name}=0.01, for example")
        limits[name] = value
    return limits


@contextmanager
def check_rows(
    sources: list[PartSource],
    *,
    limits: Mapping[str, float] | None = None,
    benchmark_items: Iterable[BenchmarkItem] = (),
    distance: int = DISTANCE,
    spool: Path | None = None,
) -> Iterator[tuple[DatasetIndex, CheckReport]]:
    """Check every row by itself, and all rows together.

    Args:
        sources: the parts, from :func:`chiron.mmrp.dataset_index.sources_of`.
        limits: by check; missing ones get their default.
        benchmark_items: items of the benchmarks on disk.
        distance: maximum number of differing bits between perceptual hashes of nearly identical images.
        spool: folder for temporary files.

    Yields:
        The dataset index, also needed for splits and exports, and the report. Both are closed when the block ends.

    Raises:
        InputError: a source cannot be read.
        DiskError: the disk is full.
    """
    report = CheckReport(limits if limits is not None else limits_of(), spool)

    def watch(row: MmrpRow) -> None:
        for finding in look_at(row):
            report.add(report.rows, finding)
        report.rows += 1

    with (
        closing(report),
        closing(DatasetIndex(sources, watch=watch, benchmark_items=benchmark_items, distance=distance, spool=spool)) as index,
    ):
        report.compared.update(item.benchmark for item in index.benchmark_items)
        for check in checks().values():
            for position, finding in check.look_at_all(index) if check.look_at_all is not None else ():
                report.add(position, finding)
        yield index, report


PAGE, SUMMARY, FINDINGS = "check.html", "check.json", "findings.jsonl"
_LONGEST = 4000
"""Maximum number of characters of a text on the page."""


def write_results(folder: Path, index: DatasetIndex, report: CheckReport) -> Path:
    """Write ``check.html``, ``check.json`` (counts, examples) and ``findings.jsonl`` (all findings); return the page's path.

    Raises:
        DiskError: they cannot be written.
    """
    write_atomically(folder / SUMMARY, [json.dumps(report.to_record(), indent=2, ensure_ascii=False) + "\n"])
    write_atomically(folder / FINDINGS, report.findings())
    page = render_page(
        "chiron.mmrp",
        "check.html",
        styles=["check.css"],
        written=time.strftime("%Y-%m-%d %H:%M %z"),
        directories=[str(source.directory) for source in index.sources],
        report=report,
        parts=Counter(entry.part for entry in index.entries),
        images=len(index.prints),
        checks=list(checks().values()),
        examples=lambda name: _examples(name, index, report),
    )
    write_atomically(folder / PAGE, page)
    return folder / PAGE


def _examples(name: str, index: DatasetIndex, report: CheckReport) -> Iterator[dict[str, Any]]:
    examples = report.counts[name].examples
    positions = [position for position, _ in examples]
    for (position, finding), (_, record) in zip(examples, index.records(positions), strict=True):
        folder = index.sources[index.entries[position].source].folder
        yield {
            "finding": finding,
            "images": thumbnails(folder, record["images"]),
            "texts": [(title, _cut(text)) for title, text in _texts(record) if text],
        }


def _texts(record: RowRecord) -> Iterator[tuple[str, str]]:
    yield "Question", record["question"]
    yield "Options", "\n".join(record["options"])
    yield "Answer", record["answer"]
    yield "Reasoning", record["reasoning"] or record["messages"][-1]["content"]
    yield "Findings", "\n".join(record["findings"])


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text) - _LONGEST:,} more characters)"
