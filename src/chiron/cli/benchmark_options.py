"""The benchmarks on disk that a dataset is compared with, as ``chiron build check`` and ``release`` take them."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chiron.cli.consoles import messages
from chiron.errors import InputError
from chiron.terminal import printable

if TYPE_CHECKING:
    from chiron.evaluation.benchmarks.loading import Loaded
    from chiron.mmrp.checks.overlap import Foreign

BenchmarkOption = Annotated[
    list[str] | None,
    typer.Option("--benchmark", metavar="NAME=DIR", help="A benchmark on disk that must not be in it; 'chiron eval --list' has the names."),
]
BenchmarksOption = Annotated[
    Path | None, typer.Option("--benchmarks", metavar="DIR", help="Every benchmark below it, each in a folder of its name.")
]


@contextmanager
def benchmark_items(named: list[str] | None, below: Path | None) -> Iterator[Iterator["Foreign"]]:
    """Every question of the benchmarks named and of those below a folder, one at a time; says what of them cannot be compared.

    Raises:
        InputError: there is no such benchmark, or its files are not there.
    """
    from chiron.evaluation.benchmarks.loading import load
    from chiron.evaluation.benchmarks.registry import benchmark_of

    places = _places(named or [], below)
    # What a benchmark's folder cannot take (images inside its records) lies here for as long as it is looked at.
    with tempfile.TemporaryDirectory(prefix="chiron-benchmarks-") as unpacked:
        # All are loaded before anything is looked at: a misspelt folder is told now and not after an hour.
        yield _items([load(benchmark_of(name), folder, Path(unpacked)) for name, folder in places])


def _places(named: list[str], below: Path | None) -> list[tuple[str, Path]]:
    from chiron.evaluation.benchmarks.registry import benchmark_of, benchmarks

    places = []
    for each in named:
        name, equals, folder = each.partition("=")
        if not equals or not folder:
            raise InputError(f"--benchmark {each}: write NAME=DIR, such as vqa_rad=data/vqa_rad; 'chiron eval --list' has the names")
        benchmark_of(name)
        if not Path(folder).is_dir():
            raise InputError(f"--benchmark {each}: {folder} is no folder: name the one that the benchmark's files lie in")
        places.append((name, Path(folder)))
    if below is not None:
        if not below.is_dir():
            raise InputError(f"--benchmarks {below}: no such folder: name the one that has a folder for each benchmark")
        folders = sorted(path for path in below.iterdir() if path.is_dir() and not path.name.startswith("."))
        known = [path for path in folders if path.name in benchmarks()]
        if not known:
            raise InputError(f"--benchmarks {below}: no folder in it is called as a benchmark: 'chiron eval --list' has the names")
        if other := [path.name for path in folders if path not in known]:
            messages().print(printable(f"note: no benchmark is called {', '.join(other)}: not compared with"), markup=False)
        places += [(path.name, path) for path in known]
    return places


def _items(benchmarks: list["Loaded"]) -> Iterator["Foreign"]:
    from chiron.cases.image_marks import IMAGE_MARK
    from chiron.cases.images import ImageProblem
    from chiron.evaluation.item import BadItem
    from chiron.mmrp.checks.overlap import Foreign

    for loaded in benchmarks:
        bad, unreadable = 0, set[str]()
        for item in loaded.items:
            if isinstance(item, BadItem):
                bad += 1
                continue
            images = []
            for name in item.images:
                try:
                    images.append(loaded.check(name).path)
                except ImageProblem:
                    unreadable.add(name)
            yield Foreign(loaded.name, item.id, item.question.replace(IMAGE_MARK, " "), tuple(images))
        if bad or unreadable:
            told = f"note: of {loaded.name} {bad} records and {len(unreadable)} images cannot be read, and were not compared with"
            messages().print(printable(told), markup=False)
