"""Bugs of ours that single units meet: on record for whoever mends them, the unit pending, the others going on.

A bug that meets unit after unit stops the work, before it asks for what it cannot use.
"""

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
from chiron.io import unwritten

Result = TypeVar("Result")

LOG = "errors.log"
"""In a work directory: where in the code each bug was met. Holds no message of an exception, since that may quote a case or a key."""
_PACKAGE = Path(__file__).parents[1]
AT_FIRST = 10
"""Units in a row that meet a bug, none having ended without, before the work stops."""
LATER = 100
"""The same once one has ended without: odd units that stand together are no reason to give the others up."""


class UnitCrashed(ChironError):
    """A unit met a bug of ours. The message has its kind and its place in the code, and nothing else of it."""


class CrashLog:
    """Of one process's work in one directory."""

    def __init__(self, directory: Path, desk: ModelClient) -> None:
        """``directory``: gets the log; ``desk``: is told to stop, and what to say in the end."""
        self._log = directory / LOG
        self._desk = desk
        self._met = self._in_a_row = 0
        self._survived = False
        self._written: set[str] = set()

    async def watch(self, work: Awaitable[Result], rank: int) -> Result:
        """What ``work`` on one unit gives; ``rank``: the unit's, from 0.

        Raises:
            BugMet: it met a bug, and the log tells of it.
            ChironError: whatever ``work`` raises of these.
            DiskError: the log takes nothing more.
        """
        try:
            result = await work
        except ChironError:
            raise
        except Exception as bug:
            raise self._met_by(rank, bug) from bug
        self.survived()
        return result

    def survived(self) -> None:
        """A unit ended, in this process or an earlier one, and met no bug."""
        self._survived, self._in_a_row = True, 0

    def _met_by(self, rank: int, bug: Exception) -> UnitCrashed:
        self._write(bug, rank)
        self._met, self._in_a_row = self._met + 1, self._in_a_row + 1
        where = _where(bug)
        self._desk.note(
            "\0bugs",
            f"{self._met} pending for a bug of chiron's, the last {where}: {self._log} says where in the code, and holds no text of a case"
            " and no key. Report it; once it is mended, running again goes on with them and pays for no reply twice",
        )
        if self._in_a_row >= (LATER if self._survived else AT_FIRST):
            self._desk.halt(TooManyCrashes(f"{self._in_a_row} in a row met a bug of chiron's, the last {where}; {self._log} says more"))
        return UnitCrashed(f"a bug of chiron's: {where}")

    def _write(self, error: Exception, rank: int) -> None:
        """Each bug once a process: a log must not grow by the number of units."""
        trace = _without_messages(error)
        if trace in self._written:
            return
        self._written.add(trace)
        head = f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} chiron {version('chiron-med')}, first met by unit {rank + 1}\n"
        try:
            handle = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{head}{trace}\n")
        except OSError as why:
            raise unwritten(self._log, why) from why


def _where(error: BaseException) -> str:
    """The kind of the error, and the last place of ours on its way."""
    ours = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(_PACKAGE)]
    place = f" in {Path(ours[-1].filename).relative_to(_PACKAGE)}, line {ours[-1].lineno}" if ours else ""
    return f"{type(error).__name__}{place}"


def _without_messages(error: BaseException) -> str:
    """The traceback of an error and of those that led to it, the first one first; each by its kind alone."""
    chain: list[BaseException] = []
    last: BaseException | None = error
    while last is not None and last not in chain:
        chain.append(last)
        last = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
    return "then:\n".join("".join(traceback.format_tb(e.__traceback__)) + f"{type(e).__qualname__}\n" for e in reversed(chain))
