"""What can go wrong that a person can mend. Everything else is a crash of ours and keeps its traceback."""


class ChironError(Exception):
    """The root of the errors that this package raises on purpose."""


class InputError(ChironError):
    """The user's input or configuration cannot be used (exit code 2).

    The message is one line: what is wrong, where, and how to mend it.
    """


class DiskError(ChironError):
    """The disk took nothing more (exit code 2). What was written before is whole."""
