"""Benchmarks: each a small loader in ``sets``, from the data as published to :class:`~chiron.evaluation.items.Item`."""
