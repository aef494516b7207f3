"""`chiron slurm search`, and the commands that its jobs run."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from chiron.cli.search import Cases, Config, Images, RunDir
from chiron.cli.streams import messages
from chiron.terminal import printable

app = typer.Typer(help="Run a search on a Slurm cluster.", no_args_is_help=True)
RunArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Run directory.")]


@app.command("search")
def search_command(
    cases: Cases,
    config: Config,
    run: RunDir,
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Number of tasks that may run at the same time.")],
    images: Images = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first N cases.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Overrides search.seed.")] = None,
    time: Annotated[str | None, typer.Option(metavar="HH:MM:SS", help="Time limit of a task (default: the partition's).")] = None,
    partition: Annotated[str | None, typer.Option(metavar="NAME", help="Partition (default: the cluster's).")] = None,
    sbatch: Annotated[list[str] | None, typer.Option(metavar="OPTION", help="Another option of sbatch, such as --account=x.")] = None,
    setup: Annotated[list[str] | None, typer.Option(metavar="LINE", help="Shell line that every job runs first.")] = None,
    storage: Annotated[str | None, typer.Option(metavar="URL", help="Folder or URL for copies of the tasks' ledgers.")] = None,
    write_only: Annotated[bool, typer.Option("--write-only", "--dry-run", help="Write the scripts; do not submit them.")] = False,
) -> None:
    """Submit a search as a job array, and the merge of its results as a job that depends on it.

    Run the same command again to search what is left. A task that is preempted, or that reaches its time limit, continues in a new job.
    """
    from chiron.cli.runner import conduct, finish
    from chiron.jobs.engine import EngineOptions
    from chiron.jobs.slurm import SlurmOptions
    from chiron.mics.api import prepare_run
    from chiron.mics.config import load_config

    slurm = SlurmOptions(
        time=time, partition=partition, sbatch=tuple(sbatch or ()), setup=tuple(setup or ()), write_only=write_only
    )  # fmt: skip
    options = EngineOptions(workers=workers, storage=storage, slurm=slurm)
    checked = load_config(config, seed=seed)
    finish(conduct(prepare_run(cases, checked, run, images=images, limit=limit, engine="slurm", engine_options=options)), json_output=False)


@app.command("task", hidden=True)
def task_command(run: RunArgument, number: Annotated[int, typer.Argument(min=0, help="Number of the part.")]) -> None:
    """Run one part of a submitted search; the job array does this."""
    from chiron.cli.runner import closing_code
    from chiron.client.failures import UserStopped
    from chiron.jobs.slurm_engine import run_task
    from chiron.mics.run import SearchPart

    summary = asyncio.run(run_task(run.resolve(), number, SearchPart.of_record))
    counts = ", ".join(f"{count} {name}" for name, count in summary.outcomes.items()) or "no case was finished"
    messages().print(escape(printable(f"part {number}: {counts}")))
    # A task that was asked to stop after its last case has nothing left for another job.
    sys.exit(0 if isinstance(summary.halted, UserStopped) and not summary.pending else closing_code(summary))


@app.command("merge", hidden=True)
def merge_command(run: RunArgument) -> None:
    """Merge the results of a submitted search; the job after the array does this."""
    from chiron.cli.runner import conduct, finish
    from chiron.jobs.slurm_engine import SlurmMerge
    from chiron.mics.api import prepare_again

    merge = prepare_again(run)
    merge.engine = SlurmMerge()
    finish(conduct(merge), json_output=False)
