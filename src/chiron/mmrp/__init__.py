"""MMRP: from cases to a dataset one can train on and defend."""
