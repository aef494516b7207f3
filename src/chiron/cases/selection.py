"""Select cases of a file: one shard, the first N, or all."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chiron.cases.case import BadCase, Case
from chiron.cases.reader import read_cases
from chiron.errors import InputError


@dataclass(frozen=True, slots=True)
class Shard:
    """Part ``index`` (from 1) of ``count``. A case is in the same part in every file."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Parse ``I/N``.

        Raises:
            InputError: the text does not have that form, or 1 <= I <= N does not hold.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise InputError(f"--shard {text}: write I/N with 1 <= I <= N, for example 2/8")
        return cls(int(match[1]), int(match[2]))

    def holds(self, name: str) -> bool:
        """Return whether the case with this id is in this part."""
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index - 1


@dataclass(frozen=True, slots=True)
class Selection:
    """Selected cases of one file."""

    cases: Path
    limit: int | None = None
    """Maximum number of cases, applied after sharding."""
    shard: Shard | None = None
    unlabeled: bool = False
    """Whether cases without a question are included."""

    def __iter__(self) -> Iterator[tuple[int, Case | BadCase]]:
        """Yield each case with its position in the file (from 0)."""
        taken = 0
        for position, case in enumerate(read_cases(self.cases, unlabeled=self.unlabeled)):
            name = case.id if isinstance(case, Case) else case.label
            if self.shard is not None and not self.shard.holds(name):
                continue
            if self.limit is not None and taken >= self.limit:
                return
            taken += 1
            yield position, case

    @property
    def is_whole(self) -> bool:
        """Whether the selection includes all cases of the file."""
        return self.limit is None and self.shard is None

    def count(self) -> int:
        """Return the number of selected cases; reads the whole file."""
        return sum(1 for _ in self)
