"""Slurm: batch scripts for the parts of a job and for its merge, their submission, its files, and whether they have ended."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from chiron.errors import InputError
from chiron.io import write_atomically

FOLDER, JOB = "slurm", "job"
"""In a run directory: folder of scripts, parts and logs; file with the ID of the job array in it."""
_WARNING = 120
"""Seconds before the time limit at which a task is asked to end in order."""
_SHORTEST = 300
"""Minimum time limit in seconds, so that a task that starts again has time for new calls."""
_TIME = re.compile(r"(?:(?P<d>\d+)-(?P<dh>\d+)(?::(?P<dm>\d+)(?::(?P<ds>\d+))?)?|(?:(?P<h>\d+):(?=\d+:))?(?P<m>\d+)(?::(?P<s>\d+))?)")
_TASK = """\
{setup}
requeue=0
{chiron} task {run} "$SLURM_ARRAY_TASK_ID" &
child=$!
# USR1: the time limit is near, so this task continues in a new job. TERM: Slurm itself requeues or cancels it.
trap 'requeue=1; kill -TERM "$child" 2>/dev/null' USR1
trap 'kill -TERM "$child" 2>/dev/null' TERM
while :; do
    wait "$child"
    code=$?
    # A signal interrupts "wait" while the process still ends.
    if [ "$code" -le 128 ] || ! kill -0 "$child" 2>/dev/null; then break; fi
done
if [ "$requeue" = 1 ] && [ "$code" -gt 128 ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""
_MERGE = """\
{setup}
exec {chiron} merge {run}
"""
_SUBMIT = f"""\
#!/bin/bash
set -eu
cd "$(dirname "${{BASH_SOURCE[0]}}")"
if [ -e {JOB} ]; then
    echo "already submitted as job $(cat {JOB})" >&2
    exit 1
fi
array=$(sbatch --parsable array.sh)
array=${{array%%;*}}
echo "$array" > {JOB}
if ! merge=$(sbatch --parsable --dependency="afterany:$array" merge.sh); then
    scancel "$array"
    rm {JOB}
    exit 1
fi
echo "$array" "${{merge%%;*}}"
"""


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """How a job is submitted to Slurm."""

    time: str | None = None
    """Time limit of each task, in Slurm's form (``HH:MM:SS``); by default the partition's."""
    partition: str | None = None
    sbatch: tuple[str, ...] = ()
    """Further options of sbatch, such as ``--account=x``."""
    setup: tuple[str, ...] = ()
    """Shell lines that the scripts run first, such as ``source env.sh``."""
    write_only: bool = False
    """Write the scripts, and do not submit them."""

    def check(self) -> None:
        """Check the options.

        Raises:
            InputError: the time limit is invalid or too short, or an option has several lines or does not start with ``-``.
        """
        if self.time is not None and (seconds := _seconds(self.time)) < _SHORTEST:
            raise InputError(f"--time {self.time} is {seconds} s: give the tasks at least {_SHORTEST} s; a part continues in its next job")
        for name, values in (("--sbatch", self.sbatch), ("--partition", (self.partition or "x",))):
            for value in values:
                if not value.isprintable() or (name == "--sbatch" and not value.startswith("-")):
                    raise InputError(f"{name} {value!r} is not one option: write it as in '#SBATCH --account=x', with --sbatch=--account=x")


def _seconds(time: str) -> int:
    found = _TIME.fullmatch(time)
    if found is None:
        raise InputError(f"--time {time} is not a time of Slurm: write HH:MM:SS, or D-HH:MM:SS")
    n = {name: int(value or 0) for name, value in found.groupdict().items()}
    return 86400 * n["d"] + 3600 * (n["dh"] + n["h"]) + 60 * (n["dm"] + n["m"]) + n["ds"] + n["s"]


def write_scripts(run: Path, parts: int, workers: int, options: SlurmOptions) -> Path:
    """Write the scripts of a job into its directory, and return the one that submits the others.

    Args:
        run: run directory, which all nodes see under this path.
        parts: number of parts; each is a task of the array.
        workers: maximum number of tasks that run at the same time.
        options: how they are submitted.

    Raises:
        InputError: a path cannot be written into a script.
    """
    folder = run / FOLDER
    where = {"setup": "\n".join(options.setup), "chiron": f"{shlex.quote(sys.executable)} -m chiron slurm", "run": shlex.quote(str(run))}
    task = [
        ("job-name", f"chiron-{run.name}"),
        ("array", f"0-{parts - 1}%{min(workers, parts)}"),
        ("output", f"{_unpatterned(folder)}/%a.log"),
        ("signal", f"B:USR1@{_WARNING}"),
    ]
    merge = [("job-name", f"chiron-{run.name}-merge"), ("output", f"{_unpatterned(folder)}/merge.log")]
    for name, directives, body in (("array.sh", task, _TASK), ("merge.sh", merge, _MERGE)):
        write_atomically(folder / name, [_head(directives, options), body.format(**where)])
    write_atomically(folder / "submit.sh", [_SUBMIT])
    return folder / "submit.sh"


def _head(directives: list[tuple[str, str]], options: SlurmOptions) -> str:
    common = [("chdir", str(Path.cwd())), ("time", options.time), ("partition", options.partition)]
    lines = ["#!/bin/bash"]
    for name, value in [*directives, *common]:
        if value is None:
            continue
        if not value.isprintable() or set(value) & set("\"\\'"):
            raise InputError(f"'{value}' cannot be written into a Slurm script (--{name}): use a path without quotes and line breaks")
        lines.append(f'#SBATCH --{name}="{value}"')
    lines += ["#SBATCH --requeue", "#SBATCH --open-mode=append", "#SBATCH --nodes=1", "#SBATCH --ntasks=1"]
    return "\n".join([*lines, *(f"#SBATCH {option}" for option in options.sbatch)]) + "\n"


def _unpatterned(folder: Path) -> str:
    return str(folder).replace("%", "%%")  # Slurm replaces %a and others


def submit(script: Path) -> tuple[str, str]:
    """Submit the scripts of a job. Returns the IDs of the array and of the merge.

    Raises:
        InputError: Slurm is missing or refuses them; nothing is submitted then.
    """
    ended = _run(["bash", str(script)], "sbatch")
    if ended.returncode:
        raise InputError(f"sbatch refused {script.parent} ({_first_line(ended)}): correct the options, and run again")
    array, _, merge = ended.stdout.strip().partition(" ")
    return array, merge


def need_ended(run: Path) -> None:
    """Check that no task of a submitted job can still run.

    Raises:
        InputError: some can, or Slurm does not say.
    """
    try:
        job = (run / FOLDER / JOB).read_text("utf-8").strip()
    except FileNotFoundError:
        return
    if not job:
        return
    ended = _run(["squeue", "--noheader", "--format=%F"], "squeue")
    if ended.returncode:
        raise InputError(f"squeue does not say whether job {job} of {run} has ended ({_first_line(ended)}): try again when Slurm answers")
    if job in ended.stdout.split():
        raise InputError(f"{run} is in use by Slurm job {job}: wait for it (squeue --job {job}), or end it (scancel {job})")


def recorded(run: Path, name: str) -> dict[str, Any]:
    """Read a file of a submission.

    Raises:
        InputError: it is missing or damaged.
    """
    file = run / FOLDER / name
    try:
        record: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file} cannot be read ({error}): the run was merged or submitted again; see its logs, and 'chiron status' of a search"
        ) from None
    return record


def need_same_version(run: Path, record: dict[str, Any]) -> None:
    """Check the version of a record, before anything is read that another version may have written otherwise.

    Raises:
        InputError: it differs.
    """
    here, there = version("chiron-med"), record["about"][0]
    if here != there:
        raise InputError(
            f"{run} was submitted by chiron {there}, and this machine has {here}: install the same version of chiron-med on every machine"
        )


def _run(command: list[str], program: str) -> "subprocess.CompletedProcess[str]":
    """Run a command that needs one of Slurm's programs."""
    if shutil.which(program) is None:
        raise InputError(
            f"{program} is not installed here: run the command on a machine of the Slurm cluster, or write the scripts with --write-only"
        )
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed commands


def _first_line(ended: "subprocess.CompletedProcess[str]") -> str:
    lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
    return lines[0][:200] if lines else f"exit code {ended.returncode}"
