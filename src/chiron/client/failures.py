"""Failed model calls: their exceptions without keys and prompt text, their share per model, and what a case lacks because of them."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chiron.client.call import Call, Reply
from chiron.errors import ChironError
from chiron.terminal import printable


def one_line(text: str, most: int = 300) -> str:
    """Return at most ``most`` characters of an endpoint's text, on one line and without control characters."""
    # Cut first: an error body may have megabytes.
    return printable(" ".join(text[: 4 * most].split()))[:most]


def commonest(reasons: Iterable[str]) -> str | None:
    """Return the most common reason. Reasons that differ only in numbers count as equal."""
    first: dict[str, str] = {}
    counts = Counter(key for reason in reasons if (key := re.sub(r"\d+", "#", reason)) and first.setdefault(key, reason))
    return next((first[key] for key, _ in counts.most_common(1)), None)


class CallFailed(ChironError):
    """A call that got no answer.

    The message may quote the prompt and must not be shown. ``public`` may be shown and logged: it contains neither the key nor words of the
    prompt. Both are one printable line, because they contain untrusted text from the endpoint.
    """

    kind = "failed"
    status: int | None = None
    """HTTP status of the answer, if that is why the call failed."""

    def __init__(self, message: str, *, public: str | None = None, maybe_billed: bool = False) -> None:
        """Keep the message, its public part, and whether the provider may bill the attempt."""
        super().__init__(one_line(message, 1000))
        self.public = one_line(public if public is not None else message, 600)
        self.maybe_billed = maybe_billed

    def to_record(self) -> dict[str, Any]:
        """Convert to a JSON object without words of the prompt; see :func:`failure_of`."""
        kind = next(base.__name__ for base in type(self).__mro__ if base.__name__ in _KINDS)
        return {"kind": kind, "public": self.public, "misconfigured": getattr(self, "misconfigured", False)}


class RateLimited(CallFailed):
    """The endpoint asks for fewer or later requests."""

    kind = "rate_limited"

    def __init__(self, message: str, *, retry_after: float | None = None, public: str | None = None) -> None:
        """``retry_after``: seconds to wait, if the endpoint gave a time."""
        super().__init__(message, public=public)
        self.retry_after = retry_after


class Transient(CallFailed):
    """A failure that may not repeat: a server error, a broken connection, a timeout, or an invalid reply."""

    kind = "transient"


class CallerFault(CallFailed):
    """A failure that would repeat: the call or the configuration has to change."""

    kind = "caller"

    def __init__(self, message: str, *, public: str | None = None, misconfigured: bool = False, maybe_billed: bool = False) -> None:
        """``misconfigured``: every call to the endpoint would fail, because the key, address or model name is wrong."""
        super().__init__(message, public=public, maybe_billed=maybe_billed)
        self.misconfigured = misconfigured


class Flagged(CallerFault):
    """A content filter rejected the input of this call before any model read it."""


_KINDS = {kind.__name__: kind for kind in (CallFailed, RateLimited, Transient, CallerFault, Flagged)}


def failure_of(record: Mapping[str, Any]) -> CallFailed:
    """Return the failure of a call that another process sent, from :meth:`CallFailed.to_record`."""
    failure = _KINDS[record["kind"]](record["public"], public=record["public"])
    if isinstance(failure, CallerFault):
        failure.misconfigured = record["misconfigured"]
    return failure


class RunStopped(ChironError):
    """The run cannot send more calls. Its results are safe, and running it again resumes it."""


class UserStopped(RunStopped):
    """The user asked the run to stop."""


class LeftInBatch(RunStopped):
    """The run stopped while the provider works on this call as part of a batch. The next process collects its reply."""


class Submitted(RunStopped):
    """Another system runs the rest of the job (exit code 0)."""


class BudgetSpent(RunStopped):
    """Another call could exceed the budget."""


class EndpointDown(RunStopped):
    """An endpoint failed many times in a row. Continuing would waste the replies of the other models."""


class TooManyCrashes(RunStopped):
    """Too many units crashed because of bugs in chiron (exit code 1)."""


class ConfigurationError(RunStopped):
    """An endpoint rejects every call for a reason that the user has to fix (exit code 2)."""


_MARK = "[key]"
_PROMPT = "[...]"
_WORD = re.compile(r"[^\W_]+")
_ESCAPE = re.compile(r"\\+(?:[nrt\"'/\\]|u([0-9a-fA-F]{4}))")
_RUN = 3
"""Number of consecutive words shared with the prompt that count as a quotation."""
_LONG = re.compile(r"[^\s\"'<>]{120,}")
"""Longer than any word: an image in base64."""
_QUOTED = re.compile(r"'[^']{3,}'|\"[^\"]{3,}\"|`[^`]{3,}`")
_OUR_WORDS = frozenset(
    "system user assistant text image images image_url url role roles content model max tokens json http api key error invalid request"
    " the a an this that your only no not at it in on is input message messages unsupported parameter value please".split()
)
"""Common words of requests and errors. They are kept even if the prompt contains them, since they do not identify a patient."""


def redactor(key: str | None) -> Callable[[str], str]:
    """Return a function that removes ``key`` from a text: plain, escaped in JSON (also nested JSON), in a URL, or in HTML."""
    if not key:
        return lambda text: text
    pattern = re.compile("".join(_spellings(c) for c in key))
    return lambda text: pattern.sub(_MARK, text)


def without_prompt(words: str, prompt: str) -> str:
    """Return ``words`` without quotations from ``prompt``, so that they can be shown and logged.

    Replaced with ``[...]`` are: three or more words in the order of the prompt; a quotation, name (capitalized word) or number that the
    prompt contains; and anything as long as an encoded image.
    """
    words = _LONG.sub(_PROMPT, _ESCAPE.sub(_unescaped, words))
    known = [word.casefold() for word in _WORD.findall(prompt)]
    if not known:
        return words
    runs = {tuple(known[i : i + _RUN]) for i in range(len(known) - _RUN + 1)}
    capitalized = [match for match in _WORD.finditer(prompt) if _tells(match.group())]
    names = {match.group().casefold() for match in capitalized}
    inside = {match.group().casefold() for match in capitalized if not _starts_sentence(prompt, match)}
    found = list(_WORD.finditer(words))
    plain = [match.group().casefold() for match in found]
    quoted = set(_indices_of_runs(plain, runs)) | set(_indices_of_quotations(words, found, plain, set(known)))
    quoted |= {
        i
        for i, match in enumerate(found)
        if _tells(match.group()) and (plain[i] in inside or (plain[i] in names and not _starts_sentence(words, match)))
    }
    return _blotted(words, found, quoted)


def _tells(word: str) -> bool:
    """Return whether a single word may identify a patient: a name, an abbreviation, or a number with four or more digits."""
    return word.casefold() not in _OUR_WORDS and (word[0].isupper() or sum(c.isdigit() for c in word) > 3)


def _starts_sentence(words: str, match: "re.Match[str]") -> bool:
    """Return whether a word is capitalized only because it starts a sentence."""
    before = words[max(0, match.start() - 8) : match.start()]
    plain = before.rstrip()
    return match.group()[0].isupper() and (not plain or plain[-1] in ".!?" or "\n" in before[len(plain) :])


def _indices_of_runs(plain: list[str], runs: set[tuple[str, ...]]) -> list[int]:
    return [i + k for i in range(len(plain) - _RUN + 1) if tuple(plain[i : i + _RUN]) in runs for k in range(_RUN)]


def _indices_of_quotations(words: str, found: "list[re.Match[str]]", plain: list[str], known: set[str]) -> list[int]:
    """Return the indices of quoted words that all occur in the prompt."""
    result: list[int] = []
    for quotation in _QUOTED.finditer(words):
        inside = [i for i, match in enumerate(found) if quotation.start() < match.start() < quotation.end()]
        if inside and all(plain[i] in known for i in inside) and any(plain[i] not in _OUR_WORDS for i in inside):
            result += inside
    return result


def _blotted(words: str, found: "list[re.Match[str]]", quoted: set[int]) -> str:
    pieces, at = [], 0
    for i, match in enumerate(found):
        if i not in quoted:
            continue
        if i - 1 not in quoted:
            pieces += [words[at : match.start()], _PROMPT]
        at = match.end()
    return "".join(pieces) + words[at:]


def _unescaped(match: "re.Match[str]") -> str:
    if match[1]:
        character = json.loads(f'"\\u{match[1]}"')
        return character if isinstance(character, str) and character.isprintable() else " "
    return match[0][-1] if match[0][-1] in "\"'/" else " "


def _spellings(character: str) -> str:
    code = ord(character)
    # Count the backslashes, so that a text of only backslashes is still read in linear time.
    ways = (
        rf"\\{{0,4}}{re.escape(character)}",
        rf"\\{{1,4}}[uU]00(?i:{code:02x})",
        rf"%(?i:{code:02x})",
        rf"&#0{{0,4}}{code};?",
        rf"&#[xX]0{{0,4}}(?i:{code:x});?",
    )
    return f"(?:{'|'.join(ways)})"


FEWEST = 3
"""Failed calls before a failure rate is reported."""
SMALLEST = 0.05
"""Minimum failure rate that is reported."""


@dataclass(slots=True)
class _Counts:
    answered: int = 0
    failed: int = 0
    last: str = ""


@dataclass
class FailureRates:
    """Answered and failed calls of this process, by model and temperature."""

    _counts: defaultdict[tuple[str, float], _Counts] = field(default_factory=lambda: defaultdict(_Counts))

    def answered(self, model: str, temperature: float) -> None:
        """Count a call that got its reply."""
        self._counts[model, temperature].answered += 1

    def failed(self, model: str, temperature: float, public: str) -> None:
        """Count a failed call; ``public`` is the part of the message that may be shown."""
        counts = self._counts[model, temperature]
        counts.failed += 1
        counts.last = public

    def notes(self) -> dict[str, str]:
        """One note for each model and temperature with a high failure rate."""
        found = {}
        for (model, temperature), counts in sorted(self._counts.items()):
            share = counts.failed / (counts.answered + counts.failed)
            if counts.failed >= FEWEST and share >= SMALLEST:
                found[f"{model} at {temperature:g}"] = (
                    f"{model} at temperature {temperature:g}: {share:.0%} of {counts.answered + counts.failed} calls failed and are"
                    f" missing from the scores (most recent reason: {counts.last})"
                )
        return found


CALL_FAILED = "call failed"
"""Prefix of the problem stored with a missing candidate or evaluation."""
_PENDING = "pending"
"""Outcome of an unfinished case."""


@dataclass(frozen=True, slots=True)
class Missing:
    """What a case lacks because calls failed or the judge gave no verdict. A missing evaluation is not a wrong one."""

    candidates: int = 0
    """Mentors' next steps."""
    evaluations: int = 0
    """Evaluations of candidates, whole paths and the baseline."""

    def __bool__(self) -> bool:
        return self != Missing()

    def __add__(self, other: "Missing") -> "Missing":
        return Missing(self.candidates + other.candidates, self.evaluations + other.evaluations)

    def to_json(self) -> dict[str, int]:
        return {"candidates": self.candidates, "evaluations": self.evaluations}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Missing":
        """Read the counts from a case's record. A pending case has not ended, so nothing is missing yet.

        Older records contain no counts; they are then derived from the tree.
        """
        if record.get("outcome") == _PENDING:
            return cls()
        if (known := record.get("missing")) is not None:
            return cls(known["candidates"], known["evaluations"])
        levels = [level for levels in record.get("tree") or () for level in levels]
        candidates = [c for level in levels for c in level["candidates"]]
        scores = [*candidates, *(level.get("whole_path") or {} for level in levels), record.get("baseline_score") or {}]
        return cls(
            sum(str(c.get("problem") or "").startswith(CALL_FAILED) for c in candidates),
            sum(s.get("planned", 0) - s.get("answered", 0) for s in scores),
        )


class UnitAsk:
    """An ``ask`` for one unit (a case, a row, an item)."""

    def __init__(self, ask: Callable[[Call], Awaitable[Reply]]) -> None:
        self._ask = ask
        self._failed = self._refused = 0
        self.waiting = 0
        """Calls without an answer yet."""

    async def __call__(self, call: Call) -> Reply:
        self.waiting += 1
        try:
            return await self._ask(call)
        except CallFailed as failure:
            self._failed += 1
            self._refused += isinstance(failure, CallerFault)
            raise
        finally:
            self.waiting -= 1

    @property
    def is_refused(self) -> bool:
        """Whether calls failed and all of them would fail again, so that rerunning this unit does not help."""
        return 0 < self._refused == self._failed
