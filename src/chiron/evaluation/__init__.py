"""Measure a model: ask benchmark items through the ledger and limits of a search, and compute figures with intervals."""
