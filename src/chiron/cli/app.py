"""``chiron``: the commands put together, and what becomes of errors."""

import os
import sys
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from chiron import __version__
from chiron.cli import cases, convert, demo, doctor, init, replay, report, sample, search, status, train
from chiron.cli.consoles import messages
from chiron.errors import ChironError

EXIT_INPUT, EXIT_PENDING, EXIT_INTERRUPTED = 2, 3, 130

app = typer.Typer(
    name="chiron",
    help="Mentor-Intern Collaborative Search on medical image cases. For research; not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command("search")(search.command)
app.command("status")(status.command)
app.command("replay")(replay.command)
app.command("report")(report.command)
app.command("init")(init.command)
app.command("doctor")(doctor.command)
app.command("train")(train.command)
app.command("convert")(convert.command)
app.command("sample")(sample.command)
app.command("demo")(demo.command)
app.add_typer(cases.app, name="cases")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        print(f"chiron {__version__}")
        raise typer.Exit


def main() -> NoReturn:
    """Run the command line. Exit codes: 0 done, 1 a crash of ours, 2 the user's to mend, 3 work left pending, 130 interrupted."""
    try:
        app()
    except ChironError as error:
        messages().print(f"[red]error:[/red] {escape(str(error))}")
        sys.exit(EXIT_INPUT)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone (``chiron ... | head``); nothing is left to say, and nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(0)
