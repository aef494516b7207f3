"""``chiron doctor``: is everything that a configuration needs there?"""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.text import Text

from chiron.cli.consoles import results
from chiron.errors import InputError
from chiron.terminal import printable

if TYPE_CHECKING:
    from rich.console import Console

    from chiron.mics.config import RunConfig
    from chiron.models.probing import Finding


def command(
    config: Annotated[Path, typer.Argument(metavar="FILE", help="A configuration file with a section 'search'.")],
    ask: Annotated[bool, typer.Option("--ask/--no-ask", help="Put one tiny question, with an image, to every model.")] = True,
) -> None:
    """Check a search's configuration: keys set, endpoints reached, models listed, images accepted. Exit code 2 if something is missing."""
    from chiron.mics.config import load_config
    from chiron.mics.prompts import load_prompts

    console = results()
    checked = load_config(config)
    load_prompts({name: Path(path) for name, path in checked.search.prompts.items()})
    console.print(f"{escape(printable(config))} can be read; its models:")
    faults = asyncio.run(_examine(checked, console, ask=ask))
    if faults:
        raise InputError(f"{config}: {faults} {'thing' if faults == 1 else 'things'} to mend, marked above")


async def _examine(config: "RunConfig", console: "Console", *, ask: bool) -> int:
    from chiron.models.probing import probe

    async def look(name: str) -> "list[Finding]":
        needs_image = name != config.search.judge or name in (*config.search.mentors, *config.search.interns)
        return [f async for f in probe(name, config.models[name], ask=ask, needs_image=needs_image)]

    faults = 0
    for findings in [asyncio.create_task(look(name)) for name in config.team_models()]:
        for f in await findings:
            faults += f.ok is False
            mark, style = ("ok", "green") if f.ok else ("?", "yellow") if f.ok is None else ("FAULT", "red")
            console.print(Text.assemble((f"{mark:>6}", style), f"  {printable(f'{f.model}: {f.what}: {f.detail}')}"))
    return faults
