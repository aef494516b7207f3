"""The command ``chiron``: all commands, and exit codes for errors."""

import logging
import sys
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from chiron.cli import build, build_release, cases, compare, demo, models, push, review, schema, search, slurm, train, view
from chiron.cli import eval as evaluation
from chiron.cli.streams import BrokenPipe, messages, safe_streams, show_log
from chiron.errors import ChironError
from chiron.terminal import printable

EXIT_INPUT, EXIT_INTERRUPTED = 2, 130

app = typer.Typer(
    name="chiron",
    help="Verifiable reasoning on medical image cases: search, build a dataset, train, evaluate. For research; not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command("search")(search.search_command)
app.command("status")(search.status_command)
app.command("replay")(search.replay_command)
app.command("report")(search.report_command)
app.command("merge")(search.merge_command)
app.command("init")(models.init_command)
app.command("schema")(schema.schema_command)
app.command("doctor")(models.doctor_command)
app.command("train")(train.train_command)
app.command("convert")(train.convert_command)
app.command("push")(push.push_command)
app.command("sample")(demo.sample_command)
app.command("ask")(models.ask_command)
app.command("demo")(demo.demo_command)
app.command("compare")(compare.command)
app.command("view")(view.view_command)
build.app.command("check")(build_release.check_command)
build.app.command("release")(build_release.release_command)
build.app.command("tree")(build.tree_command)
build.app.command("preferences")(build.preferences_command)
build.app.command("rewards")(build.rewards_command)
build.app.command("rl")(build.rl_command)
build.app.command("reflections")(build.reflections_command)
evaluation.app.command("fetch")(evaluation.fetch_command)
evaluation.app.command("contamination")(evaluation.contamination_command)
app.add_typer(build.app, name="build")
app.add_typer(cases.app, name="cases")
app.add_typer(review.app, name="review")
app.add_typer(evaluation.app, name="eval")
app.add_typer(slurm.app, name="slurm")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also print what is retried or recovered, on standard error.")] = False,
) -> None:
    show_log(logging.INFO if verbose else logging.WARNING)
    if version:
        from chiron._version import __version__

        print(f"chiron {__version__}")
        raise typer.Exit


def main() -> NoReturn:
    """Run the command line.

    Exit codes: 0 done, 1 a bug, 2 invalid input or configuration, 3 work is pending, 75 a training ended by SIGTERM or SIGUSR1, 130
    interrupted.
    """
    with safe_streams():
        code = _run()
        try:
            sys.stdout.flush()
        except BrokenPipe:
            pass  # the command has ended; keep its exit code
        except ChironError as error:
            code = _print_error(error)
    sys.exit(code)


def _run() -> int | str | None:
    """Run a command and return its exit code."""
    try:
        app()
    except SystemExit as leaving:
        return leaving.code
    except BrokenPipe:
        return 0
    except ChironError as error:
        return _print_error(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def _print_error(error: ChironError) -> int:
    messages().print(f"[red]error:[/red] {escape(printable(error))}")
    return EXIT_INPUT
