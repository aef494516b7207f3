"""Mentor-Intern Collaborative Search and what surrounds it. What is offered here is described in ``docs/python.md``."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chiron.cases.case import BadCase, Case
    from chiron.cases.images import ImageFolder
    from chiron.cases.reading import read_cases
    from chiron.errors import ChironError, DiskError, InputError
    from chiron.mics.config import load_config
    from chiron.mics.public import run_search, run_search_async
    from chiron.mics.result import SearchResult
    from chiron.mics.running import RunSummary
    from chiron.mics.search import search
    from chiron.mics.status import read_status
    from chiron.mics.team import Policy, Seat, Team
    from chiron.models.call import Call, Message, Picture, Reply, Text
    from chiron.models.failures import CallFailed, Halted
    from chiron.report.page import write_report

__version__ = version("chiron-med")

_HOMES = {
    "BadCase": "chiron.cases.case",
    "Call": "chiron.models.call",
    "CallFailed": "chiron.models.failures",
    "Case": "chiron.cases.case",
    "ChironError": "chiron.errors",
    "DiskError": "chiron.errors",
    "Halted": "chiron.models.failures",
    "ImageFolder": "chiron.cases.images",
    "InputError": "chiron.errors",
    "Message": "chiron.models.call",
    "Picture": "chiron.models.call",
    "Policy": "chiron.mics.team",
    "Reply": "chiron.models.call",
    "RunSummary": "chiron.mics.running",
    "SearchResult": "chiron.mics.result",
    "Seat": "chiron.mics.team",
    "Team": "chiron.mics.team",
    "Text": "chiron.models.call",
    "load_config": "chiron.mics.config",
    "read_cases": "chiron.cases.reading",
    "read_status": "chiron.mics.status",
    "run_search": "chiron.mics.public",
    "run_search_async": "chiron.mics.public",
    "search": "chiron.mics.search",
    "write_report": "chiron.report.page",
}

__all__ = [
    "BadCase",
    "Call",
    "CallFailed",
    "Case",
    "ChironError",
    "DiskError",
    "Halted",
    "ImageFolder",
    "InputError",
    "Message",
    "Picture",
    "Policy",
    "Reply",
    "RunSummary",
    "SearchResult",
    "Seat",
    "Team",
    "Text",
    "__version__",
    "load_config",
    "read_cases",
    "read_status",
    "run_search",
    "run_search_async",
    "search",
    "write_report",
]


def __getattr__(name: str) -> object:
    """Import a name when it is first used: whoever asks for the version, or for help, waits for nothing else."""
    if name not in _HOMES:
        raise AttributeError(f"module 'chiron' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
