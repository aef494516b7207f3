"""Who takes part in a search, and by what rules."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

PolicyName = Literal["paper", "verified"]


@dataclass(frozen=True, slots=True)
class Seat:
    """A model in one role."""

    name: str
    """The configured name; it stands in results."""
    identity: str
    """What answers, for the key of its calls."""
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Draw:
    """A seat at a temperature, and which of several like it this is: two of the same kind must not share their replies."""

    seat: Seat
    temperature: float
    copy: int
    copies: int

    def index(self, restart: int) -> int:
        """The draw of its calls after ``restart`` restarts."""
        return restart * self.copies + self.copy


@dataclass(frozen=True, slots=True)
class Team:
    """Mentors M, interns N, and the judge of the paper."""

    mentors: tuple[Seat, ...]
    interns: tuple[Seat, ...]
    judge: Seat


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of a search; ``docs/search.md`` has them in words."""

    temperatures: tuple[float, ...] = (1.2, 0.2)
    """The interns'; T in the paper."""
    mentor_temperature: float = 1.2
    depth: int = 3
    """D in the paper: how often a prefix is chosen, at most."""
    restarts: int = 1
    """How often a search may begin anew after every candidate scored zero."""
    stop: PolicyName = "verified"
    """What a full score means: the prefix has it, or the mentor's whole path has it too."""
    baseline: bool = False
    """Whether to ask the interns without any reasoning first."""
    threshold: float = 0.5
    """A path is retained if its score lies above this."""
    seed: int = 0
    image_side: int = 1536
    """Longest side in pixels of the images as models see them."""

    def mentor_draws(self, team: Team) -> list[Draw]:
        """The mentors, one draw each."""
        return _draws([(seat, self.mentor_temperature) for seat in team.mentors])

    def intern_draws(self, team: Team) -> list[Draw]:
        """Every intern at every temperature: the planned evaluations of one prefix."""
        return _draws([(seat, t) for seat in team.interns for t in self.temperatures])


def _draws(planned: Sequence[tuple[Seat, float]]) -> list[Draw]:
    kinds = [(seat.identity, seat.max_tokens, temperature) for seat, temperature in planned]
    total, seen, draws = Counter(kinds), Counter[tuple[str, int, float]](), []
    for (seat, temperature), kind in zip(planned, kinds, strict=True):
        draws.append(Draw(seat, temperature, seen[kind], total[kind]))
        seen[kind] += 1
    return draws
