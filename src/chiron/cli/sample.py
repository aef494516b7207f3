"""``chiron sample``: cases drawn by a procedure, in the format of real ones."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write cases.jsonl, images/ and textbook.jsonl.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many cases.")] = 24,
    seed: Annotated[int, typer.Option(help="Another seed, other cases.")] = 0,
    size: Annotated[int, typer.Option(min=32, help="Side of the images in pixels.")] = 256,
) -> None:
    """Draw sample cases: an organ, a lesion, a history, findings, a question and its answer."""
    from chiron.phantom.sample import write_sample

    sample = write_sample(directory, count=count, seed=seed, size=size)
    print(f"wrote {sample.count} cases to {sample.cases}, images under {sample.images}, rules in {sample.textbook}")
