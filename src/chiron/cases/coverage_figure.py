"""The map of modalities and body systems as a figure."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from chiron.cases.body_systems import BODY_SYSTEMS
from chiron.cases.coverage import Coverage
from chiron.cases.importing.extras import need
from chiron.cases.modalities import MODALITIES
from chiron.errors import DiskError, InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMATS = ("svg", "png", "pdf")


def draw_coverage(coverage: Coverage, path: Path, *, noun: str = "cases") -> None:
    """Write the map as a figure; shades are counts on a logarithmic scale, and every count is written in its cell.

    ``noun``: what is counted.

    Raises:
        InputError: the file's name says no format that can be drawn, or matplotlib is not installed.
        DiskError: the file cannot be written.
    """
    form = path.suffix.lower().removeprefix(".")
    if form not in _FORMATS:
        raise InputError(f"{path}: a figure is written as .svg, .png or .pdf: name one of them")
    need("matplotlib", "a figure")
    from matplotlib import rc_context

    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            # A fixed salt, because the ids within an SVG are drawn by chance otherwise.
            with os.fdopen(handle, "wb") as file, rc_context({"svg.hashsalt": "coverage", "font.size": 9}):
                figure = _figure(coverage, noun)
                # No day in the file: the same map is the same file.
                figure.savefig(
                    file, format=form, dpi=150, metadata={"png": None, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[form]
                )
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DiskError(f"{path} cannot be written: {error.strerror}") from error


def _figure(coverage: Coverage, noun: str) -> "Figure":
    import numpy as np
    from matplotlib.figure import Figure

    counts = np.array([[coverage.count(m.name, s.name) for s in BODY_SYSTEMS] for m in MODALITIES])
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    axes = figure.add_subplot()
    shades = np.ma.masked_equal(np.log1p(counts), 0)
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=max(1.0, float(np.log1p(counts.max())) * 1.15), aspect="auto")
    axes.set_xticks(range(len(BODY_SYSTEMS)), [s.name for s in BODY_SYSTEMS], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(MODALITIES)), [m.name for m in MODALITIES])
    axes.set_xticks([i - 0.5 for i in range(1, len(BODY_SYSTEMS))], minor=True)
    axes.set_yticks([i - 0.5 for i in range(1, len(MODALITIES))], minor=True)
    axes.grid(which="minor", color="#dddddd", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    dark = float(counts.max()) ** 0.6
    for (row, column), count in np.ndenumerate(counts):
        if count:
            axes.text(column, row, f"{count:,}", ha="center", va="center", color="white" if count > 1 and count > dark else "black")
    placed = coverage.cases - coverage.unplaced
    axes.set_title(f"{placed:,} of {coverage.cases:,} {noun} placed by modality and body system", loc="left")
    return figure
