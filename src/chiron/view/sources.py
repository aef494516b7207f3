"""Everything that the view takes from the packages of the jobs, in one place."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from chiron.cases.body_systems import BODY_SYSTEMS, body_system_of_case
from chiron.cases.case import Case
from chiron.cases.formats import parse_case
from chiron.cases.images import ImageFolder, ImageProblem, check_bytes
from chiron.cases.modalities import MODALITIES, modalities_of_case
from chiron.cases.reader import Selection, Shard, need_cases
from chiron.client.batch_record import FOLDER as BATCHES
from chiron.client.batch_record import read_open_batches
from chiron.client.call import Call, ImagePart, Message, Reply, RoleModel
from chiron.client.failures import CallFailed, Missing
from chiron.client.images import is_wide, stretched, turned, upright
from chiron.client.ledger import FailureReason, Ledger, Spending, StoredResult
from chiron.client.ledger_accounts import CALL_SUMS, SHOWN_AFTER, spending_of
from chiron.client.ledger_store import damaged, explained, open_for_reading
from chiron.errors import ChironError, InputError
from chiron.evaluation.comparing import compare
from chiron.evaluation.figures import shown_scores
from chiron.evaluation.item_figure import item_figure
from chiron.evaluation.items import ITEMS, RESULTS, ItemResult, Verdict
from chiron.evaluation.read_runs import REAL, Evaluated, image_folders, read_evaluations
from chiron.evaluation.tables.content import grids
from chiron.evaluation.tables.formats import Grid
from chiron.jobs.directory import LEDGER, LOCK, RUN, WorkDirectory
from chiron.mics.prompts import Prompts
from chiron.mics.search import search
from chiron.mics.team import Policy, Team

fcntl: ModuleType | None
try:
    import fcntl
except ModuleNotFoundError:  # on Windows
    fcntl = None

__all__ = [
    "BATCHES",
    "BODY_SYSTEMS",
    "CALL_SUMS",
    "ITEMS",
    "LEDGER",
    "LOCK",
    "MODALITIES",
    "REAL",
    "RESULTS",
    "RUN",
    "SHOWN_AFTER",
    "Call",
    "CallFailed",
    "Case",
    "ChironError",
    "Evaluated",
    "FailureReason",
    "Grid",
    "ImageFolder",
    "ImagePart",
    "ImageProblem",
    "InputError",
    "ItemResult",
    "Ledger",
    "Message",
    "Missing",
    "Policy",
    "Prompts",
    "Reply",
    "RoleModel",
    "Selection",
    "Shard",
    "Spending",
    "StoredResult",
    "Team",
    "Verdict",
    "body_system_of_case",
    "check_bytes",
    "compare",
    "damaged",
    "grids",
    "image_folders",
    "in_use",
    "is_wide",
    "item_figure",
    "modalities_of_case",
    "need_cases",
    "parse_case",
    "read_evaluations",
    "read_object",
    "read_open_batches",
    "read_run",
    "reading",
    "search",
    "shown_scores",
    "spending_of",
    "stretched",
    "turned",
    "upright",
]


@contextmanager
def reading(ledger: Path) -> Iterator[sqlite3.Connection]:
    """Open a ledger for reading, also while another process writes it; errors of SQLite become errors that say what to do.

    Raises:
        InputError: the file is missing, damaged, or written by another version.
    """
    with explained(ledger), closing(open_for_reading(ledger)) as connection:
        yield connection


def in_use(directory: Path) -> bool:
    """Return whether a process works in a run directory now. A missing lock file is not created."""
    lock = directory / LOCK
    if fcntl is None:
        return lock.is_file() and WorkDirectory(directory).in_use
    try:
        with lock.open("rb") as file:
            # A shared lock for a moment; a command that wants the run waits longer than that.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False  # there is no lock, or it cannot be read


def read_run(directory: Path) -> dict[str, Any]:
    """Read ``run.json``; empty if it is missing.

    Raises:
        InputError: it is damaged.
    """
    return WorkDirectory(directory).read_run() or {}


def read_object(path: Path) -> dict[str, Any] | None:
    """Read a JSON file that holds one object; ``None`` if it is missing.

    Raises:
        InputError: it is damaged.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}): write it again with the command that made it") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object: write it again with the command that made it")
    return value
