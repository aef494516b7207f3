"""Handle crashes of single units caused by bugs in chiron: log the crash, keep the unit pending, and continue with the others.

A bug that crashes unit after unit stops the work before it pays for replies it cannot use.
"""

import logging
import os
import time
import traceback
from collections.abc import Awaitable
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from chiron.client.client import ModelClient
from chiron.client.failures import TooManyCrashes
from chiron.errors import ChironError
from chiron.io import writing

_log = logging.getLogger(__name__)
Result = TypeVar("Result")

LOG = "errors.log"
"""Log file in a work directory with the code location of each crash. It contains no exception messages, since these may quote a case or a
key.
"""
_PACKAGE = Path(__file__).parents[1]
AT_FIRST = 10
"""Consecutive crashes after which the work stops, if no unit has succeeded."""
LATER = 100
"""The same after one unit has succeeded. A group of odd units is not a reason to give up the others."""


class UnitCrashed(ChironError):
    """A unit crashed because of a bug in chiron. The message contains only the error's type and code location."""


class CrashLog:
    """Crashes of one process in one directory."""

    def __init__(self, directory: Path, client: ModelClient) -> None:
        """``directory``: where the log is written. ``client``: halted after too many crashes, and gets a note for the summary."""
        self._file = directory / LOG
        self._client = client
        self._crashed = self._in_a_row = 0
        self._survived = False
        self._written: set[str] = set()

    async def watch(self, work: Awaitable[Result], rank: int) -> Result:
        """Return the result of ``work`` on one unit. ``rank``: index of the unit, from 0.

        Raises:
            UnitCrashed: the unit crashed, and the crash is in the log.
            ChironError: any such error raised by ``work``.
            DiskError: the log cannot be written.
        """
        try:
            result = await work
        except ChironError:
            raise
        except Exception as bug:
            raise self._record(rank, bug) from bug
        self.survived()
        return result

    def survived(self) -> None:
        """Record a unit that ended without a crash, in this process or an earlier one."""
        self._survived, self._in_a_row = True, 0

    def _record(self, rank: int, bug: Exception) -> UnitCrashed:
        self._write(bug, rank)
        self._crashed, self._in_a_row = self._crashed + 1, self._in_a_row + 1
        where = _where(bug)
        self._client.note(
            "\0bugs",
            f"{self._crashed} pending because of a bug in chiron (last: {where}). {self._file} has the code location, but no case text and"
            " no key: please report it. After a fix, run the same command again to resume; no reply is paid for twice",
        )
        if self._in_a_row >= (LATER if self._survived else AT_FIRST):
            self._client.halt(
                TooManyCrashes(f"{self._in_a_row} in a row crashed because of a bug in chiron (last: {where}): see {self._file}")
            )
        return UnitCrashed(f"a bug in chiron: {where}")

    def _write(self, error: Exception, rank: int) -> None:
        """Log each bug once per process, so that the log does not grow with the number of units."""
        trace = _without_messages(error)
        if trace in self._written:
            return
        self._written.add(trace)
        _log.warning("unit %d crashed because of a bug in chiron: %s", rank + 1, _where(error))
        head = f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} chiron {version('chiron-med')}, first in unit {rank + 1}\n"
        with writing(self._file):
            handle = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{head}{trace}\n")


def _where(error: BaseException) -> str:
    """Return the error's type and the last location in chiron's code."""
    ours = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(_PACKAGE)]
    place = f" in {Path(ours[-1].filename).relative_to(_PACKAGE)}, line {ours[-1].lineno}" if ours else ""
    return f"{type(error).__name__}{place}"


def _without_messages(error: BaseException) -> str:
    """Return the traceback of an error and its causes, first cause first. Each error is shown by type only."""
    chain: list[BaseException] = []
    last: BaseException | None = error
    while last is not None and last not in chain:
        chain.append(last)
        last = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
    return "then:\n".join("".join(traceback.format_tb(e.__traceback__)) + f"{type(e).__qualname__}\n" for e in reversed(chain))
