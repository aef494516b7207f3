"""`chiron slurm`: submit a search, a build or an evaluation, and the commands that its jobs run."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.markup import escape

from chiron.cli.build import commands_with_models
from chiron.cli.eval import measure_models
from chiron.cli.search import search, with_engine
from chiron.cli.streams import messages
from chiron.terminal import printable

if TYPE_CHECKING:
    from chiron.jobs.engine import Engine, EngineOptions, Part
    from chiron.jobs.replies import Preparation

app = typer.Typer(help="Run a search, a build or an evaluation on a Slurm cluster.", no_args_is_help=True)
build = typer.Typer(help="Submit the build of a part of a dataset.", no_args_is_help=True)
RunArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Run directory.")]


def _slurm(
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Number of tasks that may run at the same time.")],
    time: Annotated[str | None, typer.Option(metavar="HH:MM:SS", help="Time limit of a task (default: the partition's).")] = None,
    partition: Annotated[str | None, typer.Option(metavar="NAME", help="Partition (default: the cluster's).")] = None,
    sbatch: Annotated[list[str] | None, typer.Option(metavar="OPTION", help="Another option of sbatch, such as --account=x.")] = None,
    setup: Annotated[list[str] | None, typer.Option(metavar="LINE", help="Shell line that every job runs first.")] = None,
    storage: Annotated[str | None, typer.Option(metavar="URL", help="Folder or URL for copies of the tasks' ledgers.")] = None,
    write_only: Annotated[bool, typer.Option("--write-only", "--dry-run", help="Write the scripts; do not submit them.")] = False,
) -> tuple[str, "EngineOptions"]:
    from chiron.jobs.engine import EngineOptions
    from chiron.jobs.slurm import SlurmOptions

    slurm = SlurmOptions(
        time=time, partition=partition, sbatch=tuple(sbatch or ()), setup=tuple(setup or ()), write_only=write_only
    )  # fmt: skip
    return "slurm", EngineOptions(workers=workers, storage=storage, slurm=slurm)


_HELP = """Submit {what} as a job array, and the merge of the replies as a job that depends on it.

Run the same command again for what is left. A task that is preempted, or that reaches its time limit, continues in a new job.

For a forecast, use '{plain} --dry-run'."""
_LOCAL = ("dry_run", "pilot", "json_output", "list_all", "export_tsv")
"""Options of the commands that submit nothing."""


def _register(group: typer.Typer, name: str, command: Any, what: str, plain: str, *without: str) -> None:
    group.command(name, help=_HELP.format(what=what, plain=plain))(with_engine(command, _slurm, (*_LOCAL, *without)))


_register(app, "search", search, "a search", "chiron search", "shard")
_register(app, "eval", measure_models, "an evaluation or a suite", "chiron eval")
for _part, _command in commands_with_models.items():
    _register(build, _part, _command, f"the build of the part '{_part}'", f"chiron build {_part}")
app.add_typer(build, name="build")


@app.command("task", hidden=True)
def task_command(run: RunArgument, number: Annotated[int, typer.Argument(min=0, help="Number of the part.")]) -> None:
    """Run one part of a submitted job; the job array does this."""
    from chiron.cli.runner import closing_code
    from chiron.client.failures import UserStopped
    from chiron.jobs.slurm_engine import run_task

    summary = asyncio.run(run_task(run.resolve(), number, _part_of))
    counts = ", ".join(f"{count} {name}" for name, count in summary.outcomes.items()) or "no case was finished"
    messages().print(escape(printable(f"part {number}: {counts}")))
    # A task that was asked to stop after its last case has nothing left for another job.
    sys.exit(0 if isinstance(summary.halted, UserStopped) and not summary.pending else closing_code(summary))


def _part_of(record: dict[str, Any]) -> "Part":
    from chiron.jobs.replies import RankedPart
    from chiron.mics.run import SearchPart

    return SearchPart.of_record(record) if record["kind"] == "search" else RankedPart.of_record(record, _preparation_of(record))


def _preparation_of(record: dict[str, Any]) -> "Preparation":
    """Read how a build or an evaluation is prepared."""
    origin = Path("run.json")  # the paths of prompts are already resolved
    if record["kind"] == "eval":
        from chiron.evaluation import preparation
        from chiron.evaluation.config import EvaluationFile

        return preparation.preparation_of(EvaluationFile.check(record["config"], origin=origin), record["arguments"])
    from chiron.mmrp.config import BuildFile
    from chiron.mmrp.part import preparation_of
    from chiron.mmrp.questions import prepare_questions
    from chiron.mmrp.text import prepare_text

    prepare = {"text": prepare_text, "questions": prepare_questions}[record["kind"]]
    return preparation_of(record["kind"], prepare, BuildFile.check(record["config"], origin=origin), record["arguments"])


@app.command("merge", hidden=True)
def merge_command(run: RunArgument) -> None:
    """Merge the results of a submitted job; the job after the array does this."""
    from chiron.jobs.directory import WorkDirectory
    from chiron.jobs.slurm import FOLDER, need_same_version, recorded
    from chiron.jobs.slurm_engine import GATHERED, SlurmMerge

    engine = SlurmMerge(run)
    if engine.is_done():
        messages().print(escape(printable(f"{run} is merged already: nothing to do")))
        return
    gathered = (run / FOLDER / GATHERED).is_file()
    record = recorded(run, GATHERED if gathered else "0.json")
    need_same_version(run, record)
    if gathered:
        from chiron.cli.eval_output import finish_suite
        from chiron.evaluation.suite_run import suite_of_record

        with WorkDirectory(run).locked():
            suite = suite_of_record(record, run, engine)
            engine.need_parts(evaluation.directory.path for evaluation in suite.evaluations)
            finish_suite(suite, json_output=False, merged=engine.clean)
    engine.need_parts([run])
    try:
        _merge_one(run, record["part"], engine)
    except SystemExit as ended:
        if ended.code != 130:
            with WorkDirectory(run).locked():
                engine.clean()
        raise


def _merge_one(run: Path, record: dict[str, Any], engine: "Engine") -> NoReturn:
    if record["kind"] == "search":
        from chiron.cli.runner import conduct, finish
        from chiron.mics.api import prepare_again

        found = prepare_again(run)
        found.engine = engine
        finish(conduct(found), json_output=False)
    from chiron.cli.build import build_part
    from chiron.cli.eval_output import finish_evaluation
    from chiron.cli.runner import run_with_ui

    job: Any = _preparation_of(record)(run, 1, need_keys=False)
    job.engine = engine
    if record["kind"] == "eval":
        finish_evaluation(run_with_ui(job), json_output=False)
    build_part(job, json_output=False)
