"""``chiron init``: a configuration to begin from."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from chiron.errors import InputError


class Team(StrEnum):
    """The configurations there are."""

    PAPER = "paper"
    OLLAMA = "ollama"
    OFFLINE = "offline"
    CHIRON_O1 = "chiron-o1"


def command(
    team: Annotated[
        Team, typer.Argument(help="The paper's models, models behind Ollama, the embedded baselines; or the published models, to measure.")
    ] = Team.PAPER,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write it.")] = Path("chiron.yaml"),
) -> None:
    """Write a configuration file."""
    from chiron.mics.templates import template

    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(template(team.value))
    except FileExistsError:
        raise InputError(f"{out} is there already: name another file with --out") from None
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}") from error
    print(f"wrote {out}; check it with: chiron doctor {out}")
