"""Standard output and standard error: what a broken one may do, and where results and messages go."""

import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TextIO, cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chiron.errors import ChironError, DiskError
from chiron.terminal import printable


class BrokenPipe(ChironError):
    """Whoever read standard output reads no more. Not an ``OSError``: typer and rich have exit codes of their own for those."""


class _Stream(ABC):
    """A text stream whose failing to write is told, or not, by :meth:`_failed`; in all else the stream itself."""

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
        """The stream could not be written: tell it, or let it be."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Results(_Stream):
    def _failed(self, error: OSError) -> None:
        # What is left in the buffer would fail again when the interpreter leaves, with a message and an exit code of its own.
        _silence(self._stream)
        if isinstance(error, BrokenPipeError):
            raise BrokenPipe("standard output is closed") from error
        raise DiskError(f"standard output cannot be written ({error.strerror}): give it a place that takes it") from error


class _Messages(_Stream):
    def _failed(self, error: OSError) -> None:
        """Nobody is left to be told. A full disk may have room again later; a reader that went away does not come back."""
        if isinstance(error, BrokenPipeError):
            _silence(self._stream)


@contextmanager
def safe_streams() -> Iterator[None]:
    """Have ``sys.stdout`` and ``sys.stderr`` behave so while the block lasts, whatever their encoding."""
    out, messages = sys.stdout or _null(), sys.stderr or _null()
    for stream in (out, messages):
        # A character that the terminal's encoding lacks is written out, and ends nothing.
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
                # It was told already, or nobody is left to be told; the interpreter would try again, and make its own exit code of it.
                _silence(stream)


def _null() -> TextIO:
    """In place of a stream that was closed from the start, under its number, so that no file of ours gets what is meant for it."""
    return Path(os.devnull).open("w", encoding="utf-8")


def _silence(stream: TextIO) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


_WIDE = 150
"""Columns where nobody's terminal sets a width: a table in a log file is not cut."""


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


def results() -> Console:
    """Standard output."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=_WIDE)


def whole(table: Table) -> Table:
    """The table at its own width: on a narrower terminal its lines go on in the next one, and no figure is cut off."""
    table.width = Console(width=10_000).measure(table).maximum
    return table
