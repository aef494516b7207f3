"""Experiments on the demonstration; not part of the installed package."""
