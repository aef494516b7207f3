"""Tests of chiron.training."""
