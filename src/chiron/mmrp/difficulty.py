"""From easy to hard: the order in which rows are learned."""

import hashlib

from chiron.mmrp.row import PARTS
from chiron.mmrp.survey import Entry

UNMEASURED = 0.5
"""Where a row stands that nobody measured: in the middle, among neither the first lessons nor the last."""


def curriculum_key(entry: Entry) -> tuple[int, float, int, bytes]:
    """What rows are sorted by.

    The part (text, alignment, chains of thought); the difficulty, ``1 - baseline``: the share of interns who are wrong without any
    reasoning; the depth at which the search ended, 0 where there was none; and then chance, from the row's id, so that the order does
    not depend on the order in which rows were made.
    """
    chance = hashlib.blake2b(entry.id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    measured = UNMEASURED if entry.difficulty is None else entry.difficulty
    return PARTS.index(entry.part), measured, entry.depth or 0, chance
