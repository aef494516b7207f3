"""Embedded baseline models. They need no key, weights or network, and read the same messages as any endpoint."""
