"""`chiron build check` and `chiron build release`: the whole dataset, compared with benchmarks."""

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
    typer.Option(
        "--benchmark", metavar="NAME=DIR", help="Benchmark on disk that the dataset must not contain; 'chiron eval --list' shows the names."
    ),
]
BenchmarksOption = Annotated[Path | None, typer.Option("--benchmarks", metavar="DIR", help="Folder with a subfolder for each benchmark.")]


@contextmanager
def benchmark_items(named: list[str] | None, below: Path | None) -> Iterator[Iterator["BenchmarkItem"]]:
    """Yield every question of the named benchmarks and of those in a folder; print what cannot be compared.

    Raises:
        InputError: a benchmark is unknown, or its files are missing.
    """
    from chiron.evaluation.benchmarks.loading import load
    from chiron.evaluation.registry import benchmark_of

    places = _places(named or [], below)
    # Images inside a benchmark's records are written to a temporary folder, because the benchmark's folder must not change.
    with tempfile.TemporaryDirectory(prefix="chiron-benchmarks-") as unpacked:
        # Load all of them first, so that a misspelled folder is reported now and not after an hour.
        yield _items([load(benchmark_of(name), folder, Path(unpacked)) for name, folder in places])


def _places(named: list[str], below: Path | None) -> list[tuple[str, Path]]:
    from chiron.evaluation.registry import benchmark_of, benchmarks

    places = []
    for each in named:
        name, equals, folder = each.partition("=")
        if not equals or not folder:
            raise InputError(f"--benchmark {each}: write NAME=DIR, such as vqa_rad=data/vqa_rad; 'chiron eval --list' shows the names")
        benchmark_of(name)
        if not Path(folder).is_dir():
            raise InputError(f"--benchmark {each}: {folder} is not a folder: name the folder that contains the benchmark's files")
        places.append((name, Path(folder)))
    if below is not None:
        if not below.is_dir():
            raise InputError(f"--benchmarks {below}: not a folder: name one with a subfolder for each benchmark")
        folders = sorted(path for path in below.iterdir() if path.is_dir() and not path.name.startswith("."))
        known = [path for path in folders if path.name in benchmarks()]
        if not known:
            raise InputError(f"--benchmarks {below}: no subfolder has the name of a benchmark: 'chiron eval --list' shows the names")
        if other := [path.name for path in folders if path not in known]:
            messages().print(printable(f"note: not compared, because they are not names of benchmarks: {', '.join(other)}"), markup=False)
        places += [(path.name, path) for path in known]
    return places


def _items(benchmarks: list["LoadedBenchmark"]) -> Iterator["BenchmarkItem"]:
    from chiron.evaluation.contamination import Uncompared, items_to_compare

    for loaded in benchmarks:
        uncompared = Uncompared()
        yield from items_to_compare(loaded, uncompared)
        if uncompared.records or uncompared.images:
            missing = f"{uncompared.records} records and {len(uncompared.images)} images"
            messages().print(printable(f"note: {missing} of {loaded.name} cannot be read and are not compared"), markup=False)


PartsArgument = Annotated[
    list[Path], typer.Argument(metavar="DIR...", help="Directories that 'chiron build text', 'alignment' or 'cot' wrote.")
]
ImagesOption = Annotated[
    list[str] | None,
    typer.Option("--images", metavar="[PART=]DIR", help="Folder of the images, of all parts or of one (default: as stored in the parts)."),
]
LimitOption = Annotated[
    list[str] | None, typer.Option("--limit", metavar="CHECK=SHARE", help="Maximum share of rows that a check may find.")
]
DistanceOption = Annotated[
    int,
    typer.Option(
        "--distance", min=0, max=15, help="Maximum number of differing bits, of 64, between the hashes of nearly identical images."
    ),
]


def image_folders(parts: Sequence[Path], texts: Sequence[str]) -> "ImageFolders | None":
    """Parse ``--images``: a folder for all parts, or one ``PART=DIR`` for each part.

    Raises:
        InputError: it is neither, or both.
    """
    by_name = {str(part): part for part in parts} | {part.name: part for part in parts}
    folders = {
        by_name[name]: Path(folder) for name, equals, folder in (text.partition("=") for text in texts) if equals and name in by_name
    }
    if folders and len(folders) < len(texts):
        raise InputError(f"--images {' '.join(texts)}: name one folder for all parts, or each part once, as PART=DIR")
    if not folders and len(texts) > 1:
        listed = ", ".join(map(str, parts))
        raise InputError(f"--images {' '.join(texts)}: name one folder for all parts, or write PART=DIR with a part of {listed}")
    return folders or (Path(texts[0]) if texts else None)


def check_command(
    parts: PartsArgument,
    images: ImagesOption = None,
    limit: LimitOption = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder for the page (default: the first DIR).")] = None,
    distance: DistanceOption = 6,
    benchmark: BenchmarkOption = None,
    benchmarks: BenchmarksOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Check the rows; write check.html, check.json and findings.jsonl. Exit code 2 if a limit is exceeded."""
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
            sources_of(parts, image_folders(parts, images or ())),
            limits=limits_of(limit or ()),
            benchmark_items=items,
            distance=distance,
            spool=folder,
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
        raise InputError(f"over the limit: {', '.join(report.exceeded)}: fix the rows, or raise the limit: {report.higher_limits}")


def release_command(
    parts: PartsArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to create.")],
    images: ImagesOption = None,
    ratios: Annotated[
        str, typer.Option("--ratios", metavar="A,B,C", help="Shares of the splits train, validation and test.")
    ] = "0.9,0.05,0.05",
    balance: Annotated[
        int | None, typer.Option("--balance", min=1, metavar="N", help="Maximum training rows of a part in one cell of the coverage map.")
    ] = None,
    limit: LimitOption = None,
    license_name: Annotated[
        str | None, typer.Option("--license", help="License of the dataset, for the card (default: those of the sources).")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the splits.")] = 0,
    distance: DistanceOption = 6,
    benchmark: BenchmarkOption = None,
    benchmarks: BenchmarksOption = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an earlier release.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Check, split and write the dataset: Parquet with images, a card, and rows for four trainers and 'chiron train'."""
    from chiron.mmrp.checking import limits_of
    from chiron.mmrp.release import ReleaseOptions, release
    from chiron.mmrp.splits import SPLITS, read_ratios

    options = ReleaseOptions(
        ratios=read_ratios(ratios),
        seed=seed,
        balance=balance,
        limits=limits_of(limit or ()),
        license=license_name,
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
        counts = {"rows": rows, "images": made.images, "left_out": dict(made.left_out), "practice": made.practice}
        print(json.dumps({"out": str(made.path), **counts}))
    else:
        for name, number in rows.items():
            print(f"{name:22} {number:>9,} rows")
        for reason, number in made.left_out.items():
            print(printable(f"{'dropped':22} {number:>9,} rows: {reason}"))
    empty = [split for split, share in zip(SPLITS, options.ratios, strict=True) if share and not any(s == split for _, s in made.rows)]
    if empty:
        console.print(
            f"note: {' and '.join(empty)} got no rows, because there are only {made.groups} groups: try other --ratios or another --seed"
        )
    total = sum(made.rows.values())
    if made.practice:
        console.print(f"note: {made.practice:,} of {total:,} rows are practice text, not medical reasoning: do not train on them")
    if made.largest_group > 0.2 * total:
        console.print(
            f"note: one group has {made.largest_group:,} of {total:,} rows, so ratios may not be met: a lower --distance ties fewer images"
        )
    console.print(f"{total:,} rows, {made.images:,} images in {printable(made.path)}", markup=False)
