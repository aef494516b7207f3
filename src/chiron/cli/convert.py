"""``chiron convert``: a checkpoint from the authors' layout to transformers', or back."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from chiron.errors import InputError


class Target(StrEnum):
    """The layouts there are."""

    HF = "hf"
    INTERNVL_CHAT = "internvl_chat"


def command(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A folder with an InternVL checkpoint in either layout.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    target: Annotated[Target | None, typer.Option("--to", help="The layout to write; else the one that SOURCE is not in.")] = None,
    system: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="To hf: said before conversations without a system turn: internvl2_5 (the authors') or a text."),
    ] = None,
) -> None:
    """Convert a checkpoint: the authors' internvl_chat (InternVL3, Chiron-o1) to transformers' InternVL, and back."""
    from chiron.training.convert import detect, to_hf, to_internvl_chat

    if target is not None and target == detect(source):
        raise InputError(f"{source} is in the layout {target} already: nothing to convert")
    if system is not None and detect(source) != "internvl_chat":
        raise InputError("--system is for the layout hf: the authors' code has a system message of its own")
    report = to_hf(source, out, system=system) if detect(source) == "internvl_chat" else to_internvl_chat(source, out)
    left = f"; left out: {', '.join(report.left_out)}" if report.left_out else ""
    notes = "".join(f"; {note}" for note in report.notes)
    print(
        f"wrote {out} in the layout {report.layout}: {report.tensors} tensors, {report.parameters / 1e6:,.1f} M parameters,"
        f" {report.size / 1e9:.2f} GB in {len(report.shards)} file{'s' if len(report.shards) != 1 else ''}{left}{notes}"
    )
