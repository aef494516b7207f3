"""Run a job from the command line: progress display, signals, summary and exit code."""

import asyncio
import gc
import json
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from chiron.cli.live import duration, watching
from chiron.cli.streams import BrokenPipe, messages, plain_table, whole
from chiron.client.batch_record import read_open_batches
from chiron.client.failures import ConfigurationError, Submitted, TooManyCrashes, UserStopped
from chiron.client.ledger import Spending
from chiron.errors import DiskError, InputError
from chiron.jobs.job import Job, JobSummary, Summary
from chiron.terminal import printable

if TYPE_CHECKING:
    from chiron.mics.run import Run, RunSummary


def run_with_ui(work: Job[Any, Any, Summary]) -> Summary:
    """Run a job with a progress display. The first signal stops it after the calls in flight, the second at once."""
    console = messages()

    async def watched() -> Summary:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        asked = False

        def stop() -> None:
            nonlocal asked
            # A run that halted by itself may still wait for paid calls. Only the user's second signal drops them.
            if work.client is not None and not asked:
                asked = True
                work.stop()
                batches = "; batches continue at their provider" if read_open_batches(work.directory.path) else ""
                console.print(f"stopping: waiting for the calls in flight (press Ctrl-C again to drop them){batches}")
            elif task is not None:
                task.cancel()

        def hang_up() -> None:
            # A closing terminal may send it more than once. That is not a second request by the user.
            if not asked:
                stop()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it on purpose
            loop.add_signal_handler(signal.SIGHUP, hang_up)
        async with watching(work, console):
            return await work.execute()

    _freeze_loaded()
    try:
        return asyncio.run(watched())
    except asyncio.CancelledError:
        calls = sum(batch.calls for batch in read_open_batches(work.directory.path))
        kept = f" {calls:,} calls in batches are not lost: the same command collects their replies." if calls else ""
        console.print(
            "stopped at once: the calls in flight are lost, all other replies are in the ledger. Run the same command again to resume."
            + kept,
            soft_wrap=True,
        )
        sys.exit(130)


def _freeze_loaded() -> None:
    """Exclude what is loaded from garbage collection, which would look through it again and again. Once, because garbage stays too."""
    if not gc.get_freeze_count():
        gc.freeze()


def conduct(run: "Run") -> "RunSummary":
    """Run a search with a progress display, then write its report."""
    from chiron.reports.page import write_report

    summary = run_with_ui(run)
    write_report(run.directory.path)
    return summary


def finish(summary: "RunSummary", *, json_output: bool) -> NoReturn:
    """Print the summary of a search and exit with its exit code."""
    if json_output:
        print_json(summary.to_record())
    elif is_submitted(summary):
        sys.exit(closing_code(summary))
    else:
        _show_summary(summary)
    code = closing_code(summary)
    ended = summary.retained + summary.rejected + summary.unsolved
    if summary.total == summary.bad and not ended + summary.unjudged + summary.pending:
        raise InputError("no case can be used: " + ("'chiron cases check FILE' shows why" if summary.bad else "the file contains no cases"))
    if code == 0 and summary.unjudged and not ended:
        raise InputError("the judge gave no verdict on any case: choose another judge or raise search.max_tokens.judge")
    sys.exit(code)


def is_submitted(summary: JobSummary) -> bool:
    """Return whether another system runs the job: its figures come later."""
    return isinstance(summary.halted, Submitted)


def print_json(value: object) -> None:
    """Print a result for programs on standard output."""
    # A closed pipe does not change the exit code.
    with suppress(BrokenPipe):
        print(json.dumps(value, ensure_ascii=False))


def closing_code(summary: JobSummary) -> int:
    """Print what is pending and why; return the exit code."""
    console = messages()
    for note in summary.notes:
        console.print(f"[yellow]note:[/yellow] {escape(printable(note))}")
    match summary.halted:
        case None if summary.pending:
            return _pending_code(summary)
        case None:
            return 0
        case Submitted():
            console.print(escape(printable(summary.halted)), soft_wrap=True)
            return 0
        case UserStopped():
            console.print(f"{summary.pending} pending; run the same command again to resume")
            return 130
        case reason:
            console.print(f"[red]stopped:[/red] {escape(printable(reason))}")
            return 1 if isinstance(reason, TooManyCrashes) else 2 if isinstance(reason, ConfigurationError | DiskError) else 3


def _pending_code(summary: JobSummary) -> int:
    """Print why work is pending and how to continue; return 3 if running again can help, else 1 after a crash and 2 without one."""
    because = f", most of them because {escape(printable(summary.pending_because))}" if summary.pending_because else ""
    if summary.refused + summary.crashed < summary.pending:
        refused = f" ({summary.refused} of them will be refused again until the configuration changes)" if summary.refused else ""
        messages().print(f"{summary.pending} pending{because}; run the same command again to resume{refused}")
        return 3
    if summary.crashed:
        which = "all" if summary.crashed == summary.pending else summary.crashed
        messages().print(f"{summary.pending} pending{because}; chiron failed on {which} of them because of a bug: see errors.log")
        return 1
    messages().print(
        f"{summary.pending} pending{because}; the calls will be refused again: change the configuration, the server or these inputs first"
    )
    return 2


def spent_in_words(spent_usd: float, possibly_spent_usd: float) -> str:
    """Format the money spent; empty if nothing was spent."""
    if not spent_usd:
        return ""
    possibly = f", of which ${possibly_spent_usd:.4f} possibly (calls without a reply)" if possibly_spent_usd else ""
    return f"spent ${spent_usd:.4f}{possibly}"


def _show_summary(summary: "RunSummary") -> None:
    from chiron.mics.run_directory import PATHS, REJECTED, REPORT

    console = messages()
    mean = "-" if summary.mean_score is None else f"{summary.mean_score:.2f}"
    unjudged = f" {summary.unjudged} unjudged," if summary.unjudged else ""
    console.print(
        f"[green]{summary.retained} retained[/green], {summary.rejected} rejected, {summary.unsolved} unsolved,{unjudged}"
        f" {summary.pending} pending, {summary.bad} bad in this run directory; {summary.total} cases selected, {duration(summary.seconds)};"
        f" mean MICS-Score of the scored ones {mean}"
    )
    if summary.spending:
        console.print(spending_table(summary.spending))
    if spent := spent_in_words(summary.spent_usd, summary.possibly_spent_usd):
        console.print(spent)
    for name, file in (("paths", PATHS), ("others", REJECTED), ("report", REPORT)):
        console.print(f"{name:8}{escape(printable(summary.directory / file))}")


_ALWAYS = {"calls", "tokens in", "tokens out", "s/call"}
"""Columns that are shown even if they are empty."""


def spending_table(spending: tuple[Spending, ...]) -> Table:
    """Make a table of tokens, cost, seconds and retries by role and model, without empty columns."""
    columns = {
        "calls": [f"{s.calls:,}" for s in spending],
        "replayed": [f"{s.copied:,}" for s in spending],
        "tokens in": [f"{s.prompt_tokens:,}" for s in spending],
        "tokens out": [f"{s.completion_tokens:,}" for s in spending],
        "USD": [f"{s.cost_usd:.4f}" if s.priced else "-" for s in spending],
        "s/call": [f"{s.seconds / s.calls:.2f}" if s.calls else "-" for s in spending],
        "retries": [f"{s.retries:,}" for s in spending],
        "failed": [f"{s.failed:,}" for s in spending],
        "cut off": [f"{s.cut_off:,}" for s in spending],
        "only thinking": [f"{s.only_thinking:,}" for s in spending],
    }
    shown = {title: cells for title, cells in columns.items() if title in _ALWAYS or not set(cells) <= {"0", "-"}}
    table = plain_table(("role", "model"), tuple(shown), gap=1, no_wrap=True, overflow="fold")
    for s, *figures in zip(spending, *shown.values(), strict=True):
        table.add_row(Text(printable(s.role)), Text(printable(s.model)), *figures)
    return whole(table)
