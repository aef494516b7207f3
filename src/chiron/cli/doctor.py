"""`chiron init` and `chiron doctor`."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.text import Text

from chiron.cli.streams import results
from chiron.errors import InputError
from chiron.terminal import printable

if TYPE_CHECKING:
    from rich.console import Console

    from chiron.client.config import ProviderConfig
    from chiron.client.provider import Finding
    from chiron.providers.health_check import RoleCall


class Team(StrEnum):
    """The configurations there are."""

    PAPER = "paper"
    OLLAMA = "ollama"
    OFFLINE = "offline"
    CHIRON_O1 = "chiron-o1"


def init_command(
    team: Annotated[
        Team, typer.Argument(help="The paper's models, models behind Ollama, the embedded baselines; or the published models, to measure.")
    ] = Team.PAPER,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write it.")] = Path("chiron.yaml"),
) -> None:
    """Write a configuration file."""
    from chiron.mics.prompts import template

    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(template(team.value))
    except FileExistsError:
        raise InputError(f"{out} is there already: name another file with --out") from None
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}") from error
    print(f"wrote {out}; check it with: chiron doctor {out}")


def doctor_command(
    config: Annotated[Path, typer.Argument(metavar="FILE", help="A configuration file.")],
    ask: Annotated[
        bool, typer.Option("--ask/--no-ask", help="Send one tiny call for each role of a model, in the form of that role's calls.")
    ] = True,
) -> None:
    """Check a configuration: keys set, endpoints reached, models listed, an image accepted. Exit code 2 if something is missing.

    Looks at the models that the sections search and build name; at all of them where there is a section evaluation, or none at all, since
    'chiron eval --model' can name any.
    """
    from chiron.client.config_file import ConfigFile, read_config, validate

    data = read_config(config)
    uses: dict[str, list[RoleCall]] = {}
    for name, role in _uses(data, config):
        if role not in uses.setdefault(name, []):
            uses[name].append(role)
    models = validate(ConfigFile, data, origin=config).models
    if not models:
        raise InputError(f"{config} names no model: put some under models ('chiron init' writes a file that does)")
    if not uses or "evaluation" in data:
        uses = {**{name: [_measured()] for name in models}, **uses}
    console = results()
    console.print(f"{escape(printable(config))} can be read; its models:")
    faults = asyncio.run(_examine({name: models[name] for name in uses}, uses, console, ask=ask))
    for name in (name for name in models if name not in uses):
        console.print(Text(f"        {printable(name)}: not looked at, no section names it"))
    if faults:
        raise InputError(f"{config}: {faults} {'thing' if faults == 1 else 'things'} to mend, marked above")


_SEVERAL = 2
"""Images that a role is shown which is shown any: servers often take just one."""


def _measured() -> "RoleCall":
    """How 'chiron eval' and 'chiron ask' put a question to any model."""
    from chiron.providers.health_check import RoleCall

    return RoleCall("model", _SEVERAL, 64, system=False, temperature=0.0)


def _uses(data: Mapping[str, Any], origin: Path) -> "Iterator[tuple[str, RoleCall]]":
    """Every model that a section names, and what it is sent there; checks the sections and their prompts.

    Raises:
        InputError: a section cannot be used, or a prompt of it.
    """
    from chiron.providers.health_check import RoleCall

    if "search" in data:
        from chiron.mics.config import check_config
        from chiron.mics.prompts import load_prompts

        run = check_config(dict(data), origin=origin)
        load_prompts(run.search.prompts)
        limits = run.search.max_tokens
        sent = {
            "mentors": RoleCall("mentor", _SEVERAL, limits.mentor, system=True, temperature=run.search.mentor_temperature),
            "interns": RoleCall("intern", _SEVERAL, limits.intern, system=True, temperature=run.search.temperatures[0]),
            "judge": RoleCall("judge", 0, limits.judge, system=True, temperature=0.0),
        }
        yield from ((name, sent[role]) for role, name in run.named())
    if "build" in data:
        from chiron.mmrp.config import BuildPrompts, check_build

        file = check_build(dict(data), origin=origin)
        BuildPrompts.load(file.build.prompts)
        images = _SEVERAL if file.build.show_images else 0
        for role, name in file.named():
            limit, temperature = getattr(file.build.max_tokens, role), getattr(file.build, f"{role}_temperature")
            yield name, RoleCall(role, images, limit, system=True, temperature=temperature)
    if "evaluation" in data:
        from chiron.evaluation.config import EvaluationFile, EvaluationPrompts

        chosen = EvaluationFile.check(dict(data), origin=origin)
        EvaluationPrompts.load(chosen.evaluation.prompts)
        evaluated = chosen.evaluation.max_tokens
        sent = {
            "judge": RoleCall("judge", 0, evaluated.judge, system=True, temperature=0.0),
            "extractor": RoleCall("extractor", 0, evaluated.extractor, system=False, temperature=0.0),
            "interns": RoleCall("intern", _SEVERAL, evaluated.intern, system=True, temperature=chosen.evaluation.intern_temperatures[0]),
        }
        yield from ((name, sent[role]) for role, name in chosen.named())


async def _examine(
    models: "Mapping[str, ProviderConfig]", uses: "Mapping[str, Sequence[RoleCall]]", console: "Console", *, ask: bool
) -> int:
    """Show what is found of every model, all being looked at together; how many faults there are."""
    from chiron.providers.health_check import probe

    async def look(name: str) -> "list[Finding]":
        return [f async for f in probe(name, models[name], uses[name] if ask else ())]

    faults = 0
    for findings in [asyncio.create_task(look(name)) for name in models]:
        for f in await findings:
            faults += f.ok is False
            mark, style = ("ok", "green") if f.ok else ("?", "yellow") if f.ok is None else ("FAULT", "red")
            console.print(Text.assemble((f"{mark:>6}", style), f"  {printable(f'{f.model}: {f.what}: {f.detail}')}"))
    return faults
