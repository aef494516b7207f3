"""Benchmarks, protocols and suites by name: those of this package, of other installed packages, and of Python files that the user names.

Another package registers an object under its own name, in the entry-point group ``chiron.benchmarks``, ``chiron.protocols`` or
``chiron.suites``. A file has at least one of the variables ``BENCHMARKS``, ``PROTOCOLS`` and ``SUITES``, each with a sequence of objects.
"""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from chiron.client.config_file import unknown_name
from chiron.errors import InputError
from chiron.evaluation import protocols as protocol_modules
from chiron.evaluation import suites as suite_modules
from chiron.evaluation.benchmarks import sets
from chiron.evaluation.benchmarks.benchmark import Benchmark
from chiron.evaluation.protocols.protocol import Protocol
from chiron.evaluation.suites.suite import Suite
from chiron.plugins import plugins, submodules, with_plugins

T = TypeVar("T", Benchmark, Protocol, Suite)
_VARIABLES = ("BENCHMARKS", "PROTOCOLS", "SUITES")


def benchmarks(files: Sequence[Path] = ()) -> Mapping[str, Benchmark]:
    """Return all benchmarks by name. A plug-in is imported when it is looked up; if it cannot be loaded, that raises InputError.

    Args:
        files: Python files with further benchmarks. They are executed.

    Raises:
        InputError: a file cannot be loaded, or a name is used twice.
    """
    return _all("chiron.benchmarks", "BENCHMARKS", Benchmark, sets, files)


def protocols(files: Sequence[Path] = ()) -> Mapping[str, Protocol]:
    """Return all protocols by name; for arguments and errors see :func:`benchmarks`."""
    return _all("chiron.protocols", "PROTOCOLS", Protocol, protocol_modules, files)  # type: ignore[type-abstract]


def suites(files: Sequence[Path] = ()) -> Mapping[str, Suite]:
    """Return all suites by name; for arguments and errors see :func:`benchmarks`."""
    return _all("chiron.suites", "SUITES", Suite, suite_modules, files)


def benchmark_of(name: str, files: Sequence[Path] = ()) -> Benchmark:
    """Look up a benchmark by name.

    Raises:
        InputError: the name is unknown, its plug-in cannot be loaded, or see :func:`benchmarks`.
    """
    return _find("benchmark", name, benchmarks(files), "'chiron eval --list' shows all")


def protocol_of(name: str, files: Sequence[Path] = ()) -> Protocol:
    """Look up a protocol by name; for errors see :func:`benchmark_of`."""
    return _find("protocol", name, protocols(files))


def suite_of(name: str, files: Sequence[Path] = ()) -> Suite:
    """Look up a suite by name; for errors see :func:`benchmark_of`."""
    return _find("suite", name, suites(files))


def _find(kind: str, name: str, known: Mapping[str, T], advice: str = "") -> T:
    if name not in known:
        raise InputError(unknown_name(kind, name, known, advice or f"choose one of {', '.join(known)}"))
    return known[name]


def _all(group: str, variable: str, kind: type[T], package: ModuleType, files: Sequence[Path]) -> Mapping[str, T]:
    modules = submodules(package.__name__)
    known = {value.name: value for module in modules for value in _values(module, variable, kind, module.__name__)}
    others = plugins(group, known)
    for file in files:
        for value in _values(_module(file.resolve()), variable, kind, str(file)):
            if value.name in known or value.name in others:
                raise InputError(f"{file}: {variable} contains '{value.name}', which exists already: choose another name")
            known[value.name] = value
    return with_plugins(group, known, kind)


def _values(module: ModuleType, variable: str, kind: type[T], place: str) -> list[T]:
    values = list(getattr(module, variable, ()))
    if wrong := [value for value in values if not isinstance(value, kind)]:
        raise InputError(f"{place}: {variable} contains {wrong[0]!r:.80}: every entry must be an instance of {kind.__name__}")
    return values


@cache
def _module(file: Path) -> ModuleType:
    """Execute a Python file once per process."""
    name = f"chiron_file_{hashlib.sha256(str(file).encode()).hexdigest()[:16]}"
    spec = spec_from_file_location(name, file) if file.is_file() and file.suffix == ".py" else None
    if spec is None or spec.loader is None:
        raise InputError(f"{file} is not a Python file (.py): name a file with {', '.join(_VARIABLES[:-1])} or {_VARIABLES[-1]}")
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's file may fail in any way, for example call sys.exit()
        del sys.modules[name]
        raise InputError(f"{file} cannot be imported ({type(error).__name__}: {error}): correct the file") from error
    if not any(hasattr(module, name) for name in _VARIABLES):
        raise InputError(f"{file} has none of {', '.join(_VARIABLES)}: add 'BENCHMARKS = (Benchmark(...),)' to it")
    return module
