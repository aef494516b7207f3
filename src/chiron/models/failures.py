"""How asking can fail. Every failure of every provider lands in one of three classes before anything else sees it."""

import re
from collections import Counter
from collections.abc import Iterable

from chiron.errors import ChironError
from chiron.terminal import printable


def one_line(text: str, most: int = 300) -> str:
    """At most ``most`` characters of an endpoint's words, on a line that a terminal shows and does not obey."""
    # Cut first: an error body may have megabytes.
    return printable(" ".join(text[: 4 * most].split()))[:most]


def commonest(reasons: Iterable[str]) -> str | None:
    """The commonest of some reasons; those that differ in numbers only are one."""
    first: dict[str, str] = {}
    counts = Counter(key for reason in reasons if (key := re.sub(r"\d+", "#", reason)) and first.setdefault(key, reason))
    return next((first[key] for key, _ in counts.most_common(1)), None)


class CallFailed(ChironError):
    """One call got no answer. ``public`` may be shown and logged: the key and the words of the prompt are removed from it.

    The message may echo what was asked, and is shown nowhere.

    Both are one line that a terminal can show: an endpoint's words are in them, and those are hostile.
    """

    kind = "failed"

    def __init__(self, message: str, *, public: str | None = None, maybe_billed: bool = False) -> None:
        """Keep the message, the part of it fit for a log, and whether the provider may bill the attempt."""
        super().__init__(one_line(message, 1000))
        self.public = one_line(public if public is not None else message, 600)
        self.maybe_billed = maybe_billed


class RateLimited(CallFailed):
    """The endpoint asks for fewer or later requests."""

    kind = "rate_limited"

    def __init__(self, message: str, *, retry_after: float | None = None, public: str | None = None) -> None:
        """Keep what the endpoint said of when to come back, in seconds."""
        super().__init__(message, public=public)
        self.retry_after = retry_after


class Transient(CallFailed):
    """The same call may well succeed later: a server's fault, a broken connection, a hang, a reply that is none."""

    kind = "transient"


class CallerFault(CallFailed):
    """The same call would fail again: it, or the configuration, has to change."""

    kind = "caller"

    def __init__(self, message: str, *, public: str | None = None, misconfigured: bool = False, maybe_billed: bool = False) -> None:
        """``misconfigured``: not this call but every call to the endpoint is wrong (key, address, model name)."""
        super().__init__(message, public=public, maybe_billed=maybe_billed)
        self.misconfigured = misconfigured


class Flagged(CallerFault):
    """A content filter refuses the input of this one call, before any model sees it."""


class Halted(ChironError):
    """The run cannot send more calls. What it has is safe, and running it again goes on from there."""


class Stopping(Halted):
    """A person asked the run to stop."""


class BudgetSpent(Halted):
    """Another call could overshoot the budget."""


class EndpointDown(Halted):
    """An endpoint failed so often in a row that going on would waste what the others answer."""


class BugEverywhere(Halted):
    """Unit after unit met a bug of ours (exit code 1)."""


class Misconfigured(Halted):
    """An endpoint refuses every call for a reason that only the user can mend (exit code 2)."""
