"""``chiron build``: the parts of the dataset from cases and from the runs of a search."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from chiron.mmrp.part import PartRun
    from chiron.mmrp.templates import ConversationTemplate

app = typer.Typer(help="Make a dataset: text questions, image-text alignment, chains of thought.", no_args_is_help=True)

Cases = Annotated[
    Path, typer.Argument(metavar="CASES", help="JSONL or JSON, in the published or the tidy format; a question is not needed.")
]
Config = Annotated[Path, typer.Option("--config", metavar="FILE", help="YAML with models and a section 'build'.")]
MaybeConfig = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="YAML, for build.seed and the requests.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="The part's own directory: made, or gone on with.")]
Images = Annotated[Path | None, typer.Option("--images", metavar="DIR", help="Where images lie (default: images/ beside CASES).")]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="Only the first N cases.")]
ShardOf = Annotated[str | None, typer.Option("--shard", metavar="I/N", help="Only part I of N, for N machines.")]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")]


@app.command("text")
def text(
    cases: Cases, config: Config, out: Out, images: Images = None, limit: Limit = None, shard: ShardOf = None, json_output: Json = False
) -> None:
    """Part 1: an author writes multiple-choice questions on each case's text, a reader tries them.

    Run it again to go on: nothing is asked or paid for twice.
    """
    from chiron.mmrp.config import load_build
    from chiron.mmrp.text import prepare_text

    conduct_part(prepare_text(cases, load_build(config), out, images=images, limit=limit, shard=shard), json_output=json_output)


@app.command("questions")
def questions(
    cases: Cases, config: Config, out: Out, images: Images = None, limit: Limit = None, shard: ShardOf = None, json_output: Json = False
) -> None:
    """Questions for the search: doctor to doctor, student to teacher, patient to doctor; writes cases.jsonl.

    Run it again to go on: nothing is asked or paid for twice.
    """
    from chiron.mmrp.config import load_build
    from chiron.mmrp.questions import prepare_questions

    conduct_part(prepare_questions(cases, load_build(config), out, images=images, limit=limit, shard=shard), json_output=json_output)


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
    """Part 2: image groups with the findings that belong to them and can be seen there. Rules alone; asks no model."""
    from chiron.mmrp.alignment import prepare_alignment
    from chiron.mmrp.config import load_build

    build = load_build(config) if config is not None else None
    conduct_part(prepare_alignment(cases, out, config=build, images=images, limit=limit, shard=shard), json_output=json_output)


@app.command("cot")
def cot(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run directories of 'chiron search', or result.jsonl files of the authors' search."),
    ],
    out: Out,
    form: Annotated[str, typer.Option(metavar="FORM", help="published, or intern: as the first run asked its interns.")] = "published",
    cases: Annotated[Path | None, typer.Option("--cases", metavar="FILE", help="The cases, if they are where they were no more.")] = None,
    limit: Limit = None,
    json_output: Json = False,
) -> None:
    """Part 3: the retained paths of searches as training dialogues. Asks no model."""
    from chiron.mmrp.cot import prepare_cot

    conduct_part(prepare_cot(runs, out, cases=cases, limit=limit, form=template_named(form, runs[0])), json_output=json_output)


def template_named(name: str, run: Path) -> "ConversationTemplate":
    from chiron.errors import InputError
    from chiron.mmrp.cot import intern_form
    from chiron.mmrp.templates import PaperTemplate

    if name not in {"published", "intern"}:
        raise InputError(f"--form {name}: write published or intern")
    return intern_form(run) if name == "intern" else PaperTemplate()


def conduct_part(run: "PartRun[Any]", *, json_output: bool) -> NoReturn:
    """Execute a part with a view, say how it ended, and leave with the exit code that tells it."""
    import sys

    from rich.markup import escape

    from chiron.cli.live import duration
    from chiron.cli.runner import closing_code, print_json, run_with_ui, spending_table, spent_in_words
    from chiron.cli.streams import messages
    from chiron.mmrp.row import DROPPED
    from chiron.terminal import printable

    summary = run_with_ui(run, run.execute)
    if json_output:
        print_json(summary.to_record())
    else:
        console = messages()
        noun, session = run.progress.noun, summary.session
        console.print(
            f"[green]{summary.kept} {noun}[/green] of {session.total} {run.progress.unit}, {summary.pending} pending,"
            f" {duration(session.seconds)}"
        )
        for reason, count in summary.dropped.items():
            # A row that lost a clause is told in dropped.jsonl too, and is kept.
            what = f"{reason}: {count}" if reason.startswith("trimmed:") else f"dropped {count}: {reason}"
            console.print(f"  {escape(printable(what))}")
        if summary.spending:
            console.print(spending_table(summary.spending))
        if spent := spent_in_words(session.spent_usd, session.possibly_spent_usd):
            console.print(spent)
        for name, file in ((noun, summary.file), ("dropped", session.directory / DROPPED)):
            console.print(f"{name:10}{escape(printable(file))}", soft_wrap=True)
        if summary.part == "questions" and summary.kept:
            images = printable(str(run.about["images"]))
            console.print(f"search them with 'chiron search {summary.file} --images {images} ...'", markup=False, soft_wrap=True)
    sys.exit(closing_code(summary))
