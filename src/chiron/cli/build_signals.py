"""`chiron build tree`, and the training signals made from it: preferences, rewards, rl, reflections."""

from pathlib import Path
from typing import Annotated

import typer

from chiron.terminal import printable

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory of 'chiron search'.")]


def tree_command(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="File to write (default: RUN/tree.jsonl).")] = None,
) -> None:
    """Write the whole search tree of a run as JSONL: every candidate, step, evaluation, score and ledger key. Calls no model."""
    from chiron.mics.tree import write_tree

    print(printable(str(write_tree(run, out))))
