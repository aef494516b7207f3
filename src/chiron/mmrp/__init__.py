"""MMRP: build, check and release a training dataset from cases."""
