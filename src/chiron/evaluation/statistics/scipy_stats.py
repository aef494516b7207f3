"""scipy.stats, imported only where a figure needs it."""

from typing import Any

from chiron.errors import InputError


def scipy_stats() -> Any:
    """The module ``scipy.stats``.

    Raises:
        InputError: scipy is not installed.
    """
    try:
        import scipy.stats
    except ModuleNotFoundError as error:
        raise InputError(f"intervals and tests need scipy ({error}): pip install 'chiron-med[eval]'") from error
    return scipy.stats
