"""Reading a YAML file that a person wrote: what is in it, or one line that says what is wrong with it and where."""

from pathlib import Path
from typing import Any

import yaml

from chiron.errors import InputError

MOST_BYTES = 2**20
"""Of a file that a person writes by hand."""
_MOST_VALUES = 100_000
"""That a key's value may hold, counting what aliases repeat."""
_NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}


class _Unusable(yaml.MarkedYAMLError):
    """YAML by its grammar, and yet nothing that a person can have meant."""


class _Loader(yaml.SafeLoader):
    """Plain data only, and each key once: YAML's own loader would keep the last one and say nothing."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as it is written, before ``<<`` merges others into it (which may well repeat keys)."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise _Unusable(problem=f"the key '{key.value}' stands twice: take one away", problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        """A value; YAML can write half a character, which nothing that is written down later can hold."""
        node = super().compose_scalar_node(anchor)
        if node.tag in _NUMBERS and ":" in node.value:
            raise _Unusable(
                problem=f"{node.value} would be read as a number to the base 60: write one number (in seconds, say), or put it in quotes",
                problem_mark=node.start_mark,
            )
        if not node.value.isascii() and any("\ud800" <= c <= "\udfff" for c in node.value):
            raise _Unusable(problem="half a character (a surrogate) stands in a text: take it away", problem_mark=node.start_mark)
        return node


def read_yaml(path: Path, kind: str, *, hint: str = "") -> Any:
    """What a YAML file holds.

    Args:
        path: the file.
        kind: what it is, for the message: ``configuration``, ``recipe``.
        hint: what else to say where it cannot be read.

    Raises:
        InputError: it cannot be read, or is no YAML.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
        text = raw.decode("utf-8") if len(raw) <= MOST_BYTES else ""
    except (OSError, ValueError) as error:
        raise InputError(f"{kind} {path} cannot be read: {error}{hint}") from error
    if len(raw) > MOST_BYTES:
        raise InputError(f"{kind} {path} is larger than {MOST_BYTES // 2**20} MiB: is it the right file?{hint}")
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise InputError(f"{kind} {path}{where} is not valid YAML: {' '.join(str(error.problem or error).split())}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{kind} {path} is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise InputError(f"{kind} {path} is nested too deeply: no {kind} needs more than a few levels") from error
    except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        # Tags that their values do not fit (!!bool foo), at which PyYAML stumbles in many ways; dates and numbers that look like some and
        # are none: 2001-99-99, or an integer of five thousand digits.
        raise InputError(f"{kind} {path} holds a value that is none: {error}; put text in quotes") from error
    for key, inner in value.items() if isinstance(value, dict) else [("it", value)]:
        if _is_larger(inner, _MOST_VALUES):
            raise InputError(f"{kind} {path}: '{key}' holds more than {_MOST_VALUES:,} values, counting what its aliases (*name) repeat")
    return value


def _is_larger(value: Any, most: int) -> bool:
    """Whether a value holds more than ``most`` values. Aliases may make it endless."""
    left, waiting = most, [value]
    while waiting:
        one = waiting.pop()
        left -= 1
        if left < 0:
            return True
        waiting.extend([*one.keys(), *one.values()] if isinstance(one, dict) else one if isinstance(one, list | set | tuple) else [])
    return False
