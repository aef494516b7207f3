"""Protocols: which items to ask, how to ask them, and what counts as right. Figures of two protocols never share a column."""
