"""Mentor-Intern Collaborative Search and what surrounds it: cases, datasets, evaluation. ``docs/python.md`` describes what is offered."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chiron.cases.case import BadCase, Case
    from chiron.cases.images import ImageFolder
    from chiron.cases.reader import read_cases
    from chiron.client.call import Call, ImagePart, Message, Reply, RoleModel, TextPart
    from chiron.client.failures import CallFailed, RunStopped
    from chiron.conversation.reasoning import Reasoning, parse_reasoning
    from chiron.conversation.verdict import read_verdict
    from chiron.errors import ChironError, DiskError, InputError
    from chiron.evaluation.answers.api import read_choice, read_yes_no
    from chiron.evaluation.api import compare_runs, evaluate
    from chiron.evaluation.comparing import Comparison
    from chiron.evaluation.config import load_evaluation
    from chiron.evaluation.evaluation import EvaluationSummary
    from chiron.evaluation.items import ItemResult, read_results
    from chiron.importing.drafts import ImportOptions
    from chiron.importing.importer import ImportSummary, import_cases
    from chiron.mics.api import run_search, run_search_async
    from chiron.mics.config import load_config
    from chiron.mics.result import SearchResult
    from chiron.mics.run import RunSummary
    from chiron.mics.run_directory import read_status
    from chiron.mics.search import search
    from chiron.mics.team import Policy, Team
    from chiron.mmrp.alignment import build_alignment
    from chiron.mmrp.config import load_build
    from chiron.mmrp.cot import build_cot
    from chiron.mmrp.part import BuildSummary
    from chiron.mmrp.questions import build_questions
    from chiron.mmrp.release import ReleaseOptions, ReleaseSummary, release
    from chiron.mmrp.text import build_text
    from chiron.reports.page import write_report

    __version__: str

_HOMES = {
    "BadCase": "chiron.cases.case",
    "BuildSummary": "chiron.mmrp.part",
    "Call": "chiron.client.call",
    "CallFailed": "chiron.client.failures",
    "Case": "chiron.cases.case",
    "ChironError": "chiron.errors",
    "Comparison": "chiron.evaluation.comparing",
    "DiskError": "chiron.errors",
    "EvaluationSummary": "chiron.evaluation.evaluation",
    "RunStopped": "chiron.client.failures",
    "ImageFolder": "chiron.cases.images",
    "ImportOptions": "chiron.importing.drafts",
    "ImportSummary": "chiron.importing.importer",
    "InputError": "chiron.errors",
    "ItemResult": "chiron.evaluation.items",
    "Message": "chiron.client.call",
    "ImagePart": "chiron.client.call",
    "Policy": "chiron.mics.team",
    "Reasoning": "chiron.conversation.reasoning",
    "ReleaseSummary": "chiron.mmrp.release",
    "Reply": "chiron.client.call",
    "RunSummary": "chiron.mics.run",
    "SearchResult": "chiron.mics.result",
    "RoleModel": "chiron.client.call",
    "Team": "chiron.mics.team",
    "TextPart": "chiron.client.call",
    "ReleaseOptions": "chiron.mmrp.release",
    "build_alignment": "chiron.mmrp.alignment",
    "build_cot": "chiron.mmrp.cot",
    "build_questions": "chiron.mmrp.questions",
    "build_text": "chiron.mmrp.text",
    "compare_runs": "chiron.evaluation.api",
    "evaluate": "chiron.evaluation.api",
    "import_cases": "chiron.importing.importer",
    "load_build": "chiron.mmrp.config",
    "load_config": "chiron.mics.config",
    "load_evaluation": "chiron.evaluation.config",
    "parse_reasoning": "chiron.conversation.reasoning",
    "read_cases": "chiron.cases.reader",
    "read_choice": "chiron.evaluation.answers.api",
    "read_results": "chiron.evaluation.items",
    "read_status": "chiron.mics.run_directory",
    "read_verdict": "chiron.conversation.verdict",
    "read_yes_no": "chiron.evaluation.answers.api",
    "release": "chiron.mmrp.release",
    "run_search": "chiron.mics.api",
    "run_search_async": "chiron.mics.api",
    "search": "chiron.mics.search",
    "write_report": "chiron.reports.page",
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
    "ImageFolder",
    "ImagePart",
    "ImportOptions",
    "ImportSummary",
    "InputError",
    "ItemResult",
    "Message",
    "Policy",
    "Reasoning",
    "ReleaseOptions",
    "ReleaseSummary",
    "Reply",
    "RoleModel",
    "RunStopped",
    "RunSummary",
    "SearchResult",
    "Team",
    "TextPart",
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
