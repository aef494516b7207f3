"""``chiron demo``: sample cases through the search with the embedded team, offline."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from chiron.cli.consoles import messages
from chiron.terminal import printable


def command(
    directory: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where to write everything.")] = Path("demo"),
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many cases.")] = 24,
) -> None:
    """Draw sample cases, search them with the embedded baselines, and write a report. No key, no network, no GPU."""
    import yaml

    from chiron.cli.conducting import conduct, finish
    from chiron.mics.config import check_config
    from chiron.mics.public import prepare_run
    from chiron.mics.templates import template
    from chiron.phantom.sample import write_sample

    console = messages()
    sample = write_sample(directory / f"cases-{count}", count=count)
    console.print(f"drew {sample.count} cases: {escape(printable(sample.cases))}")
    config = check_config(yaml.safe_load(template("offline")), origin=Path("offline.yaml"))
    console.print("searching them with the embedded team: extractive mentors, retrieval interns, a judge by normalised match (baselines)")
    finish(conduct(prepare_run(sample.cases, config, directory / f"run-{count}")), json_output=False)
