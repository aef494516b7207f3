"""`chiron eval`, `chiron eval fetch` and `chiron eval contamination`."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from chiron.cli.search import DryRun, with_engine
from chiron.cli.streams import messages
from chiron.errors import InputError
from chiron.terminal import printable

if TYPE_CHECKING:
    from chiron.dedup.contamination import Contamination, Overlap
    from chiron.jobs.engine import EngineOptions

app = typer.Typer(invoke_without_command=True, no_args_is_help=True)


ModelOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Name under 'models' in the configuration; without a configuration, offline:NAME or a checkpoint's folder. Repeatable with"
        " --suite.",
    ),
]
SuiteOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Measure the models on all columns of a published table: table1 or table2. Writes it to --run."),
]
BertscoreOption = Annotated[
    str | None, typer.Option(metavar="ENCODER", help="For --suite: encoder of its BERTScore column, roberta-large or a folder.")
]
RunOption = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="DIR",
        help="Run directory of this model and protocol, or folder of a suite's run directories; created if missing, otherwise resumed.",
    ),
]
BenchmarkFileOption = Annotated[
    list[Path] | None,
    typer.Option("--benchmark-file", metavar="FILE.py", help="Python file with further BENCHMARKS or PROTOCOLS; repeatable."),
]
InternsOption = Annotated[
    str | None, typer.Option(metavar="NAMES", help="Models that continue the reasoning, for its MICS-Score; needs --judge.")
]
ExportOption = Annotated[
    Path | None, typer.Option("--export-tsv", metavar="DIR", help="Write the benchmarks as TSV for VLMEvalKit, without asking a model.")
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="YAML with models, and optionally a section 'evaluation'.")
]
DataOption = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder with the downloaded files (default: download from the hub).")]
SamplesOption = Annotated[
    int | None,
    typer.Option("--samples", "--seeds", metavar="K", min=1, help="Ask every item K times, or with K orders of its options."),
]
TemperatureOption = Annotated[
    float | None, typer.Option(metavar="T", min=0, max=2, help="Sampling temperature (default: 0; 0.7 for several samples).")
]
ExtractorOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Model that also extracts the chosen option, in a separate column.")
]
GradersOption = Annotated[
    str | None, typer.Option(metavar="NAMES", help="Models that grade open answers with 0, 0.5 or 1, each in a separate column.")
]
CheckersOption = Annotated[
    str | None, typer.Option(metavar="NAMES", help="Models that check each step's claims against a reference, each in separate columns.")
]
ReferencesOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Findings or reports for --checkers: JSONL with benchmark, id and reference.")
]
RankerOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Model that rates every reply without knowing the answer; chooses between samples.")
]
RewardModelOption = Annotated[
    str | None, typer.Option("--reward-model", metavar="NAME", help="Process reward model that reads every step; chooses between samples.")
]
ProtocolOption = Annotated[
    str | None,
    typer.Option(metavar="P", help="How items are asked and counted; --list shows the protocols (default: that of the benchmarks)."),
]


def measure_models(
    context: typer.Context,
    model: ModelOption = None,
    benchmarks: Annotated[str | None, typer.Option(metavar="LIST", help="Names, separated by commas; --list shows them.")] = None,
    suite: SuiteOption = None,
    run: RunOption = None,
    config: ConfigOption = None,
    protocol: ProtocolOption = None,
    benchmark_file: BenchmarkFileOption = None,
    data: DataOption = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first N items of each benchmark.")] = None,
    samples: SamplesOption = None,
    temperature: TemperatureOption = None,
    control: Annotated[str, typer.Option(metavar="C", help="Change every item: none, no-image, blank, swap or shuffle-options.")] = "none",
    judge: Annotated[str | None, typer.Option(metavar="NAME", help="Judge of protocols that need one; for others, adds a column.")] = None,
    extractor: ExtractorOption = None,
    ranker: RankerOption = None,
    reward_model: RewardModelOption = None,
    graders: GradersOption = None,
    checkers: CheckersOption = None,
    references: ReferencesOption = None,
    interns: InternsOption = None,
    bertscore: BertscoreOption = None,
    *,
    engine: "Callable[[], tuple[str, EngineOptions]]",
    dry_run: DryRun = False,
    list_all: Annotated[bool, typer.Option("--list", help="List the protocols, the suites, the benchmarks and how to get them.")] = False,
    export_tsv: ExportOption = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the figures as JSON on standard output.")] = False,
) -> None:
    """Measure a model on benchmarks. Run it again to resume: no call is paid for twice.

    A directory belongs to one model and protocol, and collects benchmarks and controls. 'chiron compare DIR DIR ...' compares several.
    """
    if context.invoked_subcommand is not None:
        return None
    from chiron.cli.eval_output import measure, measure_suite, show_benchmarks, write_tsv

    files, wanted = benchmark_file or [], _names(benchmarks or "")
    if list_all:
        return show_benchmarks(files, json_output=json_output)
    if export_tsv is not None:
        return write_tsv(wanted, export_tsv, data=data, protocol=protocol, files=files)
    from chiron.jobs.engine import engine_of

    engine_name, engine_options = engine()
    options = {
        "limit": limit, "seeds": samples, "temperature": temperature, "judge": judge, "ranker": ranker, "reward_model": reward_model,
        **{key: _names(text) if text is not None else None for key, text in (("graders", graders), ("interns", interns))},
    }  # fmt: skip
    if suite is not None:
        fixed = {"--benchmarks": benchmarks, "--protocol": protocol, "--extractor": extractor, "--checkers": checkers}
        _refuse({**fixed, "--control": control != "none"})
        if not model or run is None:
            raise InputError("--suite needs at least one --model, and --run: see 'chiron eval --help'")
        return measure_suite(
            suite, model, run, config=config, data=data, files=files, bertscore=bertscore, options=options,
            engine=engine_of(engine_name, engine_options), dry_run=dry_run, json_output=json_output,
        )  # fmt: skip
    named, run = _one_model(model or [], benchmarks, run, bertscore)
    from chiron.evaluation.config import load_evaluation
    from chiron.evaluation.controls import control_of
    from chiron.evaluation.preparation import prepare_evaluation

    options["checkers"] = _names(checkers) if checkers is not None else None
    chosen = load_evaluation(config, named, protocol=protocol, extractor=extractor, **options)
    prepared = prepare_evaluation(
        named, wanted, run, chosen, data=data, control=control_of(control), benchmark_files=files, references=references,
        need_keys=not dry_run, engine=engine_name, engine_options=engine_options,
    )  # fmt: skip
    return measure(prepared, dry_run=dry_run, json_output=json_output)


eval_command = app.callback()(with_engine(measure_models))


def _one_model(models: Sequence[str], benchmarks: str | None, run: Path | None, bertscore: str | None) -> tuple[str, Path]:
    """Return the model and the run directory of an evaluation without a suite."""
    if bertscore is not None:
        raise InputError("--bertscore needs --suite; 'chiron compare --bertscore' scores any run directory")
    if not models or benchmarks is None or run is None:
        raise InputError(
            "--model, --benchmarks and --run are needed: see 'chiron eval --help', and 'chiron eval --list' for the benchmarks"
        )
    if len(models) > 1:
        raise InputError("several --model need --suite; without it, give each model a run directory of its own")
    return models[0], run


def _refuse(fixed: Mapping[str, object]) -> None:
    """Refuse options that a suite sets itself."""
    if given := [option for option, value in fixed.items() if value]:
        raise InputError(f"{given[0]} cannot be used with --suite, which sets it: omit one of them")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def fetch_command(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Suites and benchmarks; 'chiron eval --list' shows them.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the downloads, as 'chiron eval --data' takes it.")],
    mirror: Annotated[
        str | None,
        typer.Option(metavar="PLACE", help="Folder with OWNER/NAME/..., or address of a server like the hub (default: the hub)."),
    ] = None,
    benchmark_file: BenchmarkFileOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be downloaded, and stop.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the downloads as JSON on standard output.")] = False,
) -> None:
    """Download benchmarks: each data set once, verified. Run it again to resume."""
    from chiron.cli.eval_fetch import fetch

    fetch(names, data, mirror=mirror, files=benchmark_file or [], dry_run=dry_run, json_output=json_output)


def contamination_command(
    train: Annotated[Path, typer.Argument(metavar="TRAIN", help="JSONL of rows as 'chiron train' takes them, or of a release.")],
    benchmark: Annotated[str, typer.Argument(metavar="BENCH", help="A benchmark's name; 'chiron eval --list' shows them.")],
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the training images (default: images/ next to TRAIN).")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The benchmark's files as downloaded; else they come from the hub.")
    ] = None,
    benchmark_file: Annotated[
        list[Path] | None, typer.Option("--benchmark-file", metavar="FILE.py", help="Python file with further BENCHMARKS; repeatable.")
    ] = None,
    distance: Annotated[
        int, typer.Option(metavar="BITS", min=0, max=15, help="Maximum number of different bits, of 64, between hashes of similar images.")
    ] = 6,
    json_output: Annotated[bool, typer.Option("--json", help="Print every overlap as JSON on standard output.")] = False,
) -> None:
    """Search training data for a benchmark's images and questions: by file, by perceptual hash, and word for word.

    Items that are found were very likely trained on. Others may also have been, with other words or another image.
    """
    import tempfile

    from chiron.cases.images import ImageFolder
    from chiron.dedup.contamination import TrainingRow, find_contamination
    from chiron.evaluation.benchmarks.loading import load
    from chiron.evaluation.contamination import Uncompared, items_to_compare
    from chiron.evaluation.registry import benchmark_of
    from chiron.training.rows import read_prompts

    chosen = benchmark_of(benchmark, benchmark_file or [])
    rows = [TrainingRow(row.id, row.images, tuple(turn.text for turn in row.turns if turn.role == "user")) for row in read_prompts(train)]
    if not rows:
        raise InputError(f"{train} contains no rows: name the JSONL file that was trained on")
    folder = images if images is not None else train.parent / "images"
    if any(row.images for row in rows) and not folder.is_dir():
        raise InputError(f"image folder {folder} does not exist: name the folder of the training images with --images DIR")
    # What the benchmark's folder cannot take (images inside its records) lies here for as long as it is looked at.
    with tempfile.TemporaryDirectory() as unpacked:
        loaded = load(chosen, data, Path(unpacked))
        uncompared = Uncompared()
        found = find_contamination(rows, ImageFolder(folder), list(items_to_compare(loaded, uncompared)), distance=distance)
        found = replace(found, unreadable=(*found.unreadable, *(f"benchmark: {why}" for why in uncompared.images.values())))
    if json_output:
        print(json.dumps({**asdict(found), "bad_items": uncompared.records}, ensure_ascii=False))
    else:
        _show(found, benchmark, uncompared.records)


def _show(found: "Contamination", benchmark: str, bad: int) -> None:
    from chiron.cli.streams import plain_table, results, whole
    from chiron.dedup.contamination import Likeness

    console = results()
    if found.overlaps:
        table = plain_table(("item", "found as", "distance", "training rows", "what"), (), overflow="fold")
        for overlap in found.overlaps:
            table.add_row(
                *(Text(printable(t)) for t in (overlap.item, overlap.likeness, _distance(overlap), _rows(overlap), overlap.detail[:100]))
            )
        console.print(whole(table))
    ways = ", ".join(f"{found.found(likeness)} by {likeness}" for likeness in Likeness)
    say = messages()
    say.print(
        printable(
            f"{benchmark}: {found.touched} of {found.items} items are found in {found.rows} training rows ({ways}); "
            f"of {len(found.both)} one row has image and question"
        ),
        markup=False,
    )
    if bad:
        say.print(f"{bad} records of the benchmark are no questions and were not looked up")
    for problem in found.unreadable[:5]:
        say.print(printable(f"not looked at: {problem}"), markup=False)
    if len(found.unreadable) > 5:
        say.print(f"... and {len(found.unreadable) - 5} more images that could not be looked at")


def _distance(overlap: "Overlap") -> str:
    from chiron.dedup.contamination import Likeness

    match overlap.likeness:
        case Likeness.NEAR_IMAGE:
            return f"{overlap.distance:.0f} bits"
        case Likeness.NEAR_TEXT:
            return f"{overlap.distance:.2f}"
        case _:
            return "0"


def _rows(overlap: "Overlap") -> str:
    more = overlap.of_rows - len(overlap.rows)
    return ", ".join(overlap.rows) + (f" and {more} more" if more else "")
