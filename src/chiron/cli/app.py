"""``chiron``: the commands put together, and what becomes of errors."""

import sys
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from chiron.cli import ask, build, build_release, build_signals, cases, compare, demo, doctor, search, train
from chiron.cli import eval as evaluation
from chiron.cli.streams import BrokenPipe, messages, safe_streams
from chiron.errors import ChironError
from chiron.terminal import printable

EXIT_INPUT, EXIT_PENDING, EXIT_INTERRUPTED = 2, 3, 130

app = typer.Typer(
    name="chiron",
    help="Verifiable reasoning on medical image cases: search it, build a dataset, train, measure. For research; not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command("search")(search.search_command)
app.command("status")(search.status_command)
app.command("replay")(search.replay_command)
app.command("report")(search.report_command)
app.command("init")(doctor.init_command)
app.command("doctor")(doctor.doctor_command)
app.command("train")(train.train_command)
app.command("convert")(train.convert_command)
app.command("sample")(demo.sample_command)
app.command("ask")(ask.command)
app.command("demo")(demo.demo_command)
app.command("compare")(compare.command)
build.app.command("tree")(build_signals.tree_command)
build.app.command("preferences")(build_signals.preferences_command)
build.app.command("rewards")(build_signals.rewards_command)
build.app.command("rl")(build_signals.rl_command)
build.app.command("reflections")(build_signals.reflections_command)
build.app.command("check")(build_release.check_command)
build.app.command("release")(build_release.release_command)
evaluation.app.command("contamination")(evaluation.contamination_command)
app.add_typer(build.app, name="build")
app.add_typer(cases.app, name="cases")
app.add_typer(evaluation.app, name="eval")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        from chiron._version import __version__

        print(f"chiron {__version__}")
        raise typer.Exit


def main() -> NoReturn:
    """Run the command line. Exit codes: 0 done, 1 a crash of ours, 2 the user's to mend, 3 work left pending, 130 interrupted."""
    with safe_streams():
        code = _obey()
        try:
            sys.stdout.flush()
        except BrokenPipe:
            pass  # what was done is done, and its exit code says how
        except ChironError as error:
            code = _say(error)
    sys.exit(code)


def _obey() -> int | str | None:
    """Run a command; its exit code."""
    try:
        app()
    except SystemExit as leaving:
        return leaving.code
    except BrokenPipe:
        return 0
    except ChironError as error:
        return _say(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def _say(error: ChironError) -> int:
    messages().print(f"[red]error:[/red] {escape(printable(error))}")
    return EXIT_INPUT
