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
) -> None:
    """Convert a checkpoint: the authors' internvl_chat (InternVL3, Chiron-o1) to transformers' InternVL, and back."""
    from chiron.training.convert import detect, to_hf, to_internvl_chat

    if target is not None and target == detect(source):
        raise InputError(f"{source} is in the layout {target} already: nothing to convert")
    report = to_hf(source, out) if detect(source) == "internvl_chat" else to_internvl_chat(source, out)
    left = f"; left out: {', '.join(report.left_out)}" if report.left_out else ""
    notes = "".join(f"; {note}" for note in report.notes)
    print(
        f"wrote {out} in the layout {report.layout}: {report.tensors} tensors, {report.parameters / 1e6:,.1f} M parameters,"
        f" {report.size / 1e9:.2f} GB in {len(report.shards)} file{'s' if len(report.shards) != 1 else ''}{left}{notes}"
    )
