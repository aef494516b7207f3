"""The embedded team: baselines that need no key, no weights and no network, and read the same messages as any endpoint."""
