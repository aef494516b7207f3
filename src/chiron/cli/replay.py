"""``chiron replay``: an old run's replies under another configuration."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from chiron.cli.consoles import messages
from chiron.cli.search import Config, Images, Json, RunDir
from chiron.terminal import printable


def command(
    old: Annotated[Path, typer.Argument(metavar="DIR", help="The run directory to take replies from; it is only read.")],
    config: Config,
    run: RunDir,
    cases: Annotated[Path | None, typer.Option("--cases", metavar="FILE", help="The cases, if they lie elsewhere now.")] = None,
    images: Images = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how many calls would be new, and leave.")] = False,
    json_output: Json = False,
) -> None:
    """Search the cases of a run again with another judge, policy or team. What its ledger holds costs nothing."""
    from chiron.cli.conducting import conduct, finish
    from chiron.mics.config import load_config
    from chiron.mics.replaying import rehearse, replay_run, replay_setup
    from chiron.mics.rundir import RunDirectory

    source = RunDirectory(old)
    setup = replay_setup(source, load_config(config), cases, images, need_keys=not dry_run)
    new = replay_run(setup, source, run)
    plan = asyncio.run(rehearse(setup, source.ledger))
    console = messages()
    console.print(
        f"{plan.complete} of {plan.cases} cases need no new call; {plan.known_calls} calls are in {escape(printable(source.ledger))};"
        f" new calls: at least {plan.new_calls_at_least}, at most {plan.new_calls_at_most}"
    )
    if not dry_run:
        finish(conduct(new), json_output=json_output)
