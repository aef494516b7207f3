"""Errors that the user can fix. Any other exception is a bug and keeps its traceback."""


class ChironError(Exception):
    """Base class of all errors that this package raises on purpose."""


class InputError(ChironError):
    """Input or configuration that cannot be used (exit code 2).

    The message is one line: what is wrong, where, and how to fix it.
    """


class DiskError(ChironError):
    """Writing to disk failed (exit code 2). Files written earlier are intact."""
