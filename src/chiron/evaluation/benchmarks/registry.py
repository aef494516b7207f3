"""All benchmarks, found by importing the modules in ``sets``."""

import pkgutil
from functools import cache
from importlib import import_module

from chiron.client.config_file import nearest
from chiron.errors import InputError
from chiron.evaluation.benchmarks import sets
from chiron.evaluation.benchmarks.benchmark import Benchmark


@cache
def benchmarks() -> dict[str, Benchmark]:
    """Return every benchmark by name, in the order of the module names."""
    modules = sorted(module.name for module in pkgutil.iter_modules(sets.__path__))
    found = [b for name in modules for b in import_module(f"{sets.__name__}.{name}").BENCHMARKS]
    return {benchmark.name: benchmark for benchmark in found}


def benchmark_of(name: str) -> Benchmark:
    """Look up a benchmark by name.

    Raises:
        InputError: the name is unknown.
    """
    known = benchmarks()
    if name not in known:
        raise InputError(f"no benchmark is called '{name}'{nearest(name, known)}; 'chiron eval --list' shows all")
    return known[name]
