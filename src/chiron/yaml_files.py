"""Reading a YAML file that a person wrote: what is in it, or one line that says what is wrong with it and where."""

from pathlib import Path
from typing import Any

import yaml

from chiron.errors import InputError


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
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{kind} {path} cannot be read: {error}{hint}") from error
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
    return value
