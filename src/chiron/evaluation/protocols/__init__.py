"""Protocols: what is asked of a benchmark, how, and what counts. Figures of two protocols are never in one column."""
