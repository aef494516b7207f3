"""`chiron build`: the parts of the dataset, its checks and its release."""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from chiron.cli.search import DryRun, Pilot, need_dry_run, with_engine
from chiron.cli.streams import messages
from chiron.errors import InputError
from chiron.terminal import printable

if TYPE_CHECKING:
    from chiron.dedup.contamination import BenchmarkItem
    from chiron.evaluation.benchmarks.loading import LoadedBenchmark
    from chiron.jobs.engine import EngineOptions
    from chiron.mmrp.dataset_index import ImageFolders
    from chiron.mmrp.part import PartRun
    from chiron.mmrp.templates import ConversationTemplate

app = typer.Typer(help="Build a dataset: text questions, image-text alignment, chains of thought, checks, release.", no_args_is_help=True)

Cases = Annotated[
    Path, typer.Argument(metavar="CASES", help="JSONL or JSON file, in the published or the tidy format; questions are not needed.")
]
Config = Annotated[Path, typer.Option("--config", metavar="FILE", help="YAML configuration with models and a section 'build'.")]
MaybeConfig = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="YAML configuration, for build.seed and the prompts.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory of this part; created if missing, otherwise resumed.")]
Images = Annotated[Path | None, typer.Option("--images", metavar="DIR", help="Folder of the images (default: images/ next to CASES).")]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="Only the first N cases.")]
ShardOf = Annotated[str | None, typer.Option("--shard", metavar="I/N", help="Use only part I of N, for N machines.")]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")]
Reviews = Annotated[
    str,
    typer.Option(
        "--reviews",
        metavar="MODE",
        help="require: only what reviewers accepted; prefer: also what has no review; ignore: all, as it was found.",
    ),
]


commands_with_models: "dict[str, Callable[..., None]]" = {}
"""By name: the commands of parts that ask models. They take an argument ``engine``; see :func:`with_engine`."""


def _command_with_models(prepare: "Callable[..., PartRun[Any]]") -> "Callable[..., PartRun[Any]]":
    """Register the commands of a part that asks models, here and on Slurm. Their name and their help are those of ``prepare``."""

    def command(
        cases: Cases,
        config: Config,
        out: Out,
        images: Images = None,
        limit: Limit = None,
        shard: ShardOf = None,
        *,
        engine: "Callable[[], tuple[str, EngineOptions]]",
        dry_run: DryRun = False,
        pilot: Pilot = None,
        json_output: Json = False,
    ) -> None:
        from chiron.mmrp.config import load_build

        name, options = engine()
        prepared = partial(prepare, cases, load_build(config), out, images=images, shard=shard, engine=name, engine_options=options)
        _build_or_forecast(prepared, limit=limit, dry_run=dry_run, pilot=pilot, json_output=json_output)

    app.command(prepare.__name__, help=prepare.__doc__)(with_engine(command))
    commands_with_models[prepare.__name__] = command
    return prepare


@_command_with_models
def text(*arguments: Any, **options: Any) -> "PartRun[Any]":
    """Part 1: an author model writes multiple-choice questions about each case's text, and a reader model answers them.

    Run the same command again to resume: no call is sent or paid for twice.
    """
    from chiron.mmrp.text import prepare_text

    return prepare_text(*arguments, **options)


@_command_with_models
def questions(*arguments: Any, **options: Any) -> "PartRun[Any]":
    """Write questions for the search, from doctor to doctor, student to teacher or patient to doctor, to cases.jsonl.

    Run the same command again to resume: no call is sent or paid for twice.
    """
    from chiron.mmrp.questions import prepare_questions

    return prepare_questions(*arguments, **options)


@app.command("alignment")
def alignment(
    cases: Cases,
    out: Out,
    config: MaybeConfig = None,
    images: Images = None,
    limit: Limit = None,
    shard: ShardOf = None,
    json_output: Json = False,
) -> None:
    """Part 2: image groups with the findings that are visible in them. Uses rules; calls no model."""
    from chiron.mmrp.alignment import prepare_alignment
    from chiron.mmrp.config import load_build

    build = load_build(config) if config is not None else None
    build_part(prepare_alignment(cases, out, config=build, images=images, limit=limit, shard=shard), json_output=json_output)


@app.command("cot")
def cot(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run directories of 'chiron search', or result.jsonl files of the authors' search."),
    ],
    out: Out,
    form: Annotated[
        str, typer.Option(metavar="FORM", help="published, or intern: the prompt that the first run sent to its interns.")
    ] = "published",
    cases: Annotated[Path | None, typer.Option("--cases", metavar="FILE", help="File of the cases, if it was moved.")] = None,
    reviews: Reviews = "prefer",
    limit: Limit = None,
    json_output: Json = False,
) -> None:
    """Part 3: the retained paths of searches as training dialogues. Calls no model.

    Paths that reviewers rejected are dropped, and their edits replace steps ('chiron view RUN --review NAME').
    """
    from chiron.mmrp.cot import prepare_cot
    from chiron.mmrp.reviewed import review_mode

    wording, mode = template_named(form, runs[0]), review_mode(reviews)
    build_part(prepare_cot(runs, out, cases=cases, limit=limit, form=wording, reviews=mode), json_output=json_output)


def template_named(name: str, run: Path) -> "ConversationTemplate":
    from chiron.mmrp.cot import intern_form
    from chiron.mmrp.templates import PaperTemplate

    if name not in {"published", "intern"}:
        raise InputError(f"--form {name}: write published or intern")
    return intern_form(run) if name == "intern" else PaperTemplate()


def _build_or_forecast(
    prepare: "Callable[..., PartRun[Any]]", *, limit: int | None, dry_run: bool, pilot: int | None, json_output: bool
) -> None:
    need_dry_run(pilot, dry_run=dry_run)
    if dry_run:
        from chiron.cli.forecast import forecast_job

        forecast_job(prepare, pilot=pilot, limit=limit, json_output=json_output)
    else:
        build_part(prepare(limit=limit), json_output=json_output)


def build_part(run: "PartRun[Any]", *, json_output: bool) -> NoReturn:
    """Build a part with a progress display, print the summary, and exit with its exit code."""
    import sys

    from rich.markup import escape

    from chiron.cli.live import duration
    from chiron.cli.runner import closing_code, is_submitted, print_json, run_with_ui, spending_table, spent_in_words
    from chiron.mmrp.row import DROPPED

    summary = run_with_ui(run)
    if json_output:
        print_json(summary.to_record())
    elif not is_submitted(summary):
        console = messages()
        noun = run.progress.noun
        console.print(
            f"[green]{summary.kept} {noun}[/green] of {summary.total} {run.progress.unit}, {summary.pending} pending,"
            f" {duration(summary.seconds)}"
        )
        for reason, count in summary.dropped.items():
            # A row that lost a clause is listed in dropped.jsonl too, but is kept.
            what = f"{reason}: {count}" if reason.startswith("trimmed:") else f"dropped {count}: {reason}"
            console.print(f"  {escape(printable(what))}")
        if summary.spending:
            console.print(spending_table(summary.spending))
        if spent := spent_in_words(summary.spent_usd, summary.possibly_spent_usd):
            console.print(spent)
        for name, file in ((noun, summary.file), ("dropped", summary.directory / DROPPED)):
            console.print(f"{name:10}{escape(printable(file))}", soft_wrap=True)
        if summary.part == "questions" and summary.kept:
            images = printable(str(run.about["images"]))
            console.print(f"next: chiron search {summary.file} --images {images} ...", markup=False, soft_wrap=True)
    sys.exit(closing_code(summary))


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


@app.command("check")
def check(
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


@app.command("release")
def release_parts(
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
        print(
            json.dumps(
                {"out": str(made.path), "rows": rows, "images": made.images, "left_out": dict(made.left_out), "practice": made.practice}
            )
        )
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
