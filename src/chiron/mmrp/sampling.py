"""Balance over the map: by weights for whoever draws rows, or by a cap on what a cell may hold."""

import hashlib
from collections import Counter
from collections.abc import Sequence

from chiron.mmrp.coverage_map import Cell, cells, count_cells
from chiron.mmrp.survey import Entry


def weights(entries: Sequence[Entry]) -> list[float]:
    """For each row ``1 / sqrt(rows in its rarest cell)``, scaled to a mean of 1.

    The root stands between what there is (a weight of 1 for all) and every cell alike, where a cell of three rows would be drawn as
    often as one of three thousand, and learned by heart.
    """
    counts = count_cells(entries)
    raw = [min(counts[cell] for cell in cells(entry)) ** -0.5 for entry in entries]
    mean = sum(raw) / len(raw) if raw else 1.0
    return [weight / mean for weight in raw]


def capped(entries: Sequence[Entry], most: int, *, seed: int = 0) -> list[int]:
    """Positions in ``entries`` of the rows that stay if no cell may hold more than ``most``, in their order.

    Rows are taken in a random order of the seed and their ids, so that more rows change little; one of several cells stays if all of
    them have room.
    """
    held: Counter[Cell] = Counter()
    stay = []
    for position in sorted(range(len(entries)), key=lambda i: _chance(seed, entries[i].id)):
        own = cells(entries[position])
        if all(held[cell] < most for cell in own):
            held.update(own)
            stay.append(position)
    return sorted(stay)


def _chance(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}\x00{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
