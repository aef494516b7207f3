"""`chiron eval fetch`: list downloads with size and license, then download them."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.text import Text

from chiron.cli.runner import print_json
from chiron.cli.streams import messages, results
from chiron.errors import InputError
from chiron.evaluation.benchmarks.fetching import Download, FetchInterrupted, RemoteFile, download, in_bytes, plan
from chiron.terminal import printable


def fetch(names: Sequence[str], data: Path, *, mirror: str | None, files: Sequence[Path], dry_run: bool, json_output: bool) -> None:
    """Print what is needed, download it, and exit with 2 if something must be fixed, 3 if running again resumes, else 0."""
    downloads = plan(names, data, mirror=mirror, files=files)
    console = messages()
    if not json_output:
        _show(downloads, data)
    records = []
    codes = {0}
    for wanted in downloads:
        problem = wanted.problem
        needed = wanted.missing
        try:
            if not problem and not dry_run:
                download(wanted)
                console.print(escape(printable(f"{wanted.folder}: {len(wanted.files)} files, verified")), soft_wrap=True)
        except (InputError, FetchInterrupted) as error:
            problem = str(error)
            codes.add(3 if isinstance(error, FetchInterrupted) else 2)
        if problem:
            codes |= {2} if wanted.problem else set()
            named = problem if problem.startswith(wanted.name) else f"{wanted.name}: {problem}"
            console.print(f"[yellow]not fetched:[/yellow] {escape(printable(named))}", soft_wrap=True)
        records.append(_record(wanted, needed, problem))
    if json_output:
        print_json(records)
    elif dry_run:
        results().print("Nothing was downloaded.")
    # What must be fixed by the user counts more than what is resumed by running again.
    sys.exit(next(code for code in (2, 3, 0) if code in codes))


def _show(downloads: Sequence[Download], data: Path) -> None:
    console = results()
    for wanted in downloads:
        rest = f"{_size(wanted.missing)} to download" if wanted.missing else "already here"
        sizes = f"{len(wanted.files)} ({_size(wanted.files)}), {rest}" if wanted.files else "unknown"
        console.print(Text(printable(wanted.name), style="bold"))
        for label, value in (("for", ", ".join(wanted.benchmarks)), ("files", sizes), ("license", wanted.license)):
            console.print(Text(printable(f"    {label:9}{value}")), soft_wrap=True)
    left = sum(bool(wanted.problem) for wanted in downloads)
    total = _size([file for wanted in downloads if not wanted.problem for file in wanted.missing])
    without = f", without {left} data sets that cannot be fetched" if left else ""
    console.print(escape(printable(f"{total} to download to {data}{without}")), soft_wrap=True)


def _size(files: Sequence[RemoteFile]) -> str:
    sizes = [file.size for file in files]
    total = in_bytes(sum(size for size in sizes if size is not None))
    return f"at least {total}" if None in sizes else total


def _record(wanted: Download, needed: Sequence[RemoteFile], problem: str) -> dict[str, object]:
    return {
        "name": wanted.name,
        "folder": str(wanted.folder),
        "benchmarks": wanted.benchmarks,
        "license": wanted.license,
        "revision": wanted.revision,
        "files": [{"path": file.path, "size": file.size, "digest": file.digest, "needed": file in needed} for file in wanted.files],
        "problem": problem,
    }
