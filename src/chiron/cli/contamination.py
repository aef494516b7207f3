"""``chiron eval contamination``: what of a benchmark was trained on."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from chiron.evaluation.contamination import Contamination, Overlap


def command(
    train: Annotated[Path, typer.Argument(metavar="TRAIN", help="JSONL of rows as 'chiron train' takes them.")],
    benchmark: Annotated[str, typer.Argument(metavar="BENCH", help="A benchmark's name; 'chiron eval --list' shows them.")],
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="The training data's images (default: images/ beside TRAIN).")] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The benchmark's files as downloaded; else they come from the hub.")
    ] = None,
    distance: Annotated[
        int, typer.Option(metavar="BITS", min=0, max=15, help="Of 64, in which hashes of images that count as near may differ.")
    ] = 6,
    json_output: Annotated[bool, typer.Option("--json", help="Every overlap as JSON on standard output.")] = False,
) -> None:
    """Look a benchmark's images and questions up in training data: by file, by perceptual hash, and word for word.

    What is found was very likely trained on; what is not found may have been all the same, in other words or another picture.
    """
    import tempfile

    from chiron.cases.images import ImageFolder
    from chiron.errors import InputError
    from chiron.evaluation.benchmarks.loading import load
    from chiron.evaluation.benchmarks.registry import benchmark_of
    from chiron.evaluation.contamination import TrainingRow, find_contamination
    from chiron.evaluation.item import BadItem, Item
    from chiron.training.rows import read_rows

    chosen = benchmark_of(benchmark)
    rows = [TrainingRow(row.id, row.images, tuple(turn.text for turn in row.turns if turn.role == "user")) for row in read_rows(train)]
    if not rows:
        raise InputError(f"{train} holds no row: name the JSONL that was trained on")
    folder = images if images is not None else train.parent / "images"
    if any(row.images for row in rows) and not folder.is_dir():
        raise InputError(f"image folder {folder} does not exist: name the training data's with --images DIR")
    # What the benchmark's folder cannot take (images inside its records) lies here for as long as it is looked at.
    with tempfile.TemporaryDirectory() as unpacked:
        loaded = load(chosen, data, Path(unpacked))
        items = [item for item in loaded.items if isinstance(item, Item)]
        bad = sum(isinstance(item, BadItem) for item in loaded.items)
        found = find_contamination(rows, ImageFolder(folder), items, loaded.check, distance=distance)
    if json_output:
        print(json.dumps(_record(found, bad), ensure_ascii=False))
    else:
        _show(found, benchmark, bad)


def _record(found: "Contamination", bad: int) -> dict[str, object]:
    from dataclasses import asdict

    return {**asdict(found), "bad_items": bad}


def _show(found: "Contamination", benchmark: str, bad: int) -> None:
    from rich.table import Table
    from rich.text import Text

    from chiron.cli.consoles import messages, results
    from chiron.evaluation.contamination import Likeness
    from chiron.terminal import printable

    console = results()
    if found.overlaps:
        table = Table(box=None, padding=(0, 2), pad_edge=False, header_style="dim")
        for title in ("item", "found as", "distance", "training rows", "what"):
            table.add_column(title, overflow="fold")
        for overlap in found.overlaps:
            table.add_row(
                *(Text(printable(t)) for t in (overlap.item, overlap.likeness, _distance(overlap), _rows(overlap), overlap.detail[:100]))
            )
        console.print(table)
    ways = ", ".join(f"{found.found(likeness)} by {likeness}" for likeness in Likeness)
    say = messages()
    say.print(
        printable(
            f"{benchmark}: {found.touched} of {found.items} items are found in {found.rows} training rows ({ways}); "
            f"of {len(found.both)} one row has image and question"
        ),
        markup=False,
    )
    if bad:
        say.print(f"{bad} records of the benchmark are no questions and were not looked up")
    for problem in found.unreadable[:5]:
        say.print(printable(f"not looked at: {problem}"), markup=False)
    if len(found.unreadable) > 5:
        say.print(f"... and {len(found.unreadable) - 5} more images that could not be looked at")


def _distance(overlap: "Overlap") -> str:
    from chiron.evaluation.contamination import Likeness

    match overlap.likeness:
        case Likeness.NEAR_IMAGE:
            return f"{overlap.distance:.0f} bits"
        case Likeness.NEAR_TEXT:
            return f"{overlap.distance:.2f}"
        case _:
            return "0"


def _rows(overlap: "Overlap") -> str:
    more = overlap.of_rows - len(overlap.rows)
    return ", ".join(overlap.rows) + (f" and {more} more" if more else "")
