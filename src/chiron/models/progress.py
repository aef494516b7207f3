"""What a piece of work has done so far, for whoever looks on."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Progress:
    """Counters that the work moves and a view reads."""

    unit: str = "cases"
    """What is counted, in the plural."""
    total: int = 0
    """Units selected."""
    already: int = 0
    """Of these, done by an earlier process; counted in what follows too."""
    done: int = 0
    """Ended by this process, pending and bad ones included."""
    in_flight: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """Units by how they ended."""
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far, a unit in flight taken as half done; ``None`` before the first is done."""
        if not self.done:
            return None
        left = max(0.0, self.total - self.already - self.done - self.in_flight / 2)
        return left * (time.monotonic() - self.began) / (self.done + self.in_flight / 2)

    def tally(self) -> Sequence[tuple[str, int]]:
        """How many units ended how, in the order in which a view shows it."""
        return self.outcomes.most_common()

    def figure(self) -> str:
        """What else there is to say in a few words; empty if nothing is."""
        return ""
