"""Standard output and standard error: results, messages, log records, and what happens if one of them breaks."""

import logging
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TextIO, cast

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from chiron.errors import ChironError, DiskError
from chiron.terminal import full_width, printable


class BrokenPipe(ChironError):
    """The reader of standard output closed it. Not an ``OSError``, because typer and rich exit with their own codes for those."""


class _Stream(ABC):
    """Text stream that calls :meth:`_failed` if it cannot be written; otherwise the stream itself."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._failed(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._failed(error)

    @abstractmethod
    def _failed(self, error: OSError) -> None:
        """Raise or ignore the error."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Results(_Stream):
    def _failed(self, error: OSError) -> None:
        # The rest of the buffer would fail again when the interpreter exits, with its own message and exit code.
        _silence(self._stream)
        if isinstance(error, BrokenPipeError):
            raise BrokenPipe("standard output is closed") from error
        raise DiskError(f"standard output cannot be written ({error.strerror}): redirect it to a place that can be written") from error


class _Messages(_Stream):
    def _failed(self, error: OSError) -> None:
        """Ignore the error, because there is no other place for messages. A full disk may have room later; a closed pipe stays closed."""
        if isinstance(error, BrokenPipeError):
            _silence(self._stream)


@contextmanager
def safe_streams() -> Iterator[None]:
    """Replace ``sys.stdout`` and ``sys.stderr`` by these streams while the block runs."""
    out, messages = sys.stdout or _null(), sys.stderr or _null()
    for stream in (out, messages):
        # A character that the terminal's encoding lacks is escaped instead of raising an error.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined, union-attr, unused-ignore]
    sys.stdout, sys.stderr = cast("TextIO", _Results(out)), cast("TextIO", _Messages(messages))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, messages
        for stream in (out, messages):
            try:
                stream.flush()
            except OSError:
                # Already reported, or it cannot be reported. The interpreter would try again and exit with its own code.
                _silence(stream)


def _null() -> TextIO:
    """Open a stream for one that was closed from the start. It gets its file number, so that no other file receives its output."""
    return Path(os.devnull).open("w", encoding="utf-8")


def _silence(stream: TextIO) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


_WIDE = 150
"""Width if the stream is not a terminal, so that tables in log files are not cut."""


class _LogHandler(logging.Handler):
    """Print log records on standard error, except those that a command's summary repeats."""

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "in_summary", False):
            label = f"[yellow]{record.levelname.lower()}:[/yellow]"
            messages().print(f"{label} {escape(printable(record.getMessage()))}")


def show_log(level: int) -> None:
    """Print the package's log records of at least this level on standard error. Only the command line does so."""
    log = logging.getLogger("chiron")
    if not any(isinstance(handler, _LogHandler) for handler in log.handlers):
        log.addHandler(_LogHandler())
    log.setLevel(level)


@cache
def messages() -> Console:
    """Return the console on standard error: one for all, so that messages do not break a live display."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(stderr=True, highlight=False, soft_wrap=True, width=_WIDE)


def quiet() -> Console:
    """Return a console that prints nothing."""
    return Console(stderr=True, quiet=True)


def results() -> Console:
    """Return a console on standard output."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=_WIDE)


def plain_table(left: Sequence[str], right: Sequence[str], *last: str, gap: int = 2, **column: Any) -> Table:
    """Return a table without borders.

    Args:
        left: titles of the first columns, which are aligned to the left.
        right: titles of the columns after them, which are aligned to the right.
        last: titles of the last columns, aligned to the left.
        gap: spaces between two columns.
        column: further options of every column.
    """
    table = Table(box=None, padding=(0, gap), pad_edge=False, header_style="dim")
    for title in left:
        table.add_column(title, **column)
    for title in right:
        table.add_column(title, justify="right", **column)
    for title in last:
        table.add_column(title, **column)
    return table


def whole(table: Table) -> Table:
    """Set a table to its full width: on a narrower terminal its lines wrap, and no number is cut off."""
    table.width = full_width(table)
    return table


PLAIN_EVERY = 10.0
"""Seconds between plain lines."""


class ProgressLine:
    """Progress of a work of several parts: rewritten in place on a terminal, printed at intervals elsewhere."""

    def __init__(self) -> None:
        self._console = messages()
        self._status: Status | None = None
        self._last = self._began = time.monotonic()

    def headline(self, text: str) -> None:
        """Print a line that stays, such as the begin of a part."""
        self.close()
        self._console.print(text, markup=False, highlight=False)
        self._last = self._began = time.monotonic()

    def update(self, text: str, done: int, of: int) -> None:
        """Show the progress and the estimated time left."""
        now = time.monotonic()
        left = (now - self._began) / done * (of - done) if done else 0.0
        self.say(f"{text}, {left:.0f} s left" if done < of else text, last=done == of)

    def say(self, line: str, *, last: bool = False) -> None:
        """Show a state without an estimate. The ``last`` one is always printed."""
        now = time.monotonic()
        if self._console.is_terminal:
            if self._status is None:
                self._status = self._console.status(line)
                self._status.start()
            self._status.update(line)
            if last:
                self.close()
        elif now - self._last >= PLAIN_EVERY or last:
            self._last = now
            self._console.print(line, markup=False, highlight=False)

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
