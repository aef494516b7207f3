"""What hangs together through others: a union-find over small integers."""

import numpy as np
from numpy.typing import NDArray


class Groups:
    """A partition of ``0 .. n-1``, at first of singles."""

    def __init__(self, count: int) -> None:
        """``count``: how many members there are."""
        self._parent = list(range(count))

    def unite(self, a: int, b: int) -> None:
        """Put the groups of two members together. A group is known by its smallest member, so the order of calls does not matter."""
        a, b = self.find(a), self.find(b)
        self._parent[max(a, b)] = min(a, b)

    def find(self, member: int) -> int:
        """The smallest member of its group."""
        parent = self._parent
        while parent[member] != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    def labels(self) -> NDArray[np.int64]:
        """For each member the smallest of its group, ``(n,)``."""
        return np.array([self.find(member) for member in range(len(self._parent))], np.int64)


class Families:
    """The same, for those who ask of many members at once whether they hang together."""

    def __init__(self, count: int) -> None:
        """``count``: how many members there are."""
        self.of: NDArray[np.int64] = np.arange(count)
        """For each member a number that its family has in common, ``(n,)``; to be read only."""
        self._members: dict[int, list[int]] = {}

    def unite(self, a: int, b: int) -> bool:
        """Put the families of two members together; false where they were one. A family is known by its largest part's number."""
        one, other = int(self.of[a]), int(self.of[b])
        if one == other:
            return False
        larger, smaller = self._members.pop(one, [one]), self._members.pop(other, [other])
        if len(larger) < len(smaller):
            one, larger, smaller = other, smaller, larger
        self.of[smaller] = one
        larger += smaller
        self._members[one] = larger
        return True
