"""Benchmarks: one small loader each in ``sets``, which turns published data into :class:`~chiron.evaluation.items.Item`."""
