"""A run directory of a search: beside ledger and ``run.json`` the two files derived from the ledger, and the report."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from chiron.files import write_atomically
from chiron.models.directory import WorkDirectory
from chiron.models.ledger import Ledger

PATHS, REJECTED, REPORT = "paths.jsonl", "rejected.jsonl", "report.html"
PATH_FIELDS = (
    "case_id",
    "images",
    "question",
    "answer",
    "reasoning",
    "outcome",
    "mics_score",
    "policy",
    "evaluations",
    "missing",
    "depth",
    "restarts",
    "mentors",
    "scores",
    "baseline",
    "difficulty",
    "uplift",
    "calls",
    "cost_usd",
    "provenance",
)
"""Of a line of ``paths.jsonl``, in order."""
REJECTED_FIELDS = ("case_id", "line", "outcome", "reason", "detail", *PATH_FIELDS[1:5], "final_answer", *PATH_FIELDS[6:])
"""Of a line of ``rejected.jsonl``; what a case does not have is left out."""


@dataclass(frozen=True)
class RunDirectory(WorkDirectory):
    """A place for one run."""

    other_way: ClassVar[str] = ", or 'chiron replay' to use its replies again"

    def write_derived(self, ledger: Ledger) -> None:
        """Write ``paths.jsonl`` and ``rejected.jsonl`` from the ledger, each at once or not at all."""
        retained = (_line(r.record, PATH_FIELDS) for r in ledger.results(retained=True))
        write_atomically(self.path / PATHS, retained)
        rejected = (_line({k: v for k, v in r.record.items() if v is not None}, REJECTED_FIELDS) for r in ledger.results(retained=False))
        write_atomically(self.path / REJECTED, rejected)


def _line(record: dict[str, Any], fields: tuple[str, ...]) -> str:
    return json.dumps({f: record[f] for f in fields if f in record}, ensure_ascii=False) + "\n"
