"""``chiron build check``: what is wrong with the rows of a dataset's parts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chiron.cli.benchmark_options import BenchmarkOption, BenchmarksOption, benchmark_items
from chiron.cli.consoles import messages
from chiron.errors import InputError
from chiron.terminal import printable

if TYPE_CHECKING:
    from chiron.mmrp.survey import ImageFolders

PartsArgument = Annotated[
    list[Path], typer.Argument(metavar="DIR...", help="Directories that 'chiron build text', 'alignment' or 'cot' wrote.")
]
ImagesOption = Annotated[
    list[str] | None,
    typer.Option("--images", metavar="[PART=]DIR", help="Where images lie, of all parts or of one (default: what the parts say)."),
]
LimitOption = Annotated[list[str] | None, typer.Option("--limit", metavar="CHECK=SHARE", help="Share of rows that a check may object to.")]
DistanceOption = Annotated[
    int, typer.Option("--distance", min=0, max=15, help="Bits of 64 in which the hashes of nearly the same image may differ.")
]


def image_folders(parts: Sequence[Path], said: Sequence[str]) -> "ImageFolders | None":
    """What ``--images`` says: a folder for all parts, or ``PART=DIR`` again and again.

    Raises:
        InputError: it says neither, or both.
    """
    by_name = {str(part): part for part in parts} | {part.name: part for part in parts}
    folders = {by_name[name]: Path(folder) for name, equals, folder in (text.partition("=") for text in said) if equals and name in by_name}
    if folders and len(folders) < len(said):
        raise InputError(f"--images {' '.join(said)}: name one folder for all parts, or each part once, as PART=DIR")
    if not folders and len(said) > 1:
        listed = ", ".join(map(str, parts))
        raise InputError(f"--images {' '.join(said)}: name one folder for all parts, or write PART=DIR with a part of {listed}")
    return folders or (Path(said[0]) if said else None)


def command(
    parts: PartsArgument,
    images: ImagesOption = None,
    limit: LimitOption = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where the page goes (default: the first DIR).")] = None,
    distance: DistanceOption = 6,
    benchmark: BenchmarkOption = None,
    benchmarks: BenchmarksOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts for programs.")] = False,
) -> None:
    """Look the rows over; write check.html, check.json and findings.jsonl. Exit code 2 if a limit is passed."""
    from chiron.mmrp.checking import check_rows, limits_of
    from chiron.mmrp.page import write_results
    from chiron.mmrp.survey import sources_of

    folder = out or parts[0]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}): choose another --out") from error
    with (
        benchmark_items(benchmark, benchmarks) as foreign,
        check_rows(
            sources_of(parts, image_folders(parts, images or ())), limits=limits_of(limit or ()), foreign=foreign, distance=distance
        ) as (survey, report),
    ):
        page = write_results(folder, survey, report)
    if as_json:
        print(json.dumps(report.to_record(), ensure_ascii=False))
    else:
        for name, tally in report.tallies.items():
            over = "  over its limit" if name in report.passed else ""
            print(f"{name:18} {len(tally.rows):>8,} rows {report.share(name):>8.2%}  {len(tally.errors):>7,} errors{over}")
    messages().print(f"{report.rows:,} rows, {report.compared_with}; page  {printable(page)}", markup=False)
    if report.passed:
        raise InputError(f"over the limit: {', '.join(report.passed)}: mend the rows, or raise the limit: {report.higher_limits}")
