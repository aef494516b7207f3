"""Benchmarks from the Hugging Face hub: only the files that are needed, read from then on as if they had been downloaded by hand."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiron.errors import InputError
from chiron.evaluation.benchmarks.benchmark import Benchmark


@dataclass(frozen=True)
class Place:
    """A folder with a benchmark's files."""

    folder: Path
    revision: str | None = None
    """The hub's commit; ``None`` for files that a person put there."""


def place_of(benchmark: Benchmark, data: Path | None) -> Place:
    """Where the files lie: ``DATA/NAME`` if there is such a folder, ``DATA``, or, with no ``data``, the hub's cache.

    Raises:
        InputError: they are nowhere; says what to download and where to put it.
    """
    if data is None:
        return _from_hub(benchmark)
    if not data.is_dir():
        raise InputError(f"data folder {data} does not exist: {how_to_get(benchmark)}")
    own = data / benchmark.name
    return Place(own if own.is_dir() else data)


def how_to_get(benchmark: Benchmark) -> str:
    """What to download and where to put it, in one sentence."""
    if benchmark.hub is None:
        return benchmark.how
    files = benchmark.files[0].replace("|", ", ")
    zips = f" with its {' or '.join(benchmark.archives)}" if benchmark.archives else ""
    # A pattern that a person can act on: the first of the several that are looked for.
    return (
        f"download {files}{zips} of the data set {benchmark.hub} ('hf download {benchmark.hub} --repo-type dataset"
        f" --local-dir DIR/{benchmark.name}') and give --data DIR" + (f"; {benchmark.how}" if benchmark.how else "")
    )


def _from_hub(benchmark: Benchmark) -> Place:
    if benchmark.hub is None:
        raise InputError(f"{benchmark.name} is on no hub: {benchmark.how}")
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError(
            f"{benchmark.name} without --data is fetched from the hub, which needs the package datasets ({error}):"
            " pip install 'chiron-med[eval]'"
        ) from error
    hub: Any = huggingface_hub
    wanted = [*(part for pattern in benchmark.files for part in pattern.split("|")), *benchmark.archives, *benchmark.beside]
    try:
        folder = Path(hub.snapshot_download(benchmark.hub, repo_type="dataset", allow_patterns=wanted))
    except Exception as error:
        # The hub's client fails in its own ways, its HTTP library's and the system's; to the user all are one: it is not here.
        raise InputError(f"{benchmark.name} could not be fetched from the hub ({type(error).__name__}): {how_to_get(benchmark)}") from error
    return Place(folder, folder.resolve().name)
