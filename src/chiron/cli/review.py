"""`chiron review`: export and import reviews, and report on them. `chiron view --review NAME` makes them."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chiron.errors import InputError
from chiron.terminal import printable

if TYPE_CHECKING:
    from chiron.mmrp.review_report import Prediction, ReviewReport
    from chiron.reviews.agreement import Agreement

app = typer.Typer(
    help="Export and import reviews of paths, and report on them. 'chiron view RUN --review NAME' makes them.", no_args_is_help=True
)


@app.command("export")
def export_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory of 'chiron search'.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="PATH", help="File to write (default: RUN/reviews.jsonl); with --to, a folder (RUN/TOOL)."),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="TOOL", help="Write the paths as tasks for argilla or label-studio, not the reviews.")
    ] = None,
    min_score: Annotated[
        float | None, typer.Option("--min-score", metavar="SCORE", help="With --to: also rejected paths with at least this MICS-Score.")
    ] = None,
) -> None:
    """Write every review, skip and adjudication of a run as JSONL, in order; or, with --to, its paths for review in another tool."""
    from chiron.mmrp.review_exchange import export_tasks, tool_of
    from chiron.reviews.store import export_reviews

    if to is None and min_score is not None:
        raise InputError("--min-score needs --to: name the tool, or leave it out")
    written = export_reviews(run, out) if to is None else export_tasks(run, tool_of(to, "--to"), out, min_score=min_score)
    print(printable(str(written)))


@app.command("import")
def import_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory of 'chiron search' whose paths were exported.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON export of the other tool.")],
    tool: Annotated[str, typer.Option("--from", metavar="TOOL", help="argilla or label-studio.")],
    name: Annotated[
        list[str] | None, typer.Option("--name", metavar="ID=NAME", help="Reviewer's name for the tool's id of a person; repeatable.")
    ] = None,
) -> None:
    """Add reviews that were made in another tool. If one of them does not fit the run, none is added."""
    from chiron.mmrp.review_exchange import import_reviews, tool_of

    pairs = [given.partition("=") for given in name or []]
    if wrong := next((person for person, sign, _ in pairs if not sign), None):
        raise InputError(f"--name {printable(wrong)} has no '=': write --name ID=NAME")
    done = import_reviews(run, file, tool_of(tool, "--from"), {person: called for person, _, called in pairs})
    print(f"reviews added: {done.reviews:,}; known already: {done.known:,}; incomplete and not added: {done.incomplete:,}")


@app.command("report")
def report_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories of 'chiron search' with reviews.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Report counts, agreement of reviewers, and how well MICS-Scores predict their verdicts."""
    from chiron.mmrp.review_report import review_report

    report = review_report(runs)
    if json_output:
        print(json.dumps(asdict(report), ensure_ascii=False))
    else:
        for line in _lines(report):
            print(printable(line))


def _lines(report: "ReviewReport") -> list[str]:
    from chiron.reviews.records import REASONS

    lines = []
    for name, kinds in report.reviewers.items():
        lines.append(f"{name}: {_counts({kind + 's' * (count != 1): count for kind, count in kinds.items()})}")
    lines.append(f"paths: {_counts(report.paths)}")
    if report.reasons:
        lines.append(f"reasons: {_counts({REASONS.get(name, name): n for name, n in report.reasons.items()})}")
    lines += [*_agreement("step", report.steps_agreement), *_agreement("path", report.paths_agreement)]
    lines.append(f"MICS-Score predicts that a path is not rejected: {_prediction(report.path_prediction)}")
    lines.append(f"MICS-Score predicts that a step is accepted as it is: {_prediction(report.step_prediction)}")
    return lines


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in numbers.items()) or "none"


def _agreement(what: str, agreed: "Agreement") -> list[str]:
    if not agreed.units:
        return [f"agreement per {what}: nothing was reviewed twice"]
    lines = [f"agreement per {what}: Krippendorff's alpha {_figure(agreed.alpha)} (N = {agreed.units:,})"]
    for pair in agreed.pairs:
        names, equal = " and ".join(pair.reviewers), f"{pair.observed:.0%} equal"
        lines.append(f"  {names}: Cohen's kappa {_figure(pair.kappa)}, {equal} (N = {pair.units:,})")
    return lines


def _prediction(found: "Prediction") -> str:
    if not found.positive + found.negative:
        return "unknown, because nothing was reviewed yet"
    return f"AUC {_figure(found.auc)} (N = {found.positive + found.negative:,}: {found.positive:,} yes, {found.negative:,} no)"


def _figure(value: float | None) -> str:
    return "not defined, because all verdicts are equal" if value is None else f"{value:.2f}"
