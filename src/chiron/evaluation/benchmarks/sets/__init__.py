"""Data sets, one module each with ``BENCHMARKS``; every module here is found. ``docs/evaluation.md`` shows how to add one."""
