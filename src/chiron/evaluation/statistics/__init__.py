"""Intervals and significance tests, each with its source."""
