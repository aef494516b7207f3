"""Checks of a dataset before its release; one file per check."""
