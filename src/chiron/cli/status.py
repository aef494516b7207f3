"""``chiron status``: what a run has done so far, also while it goes on."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from chiron.cli.consoles import results
from chiron.terminal import printable

RunDirArgument = Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")]


def command(
    run: RunDirArgument,
    json_output: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    failures: Annotated[bool, typer.Option("--failures", help="Also why calls got no answer, in the servers' words.")] = False,
) -> None:
    """Show a run: outcomes, MICS-Score, calls, tokens, cost and retries by model and role."""
    from chiron.cli.conducting import spending_table, spent_in_words
    from chiron.mics.status import read_status

    status = read_status(run)
    if json_output:
        print(json.dumps({**asdict(status), "run": str(run)}, ensure_ascii=False))
        return
    console = results()
    state = "a process is at work in it" if status.in_use else "nobody is at work in it"
    console.print(escape(printable(f"{run}: begun {status.began}, {state}; cases from {status.cases}")))
    counts = ", ".join(f"{n} {name}" for name, n in status.outcomes.items()) or "no case has ended yet"
    mean = "" if status.mean_score is None else f"; mean MICS-Score {status.mean_score:.2f}"
    console.print(escape(printable(f"{counts}{mean}")))
    if status.reasons:
        reasons = ", ".join(f"{name} {n}" for name, n in status.reasons.items())
        console.print(f"not retained because: {escape(printable(reasons))}")
    if status.incomplete:
        console.print(
            f"{status.incomplete} ended with something missing: {status.missing_candidates} candidates, {status.missing_evaluations}"
            " evaluations (their calls failed; 'chiron replay' asks for those alone)"
        )
    if status.spending:
        console.print(spending_table(status.spending))
    if spent := spent_in_words(status.spent_usd, status.possibly_spent_usd):
        console.print(spent)
    if failures:
        console.print("calls without an answer:" if status.failures else "no call is without an answer")
        for failure in status.failures:
            line = f"{failure.count:>6}  {failure.role} {failure.model}: {failure.words}"
            console.print(escape(printable(line)), soft_wrap=True)
    elif status.failures:
        total = sum(failure.count for failure in status.failures)
        console.print(f"{total} calls got no answer at some time; --failures says why", soft_wrap=True)
