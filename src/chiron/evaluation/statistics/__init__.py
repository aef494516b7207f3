"""How sure figures are, and whether two of them differ: each method once, with its source."""
