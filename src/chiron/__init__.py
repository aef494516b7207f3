"""Mentor-Intern Collaborative Search and what surrounds it: cases, datasets, evaluation. ``docs/python.md`` describes what is offered."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chiron.cases.case import BadCase, Case
    from chiron.cases.images import ImageFolder
    from chiron.cases.importing.importer import ImportSummary, import_cases
    from chiron.cases.importing.records import ImportOptions
    from chiron.cases.reading import read_cases
    from chiron.conversation.reasoning import Reasoning, parse_reasoning
    from chiron.conversation.verdict import read_verdict
    from chiron.errors import ChironError, DiskError, InputError
    from chiron.evaluation.answers.public import read_choice, read_yes_no
    from chiron.evaluation.comparing import Comparison
    from chiron.evaluation.config import load_evaluation
    from chiron.evaluation.public import compare_runs, evaluate
    from chiron.evaluation.record import ItemResult, read_results
    from chiron.evaluation.running import EvaluationSummary
    from chiron.mics.config import load_config
    from chiron.mics.public import run_search, run_search_async
    from chiron.mics.result import SearchResult
    from chiron.mics.running import RunSummary
    from chiron.mics.search import search
    from chiron.mics.status import read_status
    from chiron.mics.team import Policy, Seat, Team
    from chiron.mmrp.alignment import build_alignment
    from chiron.mmrp.config import load_build
    from chiron.mmrp.cot import build_cot
    from chiron.mmrp.part import BuildSummary
    from chiron.mmrp.questions import build_questions
    from chiron.mmrp.release import Released, Wishes, release
    from chiron.mmrp.text import build_text
    from chiron.models.call import Call, Message, Picture, Reply, Text
    from chiron.models.failures import CallFailed, Halted
    from chiron.report.page import write_report

    __version__: str

_HOMES = {
    "BadCase": "chiron.cases.case",
    "BuildSummary": "chiron.mmrp.part",
    "Call": "chiron.models.call",
    "CallFailed": "chiron.models.failures",
    "Case": "chiron.cases.case",
    "ChironError": "chiron.errors",
    "Comparison": "chiron.evaluation.comparing",
    "DiskError": "chiron.errors",
    "EvaluationSummary": "chiron.evaluation.running",
    "Halted": "chiron.models.failures",
    "ImageFolder": "chiron.cases.images",
    "ImportOptions": "chiron.cases.importing.records",
    "ImportSummary": "chiron.cases.importing.importer",
    "InputError": "chiron.errors",
    "ItemResult": "chiron.evaluation.record",
    "Message": "chiron.models.call",
    "Picture": "chiron.models.call",
    "Policy": "chiron.mics.team",
    "Reasoning": "chiron.conversation.reasoning",
    "Released": "chiron.mmrp.release",
    "Reply": "chiron.models.call",
    "RunSummary": "chiron.mics.running",
    "SearchResult": "chiron.mics.result",
    "Seat": "chiron.mics.team",
    "Team": "chiron.mics.team",
    "Text": "chiron.models.call",
    "Wishes": "chiron.mmrp.release",
    "build_alignment": "chiron.mmrp.alignment",
    "build_cot": "chiron.mmrp.cot",
    "build_questions": "chiron.mmrp.questions",
    "build_text": "chiron.mmrp.text",
    "compare_runs": "chiron.evaluation.public",
    "evaluate": "chiron.evaluation.public",
    "import_cases": "chiron.cases.importing.importer",
    "load_build": "chiron.mmrp.config",
    "load_config": "chiron.mics.config",
    "load_evaluation": "chiron.evaluation.config",
    "parse_reasoning": "chiron.conversation.reasoning",
    "read_cases": "chiron.cases.reading",
    "read_choice": "chiron.evaluation.answers.public",
    "read_results": "chiron.evaluation.record",
    "read_status": "chiron.mics.status",
    "read_verdict": "chiron.conversation.verdict",
    "read_yes_no": "chiron.evaluation.answers.public",
    "release": "chiron.mmrp.release",
    "run_search": "chiron.mics.public",
    "run_search_async": "chiron.mics.public",
    "search": "chiron.mics.search",
    "write_report": "chiron.report.page",
}

__all__ = [
    "BadCase",
    "BuildSummary",
    "Call",
    "CallFailed",
    "Case",
    "ChironError",
    "Comparison",
    "DiskError",
    "EvaluationSummary",
    "Halted",
    "ImageFolder",
    "ImportOptions",
    "ImportSummary",
    "InputError",
    "ItemResult",
    "Message",
    "Picture",
    "Policy",
    "Reasoning",
    "Released",
    "Reply",
    "RunSummary",
    "SearchResult",
    "Seat",
    "Team",
    "Text",
    "Wishes",
    "__version__",
    "build_alignment",
    "build_cot",
    "build_questions",
    "build_text",
    "compare_runs",
    "evaluate",
    "import_cases",
    "load_build",
    "load_config",
    "load_evaluation",
    "parse_reasoning",
    "read_cases",
    "read_choice",
    "read_results",
    "read_status",
    "read_verdict",
    "read_yes_no",
    "release",
    "run_search",
    "run_search_async",
    "search",
    "write_report",
]


def __getattr__(name: str) -> object:
    """Import a name when it is first used: whoever asks for the version, or for help, waits for nothing else."""
    if name == "__version__":
        from importlib.metadata import version

        return version("chiron-med")
    if name not in _HOMES:
        raise AttributeError(f"module 'chiron' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
