"""``chiron build release``: the dataset as one folder that can be loaded, trained on and given away."""

import json
from pathlib import Path
from typing import Annotated

import typer

from chiron.cli.benchmark_options import BenchmarkOption, BenchmarksOption, benchmark_items
from chiron.cli.build_check import DistanceOption, ImagesOption, LimitOption, PartsArgument, image_folders
from chiron.cli.consoles import messages
from chiron.terminal import printable


def command(
    parts: PartsArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to make.")],
    images: ImagesOption = None,
    ratios: Annotated[str, typer.Option("--ratios", metavar="A,B,C", help="Shares of train, validation and test.")] = "0.9,0.05,0.05",
    balance: Annotated[
        int | None, typer.Option("--balance", min=1, metavar="N", help="At most N training rows of a part in a cell of the map.")
    ] = None,
    limit: LimitOption = None,
    licence: Annotated[str | None, typer.Option("--licence", help="Of the whole, for the card (default: what the sources say).")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the splits.")] = 0,
    distance: DistanceOption = 6,
    benchmark: BenchmarkOption = None,
    benchmarks: BenchmarksOption = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an earlier release of that name.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts for programs.")] = False,
) -> None:
    """Check, divide, order and write: Parquet with images, a card, and rows for four trainers and 'chiron train'."""
    from chiron.mmrp.checking import limits_of
    from chiron.mmrp.release import Wishes, release
    from chiron.mmrp.splits import SPLITS, read_ratios

    wishes = Wishes(
        ratios=read_ratios(ratios),
        seed=seed,
        balance=balance,
        limits=limits_of(limit or ()),
        licence=licence,
        distance=distance,
        replace=replace,
    )
    console = messages()
    with benchmark_items(benchmark, benchmarks) as foreign:
        made = release(
            parts,
            out,
            images=image_folders(parts, images or ()),
            wishes=wishes,
            foreign=foreign,
            watch=lambda begun: console.print(begun) if begun != "done" else None,
        )
    rows = {f"{part}/{split}": number for (part, split), number in made.rows.items()}
    if as_json:
        print(json.dumps({"out": str(made.path), "rows": rows, "images": made.images, "left_out": dict(made.left_out)}))
    else:
        for name, number in rows.items():
            print(f"{name:22} {number:>9,} rows")
        for reason, number in made.left_out.items():
            print(printable(f"{'left out':22} {number:>9,} rows: {reason}"))
    empty = [split for split, share in zip(SPLITS, wishes.ratios, strict=True) if share and not any(s == split for _, s in made.rows)]
    if empty:
        console.print(f"note: {' and '.join(empty)} got no rows: {made.groups} groups are few, try other --ratios or another --seed")
    total = sum(made.rows.values())
    if made.largest_group > 0.2 * total:
        console.print(f"note: one group has {made.largest_group:,} of {total:,} rows, so shares may be missed: --distance may tie too much")
    console.print(f"{total:,} rows, {made.images:,} images in {printable(made.path)}", markup=False)
