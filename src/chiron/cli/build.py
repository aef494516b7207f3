"""`chiron build`: the parts of the dataset, the search tree, and the training signals made from it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from chiron.cli.search import DryRun, Images, Json, MovedCases, Pilot, need_dry_run, with_engine
from chiron.cli.streams import messages
from chiron.errors import InputError
from chiron.terminal import printable

if TYPE_CHECKING:
    from chiron.jobs.engine import EngineOptions
    from chiron.mmrp.part import PartRun
    from chiron.mmrp.signals.preferences import Completion
    from chiron.mmrp.templates import ConversationTemplate

app = typer.Typer(help="Build a dataset: text questions, image-text alignment, chains of thought, checks, release.", no_args_is_help=True)

Cases = Annotated[
    Path, typer.Argument(metavar="CASES", help="JSONL or JSON file, in the published or the tidy format; questions are not needed.")
]
Config = Annotated[Path, typer.Option("--config", metavar="FILE", help="YAML configuration with models and a section 'build'.")]
MaybeConfig = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="YAML configuration, for build.seed and the prompts.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory of this part; created if missing, otherwise resumed.")]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="Only the first N cases.")]
ShardOf = Annotated[str | None, typer.Option("--shard", metavar="I/N", help="Use only part I of N, for N machines.")]
Form = Annotated[
    str, typer.Option("--form", metavar="FORM", help="published, or intern: the prompt that the first run sent to its interns.")
]
Reviews = Annotated[
    str,
    typer.Option(
        "--reviews",
        metavar="MODE",
        help="require: only what reviewers accepted; prefer: also what has no review; ignore: all, as it was found.",
    ),
]
Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories of 'chiron search'.")]
MovedImages = Annotated[Path | None, typer.Option("--images", metavar="DIR", help="Folder of the images, if it was moved.")]


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
        need_dry_run(pilot, dry_run=dry_run)
        if dry_run:
            from chiron.cli.forecast import forecast_job

            forecast_job(prepared, pilot=pilot, limit=limit, json_output=json_output)
        else:
            build_part(prepared(limit=limit), json_output=json_output)

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
    form: Form = "published",
    cases: MovedCases = None,
    reviews: Reviews = "prefer",
    limit: Limit = None,
    json_output: Json = False,
) -> None:
    """Part 3: the retained paths of searches as training dialogues. Calls no model.

    Paths that reviewers rejected are dropped, and their edits replace steps ('chiron view RUN --review NAME').
    """
    from chiron.mmrp.cot import prepare_cot
    from chiron.mmrp.path_sources import review_mode

    wording, mode = template_named(form, runs[0]), review_mode(reviews)
    build_part(prepare_cot(runs, out, cases=cases, limit=limit, form=wording, reviews=mode), json_output=json_output)


def template_named(name: str, run: Path) -> "ConversationTemplate":
    from chiron.mmrp.cot import intern_form
    from chiron.mmrp.templates import PaperTemplate

    if name not in {"published", "intern"}:
        raise InputError(f"--form {name}: write published or intern")
    return intern_form(run) if name == "intern" else PaperTemplate()


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


def tree_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory of 'chiron search'.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="File to write (default: RUN/tree.jsonl).")] = None,
) -> None:
    """Write the whole search tree of a run as JSONL: every candidate, step, evaluation, score and ledger key. Calls no model."""
    from chiron.mics.tree import write_tree

    print(printable(str(write_tree(run, out))))


def preferences_command(
    runs: Runs,
    out: Out,
    completion: Annotated[
        str, typer.Option("--completion", metavar="KIND", help="path: compare whole paths; step: compare only up to the scored step.")
    ] = "path",
    min_gap: Annotated[float, typer.Option("--min-gap", help="Minimum difference of the two MICS-Scores.")] = 0.3,
    max_length_ratio: Annotated[float, typer.Option("--max-length-ratio", help="Maximum ratio of the two lengths in words.")] = 2.0,
    per_case: Annotated[int, typer.Option("--per-case", metavar="K", help="Maximum number of pairs per case.")] = 3,
    form: Form = "published",
    cases: MovedCases = None,
    images: MovedImages = None,
    limit: Limit = None,
    json_output: Json = False,
) -> None:
    """Preference pairs at the same prefix, the best candidate against the worst: TRL, ms-swift, LLaMA-Factory. Calls no model."""
    from chiron.mmrp.signals.preferences import PreferenceOptions, prepare_preferences

    options = PreferenceOptions(_completion(completion), min_gap, max_length_ratio, per_case)
    run = prepare_preferences(runs, out, options=options, cases=cases, images=images, limit=limit, form=template_named(form, runs[0]))
    build_part(run, json_output=json_output)


def _completion(text: str) -> "Completion":
    from chiron.mmrp.signals.preferences import COMPLETIONS

    for name in COMPLETIONS:
        if name == text:
            return name
    raise InputError(f"unknown --completion '{text}'; choose one of {', '.join(COMPLETIONS)}")


def rewards_command(
    runs: Runs,
    out: Out,
    threshold: Annotated[float, typer.Option("--threshold", help="A step is good if its MICS-Score exceeds this.")] = 0.5,
    reviews: Reviews = "prefer",
    form: Form = "published",
    cases: MovedCases = None,
    images: MovedImages = None,
    limit: Limit = None,
    json_output: Json = False,
) -> None:
    """Step rewards: prefix and step with its MICS-Score, for process reward models of TRL and InternVL. Calls no model.

    Verdicts of reviewers are added next to the scores ('chiron view RUN --review NAME').
    """
    from chiron.mmrp.path_sources import review_mode
    from chiron.mmrp.signals.rewards import RewardOptions, prepare_rewards

    options, mode, wording = RewardOptions(threshold), review_mode(reviews), template_named(form, runs[0])
    run = prepare_rewards(runs, out, options=options, reviews=mode, cases=cases, images=images, limit=limit, form=wording)
    build_part(run, json_output=json_output)


def rl_command(
    runs: Runs,
    out: Out,
    min_pass_rate: Annotated[float, typer.Option("--min-pass-rate", help="Minimum pass rate of the interns without reasoning.")] = 0.0,
    max_pass_rate: Annotated[float, typer.Option("--max-pass-rate", help="Maximum pass rate of the interns without reasoning.")] = 0.9,
    form: Form = "published",
    cases: MovedCases = None,
    images: MovedImages = None,
    limit: Limit = None,
    json_output: Json = False,
) -> None:
    """Prompts with verifiable answers and the interns' pass rates, for GRPO with TRL, verl and ms-swift. Calls no model."""
    from chiron.mmrp.signals.rl import RlOptions, prepare_rl

    options = RlOptions(min_pass_rate, max_pass_rate)
    run = prepare_rl(runs, out, options=options, cases=cases, images=images, limit=limit, form=template_named(form, runs[0]))
    build_part(run, json_output=json_output)


def reflections_command(
    runs: Runs,
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="YAML configuration with models and a section 'search'.")],
    out: Out,
    min_gap: Annotated[float, typer.Option("--min-gap", help="Minimum difference of the MICS-Scores of right and wrong step.")] = 0.5,
    max_wrong_score: Annotated[float, typer.Option("--max-wrong-score", help="A step counts as wrong up to this MICS-Score.")] = 0.5,
    per_case: Annotated[int, typer.Option("--per-case", metavar="K", help="Maximum number of reflections per case.")] = 1,
    form: Form = "published",
    cases: MovedCases = None,
    images: MovedImages = None,
    limit: Limit = None,
    json_output: Json = False,
) -> None:
    """Reflections: a wrong step, why it does not fit (a mentor writes this), and the right step. Run it again to resume."""
    from chiron.mics.config import load_config
    from chiron.mmrp.signals.reflections import ReflectionOptions, prepare_reflections

    options, wording = ReflectionOptions(min_gap, max_wrong_score, per_case), template_named(form, runs[0])
    run = prepare_reflections(runs, load_config(config), out, options=options, cases=cases, images=images, limit=limit, form=wording)
    build_part(run, json_output=json_output)
