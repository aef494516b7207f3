"""`chiron cases`: import, check and count cases."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chiron.cli.search import Cases, Images, Json
from chiron.cli.streams import ProgressLine, messages
from chiron.errors import InputError
from chiron.importing.source import ImportOptions, SourceKind
from chiron.terminal import printable

if TYPE_CHECKING:
    from rich.console import Console

    from chiron.cases.summary import Coverage
    from chiron.importing.importer import ImportSummary

_LISTED = 5


def coverage_command(
    cases: Cases,
    figure: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw the map: .svg, .png or .pdf.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the map as JSON.")] = False,
) -> None:
    """Print the map of twelve modalities by twenty body systems."""
    from chiron.cases.summary import coverage_of_file

    coverage = coverage_of_file(cases)
    if json_output:
        print(json.dumps(coverage.to_record(), ensure_ascii=False))
    else:
        print("\n".join(_table(coverage)))
    if figure is not None:
        from chiron.cases.summary import draw_coverage

        draw_coverage(coverage, figure)
        messages().print(printable(f"wrote {figure}"), markup=False)


def _table(coverage: "Coverage") -> list[str]:
    from chiron.cases.body_systems import BODY_SYSTEMS
    from chiron.cases.modalities import MODALITIES

    counts = {(m.name, s.name): coverage.count(m.name, s.name) for m in MODALITIES for s in BODY_SYSTEMS}
    width = max(4, *(len(str(n)) for n in counts.values())) + 1
    lines = [" " * 19 + "".join(s.short.rjust(width) for s in BODY_SYSTEMS)]
    for m in MODALITIES:
        cells = (str(counts[m.name, s.name] or "·").rjust(width) for s in BODY_SYSTEMS)
        lines.append(m.name.ljust(19) + "".join(cells))
    bad = f"; {coverage.bad:,} records cannot be read ('chiron cases check' shows why)" if coverage.bad else ""
    lines.append(f"{coverage.cases:,} cases, {coverage.cases - coverage.unplaced:,} placed{bad}")
    if coverage.unplaced:
        why = f"{coverage.no_modality:,} without a known modality, {coverage.no_system:,} without a certain body system"
        lines.append(f"{coverage.unplaced:,} unplaced: {why}")
    if hollow := coverage.findings_without_images:
        more = ", ..." if len(hollow) > _LISTED else ""
        lines.append(printable(f"{len(hollow):,} describe images of a modality that they lack: {', '.join(hollow[:_LISTED])}{more}"))
    return lines


def import_command(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="File, or folder with files of one kind.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write: cases.jsonl, images/, not-imported.jsonl.")],
    kind: Annotated[SourceKind | None, typer.Option("--from", help="Kind of SOURCE (default: detected).")] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="DIR", help="Folder of the images of JSONL, tables and datasets (default: next to SOURCE)."),
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--map", metavar="FIELD=COLUMN", help="Columns of fields, such as question=Frage,images=Bild.")
    ] = None,
    sheet: Annotated[str | None, typer.Option(metavar="NAME", help="Sheet of a spreadsheet (default: the first with a header).")] = None,
    split: Annotated[str | None, typer.Option(metavar="NAME", help="Split of a dataset (default: all).")] = None,
    slices: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Take every N-th slice (default: key images, else 8 evenly spaced).")
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Table of questions, answers, history and findings for DICOM or NIfTI, by accession, study or folder."
        ),
    ] = None,
    question: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Question for all rows that have an answer or impression but no question.")
    ] = None,
    modality: Annotated[str | None, typer.Option(metavar="NAME", help="Modality, if the source does not give it.")] = None,
    keep_ids: Annotated[
        bool | None,
        typer.Option("--keep-ids/--hash-ids", help="Keep ids, or replace them by pseudonyms (default: pseudonyms for DICOM and NIfTI)."),
    ] = None,
    salt: Annotated[Path | None, typer.Option(metavar="FILE", help="File with the salt of the pseudonyms (default: DIR/.salt).")] = None,
    allow_identifying: Annotated[bool, typer.Option("--allow-identifying", help="Import cases whose text may identify someone.")] = False,
    allow_burned_in: Annotated[bool, typer.Option("--allow-burned-in", help="Import DICOM series with text in their pixels.")] = False,
    json_output: Json = False,
) -> None:
    """Import cases from JSONL, CSV, a spreadsheet, DICOM studies, NIfTI volumes or a dataset on disk.

    Items that are unusable or may identify a patient are skipped and listed with the reason. Exit code 2 if no case is imported.
    """
    from chiron.importing.columns import parse_map
    from chiron.importing.importer import import_cases

    options = ImportOptions(
        kind=kind,
        images=images,
        columns=parse_map(columns or ()),
        sheet=sheet,
        split=split,
        slices=slices,
        questions=questions,
        question=question,
        modality=modality,
        keep_ids=keep_ids,
        salt=salt,
        allow_identifying=allow_identifying,
        allow_burned_in=allow_burned_in,
    )
    console = messages()
    line = ProgressLine()

    def progress(done: int, total: int | None) -> None:
        line.update(f"{done:,} records" if total is None else f"{done:,} of {total:,} records", done, max(done + 1, total or 0))

    summary = import_cases(source, out, options, progress)
    line.close()
    if json_output:
        print(json.dumps(summary.to_record(), ensure_ascii=False))
    _print_import(summary, out, console)
    if not summary.cases:
        raise InputError(f"no case of {source} could be imported: see {out / 'not-imported.jsonl'}")


def _print_import(summary: "ImportSummary", out: Path, console: "Console") -> None:
    done = "already imported, unchanged" if summary.unchanged else "written"
    asked = f" ({summary.unlabeled:,} without a question)" if summary.unlabeled else ""
    console.print(printable(f"{summary.cases:,} cases{asked} with {summary.images:,} images in {out}: {done}"), markup=False)
    for note, count in summary.notes.items():
        console.print(printable(f"  {note}{f' ({count:,})' if count > 1 else ''}"), markup=False)
    if summary.left_out:
        parts = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in summary.left_out.items())
        console.print(printable(f"  skipped: {parts}; the reasons are in {out / 'not-imported.jsonl'}"), markup=False)


app = typer.Typer(help="Import, check and count cases.", no_args_is_help=True)
app.command("import")(import_command)
app.command("coverage")(coverage_command)


@app.command("check")
def check(
    cases: Cases,
    images: Images = None,
    unlabeled: Annotated[bool, typer.Option("--unlabeled", help="Accept cases without a question, which are for 'chiron build'.")] = False,
) -> None:
    """Report problems by line number. Exit code 2 if a case cannot be used."""
    from chiron.cases.summary import check_cases

    console = messages()
    good = bad = unlabeled_cases = 0
    for remark in check_cases(cases, images, unlabeled=unlabeled):
        good += remark.usable
        bad += remark.problem is not None and not remark.usable
        unlabeled_cases += remark.lacks_question
        if remark.problem is not None:
            kind = "warning" if remark.usable else "error"
            print(printable(f"{cases}:{remark.line}: {kind}: {f'case {remark.id}: ' if remark.id else ''}{remark.problem}"))
    console.print(f"{good} cases can be used, {bad} cannot")
    if bad and bad == unlabeled_cases:
        raise InputError(
            f"{cases}: {bad} cases have no question: make questions with 'chiron build questions {cases} --config FILE --out DIR',"
            " or check them as they are with --unlabeled"
        )
    if bad or not good:
        raise InputError(f"{cases}: fix the lines above" if bad else f"{cases} contains no case")
