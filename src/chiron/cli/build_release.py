"""`chiron build check` and `chiron build release`."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chiron.cli.streams import messages
from chiron.errors import InputError
from chiron.terminal import printable

if TYPE_CHECKING:
    from chiron.dedup.contamination import BenchmarkItem
    from chiron.evaluation.benchmarks.loading import LoadedBenchmark
    from chiron.mmrp.dataset_index import ImageFolders

BenchmarkOption = Annotated[
    list[str] | None,
    typer.Option("--benchmark", metavar="NAME=DIR", help="A benchmark on disk that must not be in it; 'chiron eval --list' has the names."),
]
BenchmarksOption = Annotated[
    Path | None, typer.Option("--benchmarks", metavar="DIR", help="Every benchmark below it, each in a folder of its name.")
]


@contextmanager
def benchmark_items(named: list[str] | None, below: Path | None) -> Iterator[Iterator["BenchmarkItem"]]:
    """Every question of the benchmarks named and of those below a folder, one at a time; says what of them cannot be compared.

    Raises:
        InputError: there is no such benchmark, or its files are not there.
    """
    from chiron.evaluation.benchmarks.loading import load
    from chiron.evaluation.registry import benchmark_of

    places = _places(named or [], below)
    # What a benchmark's folder cannot take (images inside its records) lies here for as long as it is looked at.
    with tempfile.TemporaryDirectory(prefix="chiron-benchmarks-") as unpacked:
        # All are loaded before anything is looked at: a misspelt folder is told now and not after an hour.
        yield _items([load(benchmark_of(name), folder, Path(unpacked)) for name, folder in places])


def _places(named: list[str], below: Path | None) -> list[tuple[str, Path]]:
    from chiron.evaluation.registry import benchmark_of, benchmarks

    places = []
    for each in named:
        name, equals, folder = each.partition("=")
        if not equals or not folder:
            raise InputError(f"--benchmark {each}: write NAME=DIR, such as vqa_rad=data/vqa_rad; 'chiron eval --list' has the names")
        benchmark_of(name)
        if not Path(folder).is_dir():
            raise InputError(f"--benchmark {each}: {folder} is no folder: name the one that the benchmark's files lie in")
        places.append((name, Path(folder)))
    if below is not None:
        if not below.is_dir():
            raise InputError(f"--benchmarks {below}: no such folder: name the one that has a folder for each benchmark")
        folders = sorted(path for path in below.iterdir() if path.is_dir() and not path.name.startswith("."))
        known = [path for path in folders if path.name in benchmarks()]
        if not known:
            raise InputError(f"--benchmarks {below}: no folder in it is called as a benchmark: 'chiron eval --list' has the names")
        if other := [path.name for path in folders if path not in known]:
            messages().print(printable(f"note: no benchmark is called {', '.join(other)}: not compared with"), markup=False)
        places += [(path.name, path) for path in known]
    return places


def _items(benchmarks: list["LoadedBenchmark"]) -> Iterator["BenchmarkItem"]:
    from chiron.evaluation.contamination import Uncompared, items_to_compare

    for loaded in benchmarks:
        uncompared = Uncompared()
        yield from items_to_compare(loaded, uncompared)
        if uncompared.records or uncompared.images:
            missing = f"{uncompared.records} records and {len(uncompared.images)} images"
            messages().print(printable(f"note: {missing} of {loaded.name} cannot be read and were not compared"), markup=False)


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


def check_command(
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
    from chiron.mmrp.checking import check_rows, limits_of, write_results
    from chiron.mmrp.dataset_index import sources_of

    folder = out or parts[0]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be created ({error.strerror}): choose another --out") from error
    with (
        benchmark_items(benchmark, benchmarks) as items,
        check_rows(
            sources_of(parts, image_folders(parts, images or ())), limits=limits_of(limit or ()), benchmark_items=items, distance=distance
        ) as (survey, report),
    ):
        page = write_results(folder, survey, report)
    if as_json:
        print(json.dumps(report.to_record(), ensure_ascii=False))
    else:
        for name, counts in report.counts.items():
            over = "  over its limit" if name in report.exceeded else ""
            print(f"{name:18} {len(counts.rows):>8,} rows {report.share(name):>8.2%}  {len(counts.errors):>7,} errors{over}")
    messages().print(f"{report.rows:,} rows, {report.compared_with}; page  {printable(page)}", markup=False)
    if report.exceeded:
        raise InputError(f"over the limit: {', '.join(report.exceeded)}: mend the rows, or raise the limit: {report.higher_limits}")


def release_command(
    parts: PartsArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to make.")],
    images: ImagesOption = None,
    ratios: Annotated[str, typer.Option("--ratios", metavar="A,B,C", help="Shares of train, validation and test.")] = "0.9,0.05,0.05",
    balance: Annotated[
        int | None, typer.Option("--balance", min=1, metavar="N", help="At most N training rows of a part in a cell of the map.")
    ] = None,
    limit: LimitOption = None,
    licence: Annotated[str | None, typer.Option("--licence", help="Of the whole, for the card (default: what the sources say).")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the splits.")] = 0,
    distance: DistanceOption = 6,
    benchmark: BenchmarkOption = None,
    benchmarks: BenchmarksOption = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an earlier release of that name.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts for programs.")] = False,
) -> None:
    """Check, divide, order and write: Parquet with images, a card, and rows for four trainers and 'chiron train'."""
    from chiron.mmrp.checking import limits_of
    from chiron.mmrp.release import ReleaseOptions, release
    from chiron.mmrp.splits import SPLITS, read_ratios

    options = ReleaseOptions(
        ratios=read_ratios(ratios),
        seed=seed,
        balance=balance,
        limits=limits_of(limit or ()),
        license=licence,
        distance=distance,
        replace=replace,
    )
    console = messages()
    with benchmark_items(benchmark, benchmarks) as items:
        made = release(
            parts,
            out,
            images=image_folders(parts, images or ()),
            options=options,
            benchmark_items=items,
            watch=lambda begun: console.print(begun) if begun != "done" else None,
        )
    rows = {f"{part}/{split}": number for (part, split), number in made.rows.items()}
    if as_json:
        print(json.dumps({"out": str(made.path), "rows": rows, "images": made.images, "left_out": dict(made.left_out)}))
    else:
        for name, number in rows.items():
            print(f"{name:22} {number:>9,} rows")
        for reason, number in made.left_out.items():
            print(printable(f"{'left out':22} {number:>9,} rows: {reason}"))
    empty = [split for split, share in zip(SPLITS, options.ratios, strict=True) if share and not any(s == split for _, s in made.rows)]
    if empty:
        console.print(f"note: {' and '.join(empty)} got no rows: {made.groups} groups are few, try other --ratios or another --seed")
    total = sum(made.rows.values())
    if made.largest_group > 0.2 * total:
        console.print(f"note: one group has {made.largest_group:,} of {total:,} rows, so shares may be missed: --distance may tie too much")
    console.print(f"{total:,} rows, {made.images:,} images in {printable(made.path)}", markup=False)
