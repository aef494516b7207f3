"""`chiron cases`: import, check and count cases."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chiron.cli.progress_line import ProgressLine
from chiron.cli.streams import messages
from chiron.errors import InputError
from chiron.importing.drafts import ImportOptions, SourceKind
from chiron.terminal import printable

if TYPE_CHECKING:
    from chiron.cases.coverage import Coverage

_LISTED = 5


def coverage_command(
    cases: Annotated[Path, typer.Argument(metavar="CASES", help="JSONL or JSON, in the published or the tidy format.")],
    figure: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the map too: .svg, .png or .pdf.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the map as JSON.")] = False,
) -> None:
    """Print the map of twelve modalities by twenty body systems."""
    from chiron.cases.coverage import coverage_of_file

    coverage = coverage_of_file(cases)
    if json_output:
        print(json.dumps(coverage.to_record(), ensure_ascii=False))
    else:
        print("\n".join(_table(coverage)))
    if figure is not None:
        from chiron.cases.coverage import draw_coverage

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
    bad = f"; {coverage.bad:,} records cannot be read ('chiron cases check' says why)" if coverage.bad else ""
    lines.append(f"{coverage.cases:,} cases, {coverage.cases - coverage.unplaced:,} placed{bad}")
    if coverage.unplaced:
        why = f"{coverage.no_modality:,} of no known modality, {coverage.no_system:,} of no certain body system"
        lines.append(f"{coverage.unplaced:,} unplaced: {why}")
    if hollow := coverage.findings_without_images:
        more = ", ..." if len(hollow) > _LISTED else ""
        lines.append(
            printable(f"{len(hollow):,} describe images of a modality that they have none of: {', '.join(hollow[:_LISTED])}{more}")
        )
    return lines


def import_command(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A file, or a folder with files of one kind.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write: cases.jsonl, images/, what was left out.")],
    kind: Annotated[SourceKind | None, typer.Option("--from", help="What SOURCE is; else told by what it is.")] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="DIR", help="Where the images of JSONL, tables and datasets lie (default: beside them)."),
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--map", metavar="FIELD=COLUMN", help="Which column is which field: question=Frage,images=Bild.")
    ] = None,
    sheet: Annotated[
        str | None, typer.Option(metavar="NAME", help="The sheet of a spreadsheet (default: the first with a header).")
    ] = None,
    split: Annotated[str | None, typer.Option(metavar="NAME", help="The split of a dataset (default: all).")] = None,
    slices: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Every N-th slice (default: key images, else 8 evenly spaced).")
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Questions, answers, history, findings for DICOM or NIfTI, by accession, study or folder."),
    ] = None,
    question: Annotated[
        str | None, typer.Option(metavar="TEXT", help="One question for all rows that have an answer or impression and no question.")
    ] = None,
    modality: Annotated[str | None, typer.Option(metavar="NAME", help="The modality where the source names none.")] = None,
    keep_ids: Annotated[
        bool | None, typer.Option("--keep-ids/--hash-ids", help="Ids as they are, or pseudonyms (default: DICOM and NIfTI hashed).")
    ] = None,
    salt: Annotated[Path | None, typer.Option(metavar="FILE", help="Salt of the pseudonyms (default: DIR/.salt).")] = None,
    allow_identifying: Annotated[bool, typer.Option("--allow-identifying", help="Take cases whose text may name somebody.")] = False,
    allow_burned_in: Annotated[bool, typer.Option("--allow-burned-in", help="Take DICOM series with text in their pixels.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
) -> None:
    """Bring cases in: JSONL, CSV or spreadsheet, DICOM studies, NIfTI volumes, a dataset on disk.

    What cannot be taken, or may say who a patient is, is left out with its reason, and the rest goes on. Exit code 2 if nothing is left.
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
    line = ProgressLine(console)

    def progress(done: int, total: int | None) -> None:
        line.update(f"{done:,} records" if total is None else f"{done:,} of {total:,} records", done, max(done + 1, total or 0))

    summary = import_cases(source, out, options, progress)
    line.close()
    if json_output:
        print(json.dumps(summary.to_record(), ensure_ascii=False))
    done = "was there already, unchanged" if summary.unchanged else "written"
    asked = f" ({summary.unlabeled:,} without a question)" if summary.unlabeled else ""
    console.print(printable(f"{summary.cases:,} cases{asked} with {summary.images:,} images in {out}: {done}"), markup=False)
    for note, count in summary.notes.items():
        console.print(printable(f"  {note}{f' ({count:,})' if count > 1 else ''}"), markup=False)
    if summary.left_out:
        parts = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in summary.left_out.items())
        console.print(printable(f"  left out: {parts}; the reasons are in {out / 'not-imported.jsonl'}"), markup=False)
    if not summary.cases:
        raise InputError(f"no case of {source} could be taken: see {out / 'not-imported.jsonl'}")


app = typer.Typer(help="Bring cases in and look them over.", no_args_is_help=True)
app.command("import")(import_command)
app.command("coverage")(coverage_command)


@app.command("check")
def check(
    cases: Annotated[Path, typer.Argument(metavar="CASES", help="JSONL or JSON, in the published or the tidy format.")],
    images: Annotated[
        Path | None, typer.Option("--images", metavar="DIR", help="Where images lie (default: images/ beside CASES).")
    ] = None,
    unlabeled: Annotated[bool, typer.Option("--unlabeled", help="Accept cases without a question, which are for 'chiron build'.")] = False,
) -> None:
    """Say what is wrong with which line. Exit code 2 if a case cannot be used."""
    from chiron.cases.check import check_cases

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
