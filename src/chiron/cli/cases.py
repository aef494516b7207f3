"""``chiron cases``: bring cases in, look them over, and see what there is of each kind."""

from pathlib import Path
from typing import Annotated

import typer

from chiron.cli import cases_coverage, cases_import
from chiron.cli.consoles import messages
from chiron.errors import InputError
from chiron.terminal import printable

app = typer.Typer(help="Bring cases in and look them over.", no_args_is_help=True)
app.command("import")(cases_import.command)
app.command("coverage")(cases_coverage.command)


@app.command("check")
def check(
    cases: Annotated[Path, typer.Argument(metavar="CASES", help="JSONL or JSON, in the published or the tidy format.")],
    images: Annotated[
        Path | None, typer.Option("--images", metavar="DIR", help="Where images lie (default: images/ beside CASES).")
    ] = None,
    unlabeled: Annotated[bool, typer.Option("--unlabeled", help="Accept cases without a question, which are for 'chiron build'.")] = False,
) -> None:
    """Say what is wrong with which line. Exit code 2 if a case cannot be used."""
    from chiron.cases.checking import check_cases

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
