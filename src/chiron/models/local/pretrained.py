"""Weights from a folder into a model of transformers, all of them or none."""

from typing import Any

from chiron.errors import InputError
from chiron.models.local.quiet import no_bars

_SHOWN = 3


def load_whole(architecture: Any, source: str, **settings: Any) -> Any:
    """``architecture.from_pretrained(source, **settings)``, refused where it would fill in weights by chance.

    Transformers draws weights that a checkpoint lacks at random, and says so in a warning only: such a model runs, and knows nothing.

    Args:
        architecture: a model class of transformers.
        source: a folder, or the name of a checkpoint on a hub.
        settings: handed on.

    Raises:
        InputError: the checkpoint lacks weights of this architecture, or has them in other shapes.
    """
    with no_bars():
        model, report = architecture.from_pretrained(source, output_loading_info=True, **settings)
    lacking = sorted({*map(str, report["missing_keys"]), *(str(name) for name, *_ in report["mismatched_keys"])})
    if lacking:
        more = len(lacking) - _SHOWN
        names = ", ".join(lacking[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        raise InputError(f"it lacks weights that a {architecture.__name__} of its config.json has ({names}): fetch or convert it again")
    return model
