"""Import optional packages."""

import importlib
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
        raise InputError(f"{purpose} needs the package '{module}', which is not installed: pip install 'chiron-med[{extra}]'") from None
