"""Find what can be extended by one file: modules of a folder, and objects that other installed packages provide as entry points.

A package registers an object in its ``pyproject.toml``::

    [project.entry-points."chiron.checks"]
    my_check = "my_package.my_module:CHECK"
"""

import pkgutil
import sys
from collections.abc import Container, Iterator, Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from chiron.errors import InputError

T = TypeVar("T")


def submodules(package: str) -> Iterator[ModuleType]:
    """Import and yield the modules of one of our packages, by name."""
    for module in sorted(pkgutil.iter_modules(import_module(package).__path__), key=lambda module: module.name):
        yield import_module(f"{package}.{module.name}")


def plugins(group: str, built_in: Container[str] = ()) -> Mapping[str, EntryPoint]:
    """Return the entry points of a group by name. Their modules are not imported.

    Raises:
        InputError: two packages use the same name, or one uses the name of a ``built_in`` object.
    """
    found: dict[str, EntryPoint] = {}
    named: EntryPoints = _entry_points(_installed()).select(group=group)
    for entry in named:
        first = found.setdefault(entry.name, entry)
        if first.value != entry.value:
            both = f"{_package(first)}, {_package(entry)}"
            raise InputError(f"two packages provide the plug-in '{entry.name}' (group {group}): {both}: uninstall one of them")
        if entry.name in built_in:
            raise InputError(f"{_described(entry)} has the name of a built-in one: rename or uninstall it")
    return found


def _installed() -> tuple[tuple[str, int], ...]:
    """Return the folders of packages with their times of change, which an installation during the process alters."""
    folders = [Path(folder or ".") for folder in sys.path]
    return tuple((str(folder), folder.stat().st_mtime_ns) for folder in folders if folder.exists())


@lru_cache(maxsize=1)
def _entry_points(installed: tuple[tuple[str, int], ...]) -> Any:
    """Read all entry points once while nothing is installed: a command looks up ten groups, and each reading takes 10 ms of CPU.

    Returns an object with ``select``; its class depends on Python's version.
    """
    del installed
    return entry_points()


def load(group: str, name: str, kind: type[T]) -> T:
    """Import one plug-in and return its object.

    Raises:
        InputError: there is no such plug-in, its import fails, or its object is not an instance of ``kind``.
    """
    entry = plugins(group).get(name)
    if entry is None:
        raise InputError(f"plug-in '{name}' (group {group}) is not installed: install the package that provides it")
    return _load(entry, kind)


def with_plugins(group: str, built_in: Mapping[str, T], kind: type[T]) -> Mapping[str, T]:
    """Return the built-in objects by name, followed by the plug-ins of a group. A plug-in is imported when it is looked up.

    A lookup raises InputError if the plug-in cannot be loaded, or if its object has a ``name`` that is not the entry point's name.

    Raises:
        InputError: two packages use the same name, or one uses the name of a built-in object.
    """
    return _WithPlugins(built_in, plugins(group, built_in), kind)


class _WithPlugins(Mapping[str, T]):
    def __init__(self, built_in: Mapping[str, T], others: Mapping[str, EntryPoint], kind: type[T]) -> None:
        self._built_in, self._others, self._kind = built_in, others, kind

    def __getitem__(self, name: str) -> T:
        if name not in self._others:
            return self._built_in[name]
        value = _load(entry := self._others[name], self._kind)
        if (own := getattr(value, "name", name)) != name:
            raise InputError(f"{_described(entry)} provides '{own}': give the entry point and its object one name")
        return value

    def __contains__(self, name: object) -> bool:
        return name in self._built_in or name in self._others  # Mapping's own method would import the plug-in

    def __iter__(self) -> Iterator[str]:
        return iter((*self._built_in, *self._others))

    def __len__(self) -> int:
        return len(self._built_in) + len(self._others)


def _load(entry: EntryPoint, kind: type[T]) -> T:
    try:
        value = entry.load()
    except (Exception, SystemExit) as error:  # a plug-in may fail in any way, for example call sys.exit()
        raise _unusable(entry, f"{type(error).__name__}: {error}") from error
    # A class has the methods of its instances, so it passes isinstance() with a protocol.
    if isinstance(value, type):
        raise _unusable(entry, f"{entry.value} is a class, not an instance of {kind.__name__}")
    if not isinstance(value, kind):
        raise _unusable(entry, f"{entry.value} is not an instance of {kind.__name__}")
    return value


def _unusable(entry: EntryPoint, reason: str) -> InputError:
    return InputError(f"{_described(entry)} cannot be loaded: {reason}: update or uninstall the package")


def _described(entry: EntryPoint) -> str:
    return f"plug-in '{entry.name}' (group {entry.group}, package {_package(entry)})"


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "unknown"
