"""One line of progress: rewritten in place on a terminal, printed at intervals elsewhere."""

import time

from rich.console import Console
from rich.status import Status

PLAIN_EVERY = 10.0
"""Seconds between plain lines."""


class ProgressLine:
    """Parts of some long work, one after another, and how far the present one is."""

    def __init__(self, console: Console) -> None:
        """``console``: standard error."""
        self._console = console
        self._status: Status | None = None
        self._last = self._began = time.monotonic()

    def headline(self, text: str) -> None:
        """Say that something begins or has ended, in a line that stays."""
        self._end()
        self._console.print(text, markup=False, highlight=False)
        self._last = self._began = time.monotonic()

    def update(self, text: str, done: int, of: int) -> None:
        """Say how far it is."""
        now = time.monotonic()
        left = (now - self._began) / done * (of - done) if done else 0.0
        self.say(f"{text}, {left:.0f} s left" if done < of else text, last=done == of)

    def say(self, line: str, *, last: bool = False) -> None:
        """Say something of which nobody can tell how long it will take; the ``last`` word is always said."""
        now = time.monotonic()
        if self._console.is_terminal:
            if self._status is None:
                self._status = self._console.status(line)
                self._status.start()
            self._status.update(line)
            if last:
                self._end()
        elif now - self._last >= PLAIN_EVERY or last:
            self._last = now
            self._console.print(line, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the line, wherever the work stands."""
        self._end()

    def _end(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
