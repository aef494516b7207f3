"""Outages: what tells an endpoint that answers nobody from a call that fails alone."""

from dataclasses import dataclass, field
from enum import Enum, auto

SEVERAL = 3
"""Calls that failed since the last answer, from which on the endpoint is suspected rather than the calls."""
IN_A_ROW = 10
"""Attempts that failed since the last answer, before the endpoint's queue is held."""


@dataclass
class Outage:
    """What one endpoint answered last, and what has failed since."""

    answers: int = 0
    """Answers since this process began."""
    in_a_row: int = 0
    """Failed attempts since the last answer; rate limits are not among them."""
    seconds_down: float = 0.0
    """Of past outages, from the first failure to the first answer."""
    times_down: int = 0
    _failing: set[str] = field(default_factory=set)
    _since: float | None = None

    def failed(self, key: str, now: float, *, limited: bool) -> None:
        """An attempt of the call ``key`` got no answer. ``now``: seconds of the event loop's clock."""
        self._failing.add(key)
        self._since = now if self._since is None else self._since
        self.in_a_row += not limited

    def answered(self, now: float, *, was_held: bool) -> None:
        """The endpoint answered a call."""
        self.answers += 1
        if was_held:
            self.times_down += 1
            self.seconds_down += self.seconds(now)
        self._failing.clear()
        self._since, self.in_a_row = None, 0

    def seconds(self, now: float) -> float:
        """How long the endpoint has answered nothing, from the first failure on."""
        return 0.0 if self._since is None else now - self._since

    @property
    def several(self) -> bool:
        """Whether so many calls failed since the last answer that it is the endpoint's fault rather than theirs."""
        return len(self._failing) >= SEVERAL

    @property
    def is_down(self) -> bool:
        """Whether its queue is to be held: it answered before, and nothing has succeeded for a while."""
        return self.answers > 0 and self.several and self.in_a_row >= IN_A_ROW


class Blame(Enum):
    """Whose fault a failed attempt is."""

    CALL = auto()
    """Other calls to the endpoint succeed meanwhile."""
    UNKNOWN = auto()
    """Too few calls are under way to tell."""
    ENDPOINT = auto()
    """Nothing succeeds, so that the attempt counts neither against the call's attempts nor its deadline."""


@dataclass
class Standing:
    """One call's failures, and whose fault they are."""

    outage: Outage
    key: str
    mentor: bool
    uncounted: int = 0
    """Failed attempts that were the endpoint's fault, rate limits aside."""
    _answers_seen: int | None = None

    def sent(self) -> None:
        """An attempt is about to be sent. What was answered before the first one says nothing about this call's failures."""
        if self._answers_seen is None:
            self._answers_seen = self.outage.answers

    def blame(self, now: float, *, limited: bool) -> Blame:
        """Record a failed attempt, and decide whose fault it is.

        It is the call's if the endpoint answered another call since the last failure. A mentor's is never unknown: without its candidate
        the case would take another course, so it is not given up on a suspicion.
        """
        self.outage.failed(self.key, now, limited=limited)
        others_succeed = self.outage.answers > (self._answers_seen or 0)
        self._answers_seen = self.outage.answers
        if others_succeed:
            return Blame.CALL
        if not self.mentor and not self.outage.several:
            return Blame.UNKNOWN
        self.uncounted += not limited
        return Blame.ENDPOINT
