"""``chiron cases import``: whatever holds cases, to one folder in the tidy format."""

import json
from pathlib import Path
from typing import Annotated

import typer

from chiron.cases.importing.records import ImportOptions, SourceKind
from chiron.cli.consoles import messages
from chiron.cli.progress_line import ProgressLine
from chiron.errors import InputError
from chiron.terminal import printable


def command(
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
    from chiron.cases.importing.columns import parse_map
    from chiron.cases.importing.importer import import_cases

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
