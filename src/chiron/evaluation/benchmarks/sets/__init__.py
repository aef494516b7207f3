"""One file a data set, each with ``BENCHMARKS``; whatever stands here is found. ``docs/evaluation.md`` shows how to add one."""
