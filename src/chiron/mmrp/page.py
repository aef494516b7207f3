"""The page of the checks: counts, limits, and examples beside their images. One HTML file that needs nothing else."""

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from chiron.files import write_atomically
from chiron.mmrp.checking import CheckReport, counts_by_part
from chiron.mmrp.checks.registry import CHECKS
from chiron.mmrp.survey import Survey
from chiron.report import wording
from chiron.report.pictures import thumbnails

PAGE, SUMMARY, FINDINGS = "check.html", "check.json", "findings.jsonl"
_LONGEST = 4000
"""Letters of a text that the page shows."""


def write_results(folder: Path, survey: Survey, report: CheckReport) -> Path:
    """Write ``check.html``, ``check.json`` (counts and examples) and ``findings.jsonl`` (every finding); the page's path.

    Raises:
        DiskError: they cannot be written.
    """
    write_atomically(folder / SUMMARY, [json.dumps(report.to_record(), indent=2, ensure_ascii=False) + "\n"])
    write_atomically(folder / FINDINGS, report.findings())
    style = resources.files("chiron.mmrp").joinpath("check.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    env = Environment(
        loader=PackageLoader("chiron.mmrp", ""),
        autoescape=True,
        finalize=wording.legible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(count=wording.count)
    page = env.get_template("check.html").generate(
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        style=Markup(style),  # noqa: S704 - a file of this package
        written=time.strftime("%Y-%m-%d %H:%M %z"),
        directories=[str(source.directory) for source in survey.sources],
        report=report,
        parts=counts_by_part(survey),
        images=len(survey.prints),
        checks=list(CHECKS.values()),
        examples=lambda name: _examples(name, survey, report),
    )
    write_atomically(folder / PAGE, page)
    return folder / PAGE


def _examples(name: str, survey: Survey, report: CheckReport) -> Iterator[dict[str, Any]]:
    examples = report.tallies[name].examples
    positions = [position for position, _ in examples]
    for (position, finding), (_, record) in zip(examples, survey.records(positions), strict=True):
        folder = survey.sources[survey.entries[position].source].folder
        yield {
            "finding": finding,
            "images": thumbnails(folder, record["images"]),
            "texts": [(title, _cut(text)) for title, text in _texts(record) if text],
        }


def _texts(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Question", record["question"]
    yield "Options", "\n".join(record["options"])
    yield "Answer", record["answer"]
    yield "Reasoning", record["reasoning"] or record["messages"][-1]["content"]
    yield "Findings", "\n".join(record["findings"])


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text) - _LONGEST:,} letters more)"
