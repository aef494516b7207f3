"""Read YAML files, and find the line of a value for error messages."""

from pathlib import Path
from typing import Any

import yaml

from chiron.errors import InputError

MOST_BYTES = 2**20
"""Maximum size of a YAML file."""
_MOST_VALUES = 100_000
"""Maximum number of values under one top-level key, counting those that aliases repeat."""
_NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}


class _Unusable(yaml.MarkedYAMLError):
    """Valid YAML syntax with a value that is certainly a mistake."""


class _Loader(yaml.SafeLoader):
    """Load plain data only and reject duplicate keys, which YAML's own loader silently overwrites."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Check a mapping before ``<<`` merges others into it, since merges may repeat keys."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise _Unusable(problem=f"the key '{key.value}' occurs twice: remove one", problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        """Reject base-60 numbers and lone surrogates; surrogates cannot be encoded as UTF-8 later."""
        node = super().compose_scalar_node(anchor)
        if node.tag in _NUMBERS and ":" in node.value:
            raise _Unusable(
                problem=f"{node.value} would be read as a number to the base 60: write one number (such as seconds), or quote it",
                problem_mark=node.start_mark,
            )
        if not node.value.isascii() and any("\ud800" <= c <= "\udfff" for c in node.value):
            raise _Unusable(problem="a text contains half a character (a surrogate): remove it", problem_mark=node.start_mark)
        return node


def read_yaml(path: Path, kind: str, *, hint: str = "") -> Any:
    """Read a YAML file.

    Args:
        path: file to read.
        kind: name of the file's role, for error messages: ``configuration``, ``recipe``.
        hint: text appended to the error if the file cannot be read.

    Raises:
        InputError: the file cannot be read, or is not valid YAML.
    """
    text = _text_of(path, kind, hint)
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        where = f", {_written(error.problem_mark)}" if error.problem_mark is not None else ""
        raise InputError(f"{kind} {path}{where} is not valid YAML: {' '.join(str(error.problem or error).split())}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{kind} {path} is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise InputError(f"{kind} {path} is nested too deeply: a {kind} needs only a few levels") from error
    except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        # PyYAML raises various errors for tags that do not fit their value (!!bool foo), for impossible dates (2001-99-99)
        # and for integers of thousands of digits.
        raise InputError(f"{kind} {path} contains an invalid value ({error}): quote it if it is text") from error
    for key, inner in value.items() if isinstance(value, dict) else [("it", value)]:
        if _is_too_large(inner):
            raise InputError(f"{kind} {path}: '{key}' has more than {_MOST_VALUES:,} values, counting what its aliases (*name) repeat")
    return value


def _is_too_large(value: Any) -> bool:
    """Return whether a value holds too many values. Aliases may make it infinite."""
    left, waiting = _MOST_VALUES, [value]
    while waiting:
        one = waiting.pop()
        left -= 1
        if left < 0:
            return True
        waiting.extend([*one.keys(), *one.values()] if isinstance(one, dict) else one if isinstance(one, list | set | tuple) else [])
    return False


def _text_of(path: Path, kind: str, hint: str) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
        text = raw.decode("utf-8") if len(raw) <= MOST_BYTES else ""
    except (OSError, ValueError) as error:
        raise InputError(f"{kind} {path} cannot be read: {error}{hint}") from error
    if len(raw) > MOST_BYTES:
        raise InputError(f"{kind} {path} is larger than {MOST_BYTES // 2**20} MiB: is it the right file?{hint}")
    return text


class YamlPositions:
    """Positions of the values of a YAML file, for messages about a file that was read before."""

    def __init__(self, path: Path) -> None:
        """Read the file again. If that fails, no position is known."""
        try:
            self._root = yaml.compose(_text_of(path, "file", ""), _Loader)
        except (InputError, yaml.YAMLError, RecursionError):
            self._root = None

    def find(self, place: str, *, key: bool = False) -> str:
        """Return ``line L, column C`` of a value, or of the nearest part of the file around it.

        Args:
            place: keys and list indices, joined by dots, such as ``search.mentors.0``. A key may contain dots.
            key: whether to return the position of the key instead of its value. A value of several lines always has that of its key.

        Returns:
            An empty string if the file contains no part of the place.
        """
        mark, _ = self._walk(place, key=key)
        return "" if mark is None else _written(mark)

    def contains(self, place: str) -> bool:
        """Return whether the file has a value at this place."""
        mark, rest = self._walk(place, key=False)
        return mark is not None and not rest

    def _walk(self, place: str, *, key: bool) -> tuple[yaml.Mark | None, str]:
        """Return the mark of the last part that was found, and the rest of the place."""
        node: yaml.Node | None = self._root
        mark = None
        while place:
            found = _child(node, place)
            if found is None:
                break
            name, label, node = found
            place = place[len(name) + 1 :]
            on_one_line = isinstance(node, yaml.ScalarNode) or (isinstance(node, yaml.CollectionNode) and node.flow_style)
            mark = node.start_mark if on_one_line and not (key and not place) else label.start_mark
        return mark, place


def _child(node: yaml.Node | None, place: str) -> tuple[str, yaml.Node, yaml.Node] | None:
    """Return the first part of a place in a node: its name, the node of its key (of its value in a list), and that of its value."""
    named: list[tuple[str, yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        named = [(str(key.value), key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]
    elif isinstance(node, yaml.SequenceNode):
        named = [(str(index), value, value) for index, value in enumerate(node.value)]
    fitting = [one for one in named if place == one[0] or place.startswith(f"{one[0]}.")]
    return max(fitting, key=lambda one: len(one[0]), default=None)


def _written(mark: yaml.Mark) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"
