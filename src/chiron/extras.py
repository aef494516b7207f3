"""Import optional packages."""

import importlib
import shlex
import sys
from types import ModuleType

from chiron.errors import InputError


def need(module: str, purpose: str, extra: str = "import") -> ModuleType:
    """Import a module of an extra.

    Args:
        module: module name.
        purpose: what needs it, for the error message, such as ``DICOM``.
        extra: name of the extra.

    Raises:
        InputError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise InputError(f"{purpose} needs the package '{module}', which is not installed: {install_command(extra)}") from None


def install_command(extra: str) -> str:
    """Return the command that installs an extra where this package is installed. The ``pip`` of the user's shell may be another one's."""
    return f"{shlex.quote(sys.executable or 'python')} -m pip install 'chiron-med[{extra}]'"
