"""Report of a search: one HTML page with totals, figures, and a section for each case."""

import shlex
import sqlite3
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chiron.cases.images import ImageFolder
from chiron.client.ledger import Ledger
from chiron.errors import InputError
from chiron.io import unwritten, write_atomically
from chiron.jobs.directory import LEDGER
from chiron.reports import figures
from chiron.reports.case_view import Kind, case_view
from chiron.reports.run_summary import Totals, read_run
from chiron.reports.shell import already_rendered, environment, render_page
from chiron.reports.thumbnails import thumbnails

REPORT = "report.html"
_CHUNK = 1 << 16


def write_report(run: Path | str, *, out: Path | None = None, cases: int | None = 200) -> Path:
    """Write the report of a run; also works while another process continues the run.

    Args:
        run: run directory.
        out: output file; ``report.html`` in the run directory by default.
        cases: number of cases with a section of their own, in file order; ``None`` for all. Totals include every case.

    Returns:
        The path of the page. Only its owner may read it, because it contains patients' data.

    Raises:
        InputError: ``run`` is not a run directory, or is damaged.
        DiskError: the page cannot be written; the existing file is unchanged.
    """
    run = Path(run)
    target = out if out is not None else run / REPORT
    info = read_run(run)
    folder = ImageFolder(Path(info.images)) if info.images else None
    totals, shown = Totals(), Counter[Kind]()
    section = environment("chiron.reports").get_template("case.html")
    # Totals come before the sections but are known after them. Sections are buffered on disk, so memory holds one case at a time.
    with (
        Ledger.read(run / LEDGER) as ledger,
        _failing_clearly(target, ledger.path),
        tempfile.TemporaryFile("w+", dir=target.parent, encoding="utf-8", newline="") as sections,
    ):
        for result in ledger.results():
            kind = totals.add(result)
            if cases is None or totals.cases <= cases:
                shown[kind] += 1
                images = thumbnails(folder, list(result.record.get("images") or ()))
                view = case_view(result, totals.cases, images)
                sections.writelines(section.generate(case=view))
        sections.seek(0)
        page = render_page(
            "chiron.reports",
            "report.html",
            styles=["report.css"],
            script="report.js",
            run=info,
            name=run.resolve().name,
            written=time.strftime("%Y-%m-%d %H:%M %z"),
            totals=totals,
            kinds=list(Kind),
            shown=shown,
            every_case=f"chiron report {shlex.quote(str(run))} --cases all",
            spending=ledger.spending(),
            cached=ledger.cached_prompts(info.config.get("models")),
            spent_usd=ledger.spent_usd(),
            possibly_spent_usd=ledger.possibly_spent_usd(),
            failures=ledger.failure_reasons(),
            histogram=figures.histogram(totals.scores, info.identity.threshold),
            uplift=figures.uplift(totals.pairs) if totals.pairs else None,
            sections=already_rendered(iter(lambda: sections.read(_CHUNK), "")),
        )
        write_atomically(target, page)
    return target


@contextmanager
def _failing_clearly(target: Path, ledger: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.DatabaseError, zlib.error) as error:
        raise InputError(f"{ledger} cannot be read ({error}): the file or its disk is damaged; restore it from a copy") from error
    except OSError as error:
        raise unwritten(target, error) from error
