"""Page shell shared by all reports, and the report of a search."""

import base64
import hashlib
import shlex
import sqlite3
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import IO, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from chiron.cases.images import ImageFolder
from chiron.client.ledger import Ledger
from chiron.errors import InputError
from chiron.io import unwritten, write_atomically
from chiron.jobs.directory import LEDGER
from chiron.reports import figures, wording
from chiron.reports.case_view import Kind, case_view
from chiron.reports.run_summary import Totals, read_run
from chiron.reports.thumbnails import thumbnails


def environment() -> Environment:
    """Return a template environment that escapes all values, in text and in quoted attributes."""
    env = Environment(
        loader=PackageLoader("chiron.reports", ""),
        autoescape=True,
        finalize=wording.legible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    for filtering in (wording.decimal, wording.signed, wording.count, wording.usd, wording.moment):
        env.filters[filtering.__name__] = filtering
    env.globals.update(plural=wording.plural, share=wording.share)
    return env


def trimmings() -> dict[str, Any]:
    """Return the package's style and script, unescaped, and a content security policy that allows only these two."""
    style, script = (resources.files("chiron.reports").joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    return {
        "style": Markup(style),  # noqa: S704 - a file of this package
        "script": Markup(script),  # noqa: S704 - a file of this package
        "policy": policy,
    }


def rendered(chunks: Iterator[str]) -> Iterator[Markup]:
    """Mark sections that :func:`environment` has already rendered as safe."""
    return (Markup(chunk) for chunk in chunks)  # noqa: S704 - escaped when they were rendered


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


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
    env, totals, shown = environment(), Totals(), Counter[Kind]()
    section = env.get_template("case.html")
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
        page = env.get_template("page.html").generate(
            run=info,
            name=run.resolve().name,
            written=time.strftime("%Y-%m-%d %H:%M %z"),
            totals=totals,
            kinds=list(Kind),
            shown=shown,
            every_case=f"chiron report {shlex.quote(str(run))} --cases all",
            spending=ledger.spending(),
            spent_usd=ledger.spent_usd(),
            possibly_spent_usd=ledger.possibly_spent_usd(),
            failures=ledger.failure_reasons(),
            histogram=figures.histogram(totals.scores, info.identity.threshold),
            uplift=figures.uplift(totals.pairs) if totals.pairs else None,
            sections=rendered(_chunks(sections)),
            **trimmings(),
        )
        write_atomically(target, page)
    return target


def _chunks(file: IO[str]) -> Iterator[str]:
    while chunk := file.read(_CHUNK):
        yield chunk


@contextmanager
def _failing_clearly(target: Path, ledger: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.DatabaseError, zlib.error) as error:
        raise InputError(f"{ledger} cannot be read ({error}): it is damaged, or its disk is") from error
    except OSError as error:
        raise unwritten(target, error) from error
