"""Providers answer calls: OpenAI-compatible endpoints, embedded baselines, checkpoints in this process."""
