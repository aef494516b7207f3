"""``chiron report``: the page of a run."""

from pathlib import Path
from typing import Annotated

import typer

from chiron.cli.status import RunDirArgument
from chiron.errors import InputError


def command(
    run: RunDirArgument,
    cases: Annotated[str, typer.Option("--cases", metavar="N|all", help="How many cases to show in full.")] = "200",
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to write it (default: DIR/report.html).")] = None,
) -> None:
    """Write the report of a run anew, also while it goes on."""
    from chiron.report.page import write_report

    # Eighteen digits: more cases than anybody has, and fewer than Python refuses to read.
    if cases != "all" and not (cases.isdecimal() and len(cases) <= 18 and int(cases) > 0):
        raise InputError(f"--cases {cases}: write a number from 1 (at most 18 digits), or all")
    print(write_report(run, out=out, cases=None if cases == "all" else int(cases)))
