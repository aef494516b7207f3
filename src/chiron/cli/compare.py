"""``chiron compare``: models side by side, with what is needed to believe the figures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chiron.errors import InputError

if TYPE_CHECKING:
    from chiron.evaluation.bertscore import Encoder
    from chiron.evaluation.comparing import Comparison
    from chiron.evaluation.items import ItemResult
    from chiron.evaluation.read_runs import Evaluated
    from chiron.evaluation.tables.formats import Grid


COMPARABLE = "comparable"
"""Value of ``--published`` for all published rows whose protocol is known."""


class Format(StrEnum):
    TERMINAL = "terminal"
    MARKDOWN = "markdown"
    LATEX = "latex"
    HTML = "html"
    JSON = "json"
    MODEL_INDEX = "model-index"
    LM_EVAL = "lm-eval"


FormatOption = Annotated[
    Format, typer.Option("--format", help="Form of the tables; model-index and lm-eval: all figures of one model for other tools.")
]
LabelOption = Annotated[
    str | None, typer.Option(metavar="LABEL", help="Also split accuracy by a label: modality, body_system, question_type, ...")
]
PublishedOption = Annotated[
    str | None,
    typer.Option(metavar="TABLE", help="Also published figures, set apart: table1, table2, or comparable. A table needs no RUN."),
]
PublishedFromOption = Annotated[
    Path | None, typer.Option("--published-from", metavar="FILE", help="Further published rows (YAML, as published.yaml).")
]
ReferenceOption = Annotated[
    Path | None, typer.Option(metavar="RUN", help="Run that the others are tested against (default: the best of each column).")
]
ItemOption = Annotated[
    str | None, typer.Option(metavar="ID", help="Only a figure of this item with every model's steps: --out FILE.html, .png or .pdf.")
]
ImagesOption = Annotated[
    list[str] | None,
    typer.Option("--images", metavar="BENCHMARK=DIR", help="Where images are now, for --items and --item (default: as recorded)."),
]
BenchmarkFileOption = Annotated[
    list[Path] | None,
    typer.Option("--benchmark-file", metavar="FILE.py", help="Python file with the PROTOCOLS of the runs, for the notes; repeatable."),
]
ScoresOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Score open answers too: exact_match, token_f1, bleu, rouge_l, meteor (by commas), or all; reports also by radgraph, chexbert,"
        " ratescore, green.",
    ),
]
ScoresPythonOption = Annotated[
    Path | None,
    typer.Option("--scores-python", metavar="FILE", help="Python interpreter that has the packages of the scores of reports."),
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE.png", help="Also draw reliability and abstention, of votes and stated confidence (.png, .pdf, .svg)."),
]
GradesOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Grades by people (JSONL), to measure how well the judges agree with them.")
]


def command(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="RUN...", help="Run directories of 'chiron eval'.")] = None,
    form: FormatOption = Format.TERMINAL,
    by: LabelOption = None,
    published: PublishedOption = None,
    published_from: PublishedFromOption = None,
    reference: ReferenceOption = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to write (default: standard output).")] = None,
    items: Annotated[Path | None, typer.Option("--items", metavar="FILE.html", help="Also a page that shows every item.")] = None,
    item: ItemOption = None,
    images: ImagesOption = None,
    benchmark_file: BenchmarkFileOption = None,
    scores: ScoresOption = None,
    scores_python: ScoresPythonOption = None,
    calibration: CalibrationOption = None,
    grades: GradesOption = None,
    bertscore: Annotated[
        str | None, typer.Option(metavar="ENCODER", help="BERTScore of open answers, by roberta-large or an encoder's folder.")
    ] = None,
    bertscore_layer: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Layer of an encoder from a folder (default: the last).")
    ] = None,
    bertscore_baseline: Annotated[
        float | None, typer.Option(metavar="F", min=0, max=0.999, help="Baseline of an encoder from a folder, to rescale by.")
    ] = None,
) -> None:
    """Compare models on the same benchmarks: accuracy with intervals, exact tests, controls, other metrics.

    There is one table for each protocol. A figure counts every item of its benchmark. Items that differ between runs are never tested
    against each other.
    """
    from chiron.cli.streams import messages
    from chiron.evaluation.agreement import agreement_grids, read_grades
    from chiron.evaluation.calibration import calibration_grids, draw_calibration
    from chiron.evaluation.comparing import compare, reference_of
    from chiron.evaluation.exports import lm_eval_results, model_index
    from chiron.evaluation.item_page import write_item_page
    from chiron.evaluation.read_runs import read_evaluations
    from chiron.evaluation.tables.content import grids

    if not runs and published in {None, COMPARABLE}:
        raise InputError("no run directory: name those of 'chiron eval', or a published table with --published table1")
    models, files = read_evaluations(runs or []), benchmark_file or []
    if item is not None:
        return _draw_item(models, item, _folders(models, images), out)
    models = _with_scores(models, scores, scores_python)
    models = _with_bertscore(models, bertscore, bertscore_layer, bertscore_baseline)
    if form in {Format.MODEL_INDEX, Format.LM_EVAL}:
        export = model_index if form is Format.MODEL_INDEX else lm_eval_results
        return _write(export(models, files), out)
    comparisons = compare(models, reference=reference_of(models, reference) if reference is not None else None)
    tables = [grid for comparison in comparisons for grid in grids(comparison, label=by, files=files)]
    tables += calibration_grids(models)
    tables += agreement_grids(models, read_grades(grades, models) if grades is not None else None)
    if published is not None or published_from is not None:
        tables += _published(published or COMPARABLE, published_from, comparisons, files)
    if calibration is not None:
        draw_calibration(models, calibration)
        messages().print(f"calibration {calibration}", markup=False)
    if items is not None:
        messages().print(f"items {write_item_page(models, items, _folders(models, images))}")
    return _write(_text(tables, form, wide=out is not None), out)


def _draw_item(models: "Sequence[Evaluated]", item: str, folders: "Mapping[str, Path]", out: Path | None) -> None:
    from chiron.cli.streams import messages
    from chiron.evaluation.item_figure import item_figure, write_item_figure

    if out is None:
        raise InputError("--item draws a figure: name its file with --out FILE.html, .png or .pdf")
    for note in write_item_figure(item_figure(models, item, folders), out):
        messages().print(f"[yellow]note:[/yellow] {note}")
    print(out)


def _published(table: str, own_rows: Path | None, comparisons: "Sequence[Comparison]", benchmark_files: Sequence[Path]) -> "list[Grid]":
    """Build the tables of published figures: one table as printed, or one per protocol with all rows that are comparable."""
    from chiron.cli.streams import messages
    from chiron.evaluation.published import comparable, few, published, published_grids, published_table, read_published
    from chiron.evaluation.registry import suite_of

    rows = [*published(), *(read_published(own_rows) if own_rows is not None else ())]
    if table != COMPARABLE:
        return [published_table(suite_of(table, benchmark_files), rows)]
    messages().print(few(comparable(rows)), markup=False)
    return published_grids(comparable(rows), [b for comparison in comparisons for b in comparison.benchmarks])


def _write(text: str, out: Path | None) -> None:
    from chiron.io import write_atomically

    if out is None:
        print(text, end="")
    else:
        write_atomically(out, [text])
        print(out)


def _text(tables: "Sequence[Grid]", form: Format, *, wide: bool) -> str:
    from chiron.cli.streams import results
    from chiron.evaluation.tables import formats

    match form:
        case Format.MARKDOWN:
            return formats.markdown(tables)
        case Format.LATEX:
            return formats.latex(tables)
        case Format.HTML:
            return formats.html(tables)
        case Format.JSON:
            return json.dumps([asdict(table) for table in tables], ensure_ascii=False, indent=1) + "\n"
        case _:
            if wide:
                return formats.plain(tables)
            console = results()
            with console.capture() as caught:
                formats.show(tables, console)
            return caught.get()


def encoder_of(name: str, layer: int | None, baseline: float | None) -> "Encoder":
    from chiron.evaluation.bertscore import ROBERTA_LARGE, Encoder

    if name == ROBERTA_LARGE.model and layer is None and baseline is None:
        return ROBERTA_LARGE
    return Encoder(name, layer, baseline)


def _with_scores(models: "list[Evaluated]", names: str | None, python: Path | None) -> "list[Evaluated]":
    if names is None:
        return models
    from chiron.evaluation.text_scores import scored, scores_named

    chosen = scores_named(names)
    done = []
    for model in models:
        results, found = scored(model.results, chosen, python)
        answers = len(next(iter(found.values.values())))
        done.append(_rescored(model, results, "Scores", f"{answers} open answers, {found.empty} of them empty (0); {found.signature}"))
    return done


def _with_bertscore(models: "list[Evaluated]", name: str | None, layer: int | None, baseline: float | None) -> "list[Evaluated]":
    if name is None:
        if layer is not None or baseline is not None:
            raise InputError("--bertscore-layer and --bertscore-baseline need an encoder: name it with --bertscore")
        return models
    from chiron.evaluation.bertscore import scored

    encoder, done = encoder_of(name, layer, baseline), []
    for model in models:
        results, found = scored(model.results, encoder)
        versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
        summary = f"{len(found.f1)} open answers, {found.empty} of them empty (0); {found.hash}; {versions}"
        done.append(_rescored(model, results, "BERTScore", summary))
    return done


def _rescored(model: "Evaluated", results: "Sequence[ItemResult]", what: str, summary: str) -> "Evaluated":
    from rich.markup import escape

    from chiron.cli.streams import messages
    from chiron.terminal import printable

    messages().print(f"{what} of {escape(printable(f'{model.name}: {summary}'))}")
    return replace(model, results=tuple(results))


def _folders(models: "Sequence[Evaluated]", images: Sequence[str] | None) -> dict[str, Path]:
    """Return the image folder of each benchmark: the one that ``--images`` names, or as recorded."""
    from chiron.evaluation.read_runs import image_folders

    folders = image_folders(models)
    for text in images or ():
        benchmark, equals, folder = text.partition("=")
        if not (benchmark and equals and folder):
            raise InputError(f"--images {text}: write BENCHMARK=DIR")
        if not Path(folder).is_dir():
            raise InputError(f"--images {text}: folder {folder} does not exist")
        folders[benchmark] = Path(folder)
    return folders
