"""The checks of a dataset, put together: what was found, how much of it, and whether that is too much."""

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any, Final

from chiron.cases.likeness.prints import DISTANCE
from chiron.errors import DiskError, InputError
from chiron.mmrp.checks import duplicates
from chiron.mmrp.checks.finding import Finding
from chiron.mmrp.checks.overlap import Foreign, overlap
from chiron.mmrp.checks.registry import CHECKS, look_at
from chiron.mmrp.row import MmrpRow
from chiron.mmrp.survey import Source, Survey

EXAMPLES: Final = 5
"""Of each check, for the page."""


@dataclass(slots=True)
class Tally:
    """What one check found."""

    rows: set[int] = field(default_factory=set)
    """Positions of the rows with something."""
    errors: set[int] = field(default_factory=set)
    """Of these, the rows with an error."""
    examples: list[tuple[int, Finding]] = field(default_factory=list)
    """The first few, with their rows' positions."""


class CheckReport:
    """What all checks found."""

    def __init__(self, limits: Mapping[str, float], spool: Path | None = None) -> None:
        """``limits``: by check, as :func:`limits_of` makes them; ``spool``: the folder for temporary files."""
        self.limits = limits
        self.rows = 0
        self.tallies: dict[str, Tally] = {name: Tally() for name in CHECKS}
        self.faulty: dict[int, str] = {}
        """Rows with an error by their positions, with the first check that found one."""
        self.compared: Counter[str] = Counter()
        """Questions of benchmarks that the rows were compared with, by benchmark."""
        self._file = tempfile.TemporaryFile("w+", dir=spool, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 - closed below

    def add(self, position: int, finding: Finding) -> None:
        """Count a finding of the row at a position.

        Raises:
            DiskError: the disk is full.
        """
        tally = self.tallies[finding.check]
        if position not in tally.rows and len(tally.examples) < EXAMPLES:
            tally.examples.append((position, finding))
        tally.rows.add(position)
        if finding.severity == "error":
            tally.errors.add(position)
            self.faulty.setdefault(position, finding.check)
        try:
            self._file.write(json.dumps(finding.to_record(), ensure_ascii=False) + "\n")
        except OSError as problem:
            raise DiskError(f"findings cannot be kept ({problem.strerror}): free space on the disk and run it again") from problem

    def findings(self) -> Iterator[str]:
        """Every finding as a line of JSON."""
        self._file.flush()
        self._file.seek(0)
        yield from self._file

    def close(self) -> None:
        """Give the temporary file back."""
        self._file.close()

    def share(self, name: str) -> float:
        """Rows with something of one check over all rows."""
        return len(self.tallies[name].rows) / self.rows if self.rows else 0.0

    @property
    def passed(self) -> list[str]:
        """Checks whose limit is passed."""
        return [name for name in CHECKS if self.share(name) > self.limits[name]]

    @property
    def compared_with(self) -> str:
        """The benchmarks that the rows were compared with, in words: nothing found there means little where it is none."""
        if not self.compared:
            return "compared with no benchmark"
        return "compared with " + ", ".join(f"{name} ({number:,} questions)" for name, number in sorted(self.compared.items()))

    @property
    def higher_limits(self) -> str:
        """The options that would let these rows pass, as they are typed."""
        return " ".join(f"--limit {name}={ceil(100 * self.share(name)) / 100:g}" for name in self.passed)

    def to_record(self) -> dict[str, Any]:
        """As ``check.json``."""
        return {
            "rows": self.rows,
            "compared_with": dict(sorted(self.compared.items())),
            "rows_with_errors": len(self.faulty),
            "limits_passed": self.passed,
            "checks": {
                name: {
                    "rows": len(tally.rows),
                    "errors": len(tally.errors),
                    "share": self.share(name),
                    "limit": self.limits[name],
                    "examples": [finding.to_record() for _, finding in tally.examples],
                }
                for name, tally in self.tallies.items()
            },
        }


def limits_of(changes: Iterable[str] = ()) -> dict[str, float]:
    """Every check's limit; ``changes`` are ``name=share``, as the command line takes them.

    Raises:
        InputError: no such check, or no share from 0 to 1.
    """
    limits = {name: check.limit for name, check in CHECKS.items()}
    for change in changes:
        name, _, share = change.partition("=")
        if name not in limits:
            raise InputError(f"--limit {change}: no check is called '{name}': there are {', '.join(limits)}")
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            raise InputError(f"--limit {change}: write {name}=SHARE with a share from 0 to 1, such as {name}=0.01")
        limits[name] = value
    return limits


@contextmanager
def check_rows(
    sources: list[Source],
    *,
    limits: Mapping[str, float] | None = None,
    foreign: Iterable[Foreign] = (),
    distance: int = DISTANCE,
    spool: Path | None = None,
) -> Iterator[tuple[Survey, CheckReport]]:
    """Look at every row by itself and at all of them together.

    Args:
        sources: the parts, from :func:`chiron.mmrp.survey.sources_of`.
        limits: by check; the defaults where not given.
        foreign: items of the benchmarks on disk.
        distance: bits in which perceptual hashes of nearly the same image may differ.
        spool: folder for temporary files.

    Yields:
        The survey, which splits and exports go on with, and what was found; both end with the block.

    Raises:
        InputError: a source cannot be read.
        DiskError: the disk is full.
    """
    report = CheckReport(limits if limits is not None else limits_of(), spool)

    def watch(row: MmrpRow) -> None:
        for finding in look_at(row):
            report.add(report.rows, finding)
        report.rows += 1

    def counted() -> Iterator[Foreign]:
        for item in foreign:
            report.compared[item.benchmark] += 1
            yield item

    with closing(report), Survey(sources, watch=watch, distance=distance, spool=spool) as survey:
        repeated = chain(duplicates.repeated(survey), duplicates.nearly_repeated(survey))
        for position, finding in chain(_unreadable(survey), repeated, duplicates.shared(survey), overlap(survey, counted())):
            report.add(position, finding)
        yield survey, report


def counts_by_part(survey: Survey) -> Counter[str]:
    """Rows of each part."""
    return Counter(entry.part for entry in survey.entries)


def _unreadable(survey: Survey) -> Iterator[tuple[int, Finding]]:
    if not survey.problems:
        return
    broken: dict[int, str] = defaultdict(str, survey.problems)
    for position, entry in enumerate(survey.entries):
        for image in entry.images:
            if image in broken:
                yield position, Finding("unreadable_images", entry.id, broken[image])
                break
