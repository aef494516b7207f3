"""Measuring a model: items asked through the same ledger and limits as a search, and figures with their intervals."""
