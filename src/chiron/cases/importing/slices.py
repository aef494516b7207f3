"""Which slices of a stack become images."""

AT_MOST = 8
"""Images of a series or volume, where nothing else is asked for."""


def chosen(count: int, every: int | None) -> list[int]:
    """Indices of slices, rising: every ``every``-th, else at most eight, evenly spaced and away from both ends, which are often empty."""
    if every is not None:
        return list(range((every - 1) // 2 if count > every else 0, count, every)) or [0][:count]
    if count <= AT_MOST:
        return list(range(count))
    return [(2 * i + 1) * count // (2 * AT_MOST) for i in range(AT_MOST)]
