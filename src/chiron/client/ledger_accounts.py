"""The ledger's record of costs: replies, failed attempts that may be billed, and attempts in flight."""

import hashlib
import json
import math
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chiron.client.call import CUT_OFF_SQL, Call, cached_tokens
from chiron.client.ledger_store import Store, damaged

UNDER_WAY = "under_way"
"""Kind of an attempt that was sent and has not ended. It is stored with the failures until then."""
QUEUED = "queued"
"""Kind of an attempt that is, or will be, part of a batch. It outlives its process, as the batch does."""
LOST = "lost"
"""Kind of an attempt whose process died."""
LOST_WORDS = "its process was killed while it was under way"
DUPLICATE = "duplicate"
"""Kind of a second reply to a call, which a merge leaves out. Its cost is known and was paid."""
HIDDEN = " (recorded by an earlier version, without words)"
"""Shown in place of a message that must not be shown."""
SHOWN_AFTER = "words of failures may be shown after"
"""Name of a fact: ID of the last failure whose message must not be shown."""
SURPRISE = "surprise: "
"""Prefix of the names of facts that store cost overruns."""


@dataclass(frozen=True, slots=True)
class Spending:
    """Calls and costs of one model in one role, over the whole ledger."""

    model: str
    role: str
    calls: int
    copied: int
    """Number of these replies that a replay copied from another ledger."""
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    priced: bool
    """Whether ``cost_usd`` covers every call."""
    seconds: float
    retries: int
    failed: int
    """Number of failed calls; a later run may have repeated them successfully."""
    cut_off: int = 0
    """Replies ended by the token limit."""
    only_thinking: int = 0
    """Replies with thinking but no text."""


@dataclass(frozen=True, slots=True)
class CachedPrompts:
    """Prompt tokens of one model in one role that its endpoint read from a cache, over the replies that report it."""

    model: str
    role: str
    replies: int
    prompt_tokens: int
    cached_tokens: int
    saved_usd: float | None
    """``None`` if the price of cached tokens is not configured (``price.cached_input``)."""

    @property
    def share(self) -> float:
        """Hit rate: cached tokens / prompt tokens."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def words(self) -> str:
        saved = self.saved_usd
        effect = "the saving is unknown without price.cached_input" if saved is None else f"${saved:.4f} less than without"
        return (
            f"{self.role} {self.model}: {self.share:.1%} of {self.prompt_tokens:,} prompt tokens were cached by the endpoint"
            f" ({self.replies:,} replies report it); {effect}"
        )


@dataclass(frozen=True, slots=True)
class FailureReason:
    """Why calls to one model in one role failed."""

    model: str
    role: str
    words: str
    """Text that may be shown: the server's message, without keys and prompt text."""
    count: int


CALL_SUMS = (
    "COUNT(*), SUM(copied), COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(completion_tokens), 0),"
    " COALESCE(SUM(CASE WHEN copied THEN 0 ELSE cost_usd END), 0), COUNT(cost_usd), SUM(seconds), SUM(attempts - 1),"
    f" COALESCE(SUM(LOWER(finish) IN ('{CUT_OFF_SQL}')), 0), COALESCE(SUM(finish LIKE '%: only thinking'), 0)"
)
"""SQL for the sums over calls that :func:`spending_of` takes."""
_ROLES = {"mentor": 0, "intern": 1, "judge": 2}


def spending_of(calls: Mapping[tuple[str, str], Sequence[Any]], failed: Mapping[tuple[str, str], tuple[int, float]]) -> list[Spending]:
    """Return calls and costs, by role and then by model.

    Args:
        calls: by model and role, the sums of :data:`CALL_SUMS`.
        failed: by model and role, the number of failed calls and the maximum cost of failed attempts in USD.
    """
    found = []
    for model, role in {**calls, **failed}:
        number, copied, prompt, completion, cost, priced, seconds, retries, cut_off, thinking = calls.get((model, role), (0,) * 10)
        finals, lost = failed.get((model, role), (0, 0.0))
        complete = priced == number if number else lost > 0
        found.append(
            Spending(
                model, role, number, copied, prompt, completion, cost + lost, complete, float(seconds), retries, finals, cut_off, thinking
            )
        )
    return sorted(found, key=lambda spent: (_ROLES.get(spent.role, 3), spent.model))


class Accounts(Store):
    def begin_attempt(self, call: Call, cost_at_most: float, kind: str = UNDER_WAY) -> int:
        """Record the maximum cost of an attempt before it is sent. Returns its ID for :meth:`end_attempt` and :meth:`fail_attempt`.

        The provider bills an attempt even if this process is killed. The next process then finds it here.
        """
        return self.note_failure(call, kind, "", final=False, cost_at_most=cost_at_most)

    def end_attempt(self, attempt: int) -> None:
        """End an attempt that was not billed, or whose cost is recorded elsewhere."""
        self._write("DELETE FROM failures WHERE id = ?", (attempt,))

    def fail_attempt(self, attempt: int, kind: str, message: str) -> None:
        """Record that the attempt failed but may be billed."""
        self._write("UPDATE failures SET kind = ?, message = ?, failed_at = ? WHERE id = ?", (kind, message, time.time(), attempt))

    def take_over_attempts(self) -> None:
        """Mark all attempts on record as lost, since their process is dead. Call it from the one process that writes."""
        self._write("UPDATE failures SET kind = ?, message = ? WHERE kind = ?", (LOST, LOST_WORDS, UNDER_WAY))

    def queued_attempts(self) -> dict[str, tuple[int, float]]:
        """Return ID and maximum cost in USD of each attempt of :data:`QUEUED`, by key of its call."""
        rows = self._read("SELECT key, id, cost_at_most FROM failures WHERE kind = ?", (QUEUED,))
        return {key.hex(): (int(number), float(usd)) for key, number, usd in rows}

    def book_lost(self, name: str, usd: float) -> None:
        """Count money that a lost worker may have spent. Booking it again under the same ``name`` changes nothing."""
        if usd <= 0:
            return
        key = hashlib.sha256(name.encode()).digest()
        self._write(
            "INSERT INTO failures (key, role, model, kind, message, final, cost_at_most, failed_at)"
            " SELECT ?1, '-', 'lost worker', ?2, 'its worker was lost', 0, ?3, ?4 WHERE NOT EXISTS (SELECT 1 FROM failures WHERE key = ?1)",
            (key, LOST, usd, time.time()),
        )

    def lost_attempts(self) -> tuple[int, float]:
        """Return the number of attempts lost with a killed process, and their maximum cost in USD. Included in :meth:`spent_usd`."""
        ((number, usd),) = self._read("SELECT COUNT(*), COALESCE(SUM(cost_at_most), 0) FROM failures WHERE kind = ?", (LOST,))
        return int(number), float(usd)

    def note_failure(self, call: Call, kind: str, message: str, *, final: bool, cost_at_most: float = 0.0) -> int:
        """Record a failed attempt and the cost that the provider may bill for it. Returns its ID."""
        row = (bytes.fromhex(call.key), call.role, call.model, kind, message, int(final), cost_at_most, time.time())
        cursor = self._write(
            "INSERT INTO failures (key, role, model, kind, message, final, cost_at_most, failed_at) VALUES (?,?,?,?,?,?,?,?)",
            row,
        )
        return int(cursor.lastrowid or 0)

    def keep_words_from_here(self) -> None:
        """Store the ID of the last failure before now. Only later messages are shown: earlier versions stored text of the prompt."""
        self._write("INSERT OR IGNORE INTO facts SELECT ?, COALESCE(MAX(id), 0) FROM failures", (SHOWN_AFTER,))

    def shown_after(self) -> int | None:
        """Return the ID of the last failure whose message must not be shown; ``None`` if none may be shown."""
        if self._value("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'facts'") is None:
            return None
        after = self._value("SELECT value FROM facts WHERE name = ?", (SHOWN_AFTER,))
        return None if after is None else int(after)

    def failed_keys(self) -> set[str]:
        """Return the keys (hex) of calls that failed for good. A later process may have answered them."""
        return {key.hex() for (key,) in self._read("SELECT DISTINCT key FROM failures WHERE final") if isinstance(key, bytes)}

    def failure_reasons(self) -> list[FailureReason]:
        """Return the reasons of failed calls, most common first. Reasons that differ only in numbers count as one.

        For a ledger of an earlier version, failures are counted without their messages.
        """
        after = self.shown_after()
        counts: Counter[tuple[str, str, str]] = Counter()
        words: dict[tuple[str, str, str], str] = {}
        for number, model, role, kind, message in self._read("SELECT id, model, role, kind, message FROM failures WHERE final ORDER BY id"):
            shown = str(message) if after is not None and number > after else f"{kind}{HIDDEN}"
            key = (str(model), str(role), re.sub(r"\d+", "#", shown))
            counts[key] += 1
            words[key] = shown
        return [FailureReason(key[0], key[1], words[key], count) for key, count in counts.most_common()]

    def cost_overrun(self, of: str) -> float:
        """Return the stored cost overrun (see :meth:`keep_surprise`); at least 1."""
        value = self._value("SELECT value FROM facts WHERE name = ?", (SURPRISE + of,))
        try:
            times = 1.0 if value is None else float(value)
        except (TypeError, ValueError):
            times = math.nan
        if not 1.0 <= times < math.inf:
            raise damaged(self.path, "a stored cost overrun is not a number")
        return times

    def keep_surprise(self, of: str, times: float) -> None:
        """Store a cost overrun for later processes. ``of``: the model and its cost settings (``Endpoint.pricing_key``)."""
        self._write("INSERT OR REPLACE INTO facts VALUES (?,?)", (SURPRISE + of, repr(times)))

    def spent_usd(self) -> float:
        """Return the USD spent in this run: own replies, failed attempts that may be billed, and attempts in flight."""
        query = (
            "SELECT (SELECT COALESCE(SUM(cost_usd), 0) FROM calls WHERE copied = 0) + (SELECT COALESCE(SUM(cost_at_most), 0) FROM failures)"
        )
        return float(self._value(query))

    def possibly_spent_usd(self) -> float:
        """Return the part of :meth:`spent_usd` without a reply: the reservations of attempts whose cost is unknown."""
        return float(self._value("SELECT COALESCE(SUM(cost_at_most), 0) FROM failures WHERE kind <> ?", (DUPLICATE,)))

    def reply_costs(self) -> dict[tuple[str, str], float]:
        """Return the recorded cost of all replies in USD, copied ones included, by role and model. Failed attempts are not counted."""
        rows = self._read("SELECT role, model, COALESCE(SUM(cost_usd), 0) FROM calls GROUP BY role, model")
        return {(str(role), str(model)): float(usd) for role, model, usd in rows}

    def cached_prompts(self, models: object) -> list[CachedPrompts]:
        """Return how many prompt tokens endpoints read from their caches, by model and role. Reads the stored responses.

        ``models``: section of the configuration, for prices.
        """
        sums: dict[tuple[str, str], list[int]] = {}
        for model, role, prompt, raw in self._read("SELECT model, role, prompt_tokens, raw FROM calls WHERE raw LIKE '%cache%'"):
            try:
                body = json.loads(raw)
            except (TypeError, ValueError, RecursionError):
                continue
            cached = cached_tokens(body.get("usage")) if isinstance(body, dict) else None
            if cached is not None and isinstance(prompt, int):
                found = sums.setdefault((str(model), str(role)), [0, 0, 0])
                found[:] = found[0] + 1, found[1] + prompt, found[2] + min(cached, prompt)
        rows = []
        for (model, role), (replies, prompt, cached) in sorted(sums.items()):
            discount = _cache_discount(models, model)
            rows.append(CachedPrompts(model, role, replies, prompt, cached, None if discount is None else cached * discount / 1e6))
        return rows

    def spending(self) -> list[Spending]:
        """Return calls and costs by model and role."""
        failed = {
            (model, role): (finals, lost)
            for model, role, finals, lost in self._read(
                "SELECT model, role, SUM(final), SUM(cost_at_most) FROM failures GROUP BY model, role"
            )
        }
        rows = self._read(f"SELECT model, role, {CALL_SUMS} FROM calls GROUP BY model, role")  # noqa: S608 - constants
        return spending_of({(model, role): tuple(sums) for model, role, *sums in rows}, failed)


def _cache_discount(models: object, name: str) -> float | None:
    """Return what a million cached tokens of a model cost less than others; ``None`` if the configuration does not say."""
    config = models.get(name) if isinstance(models, Mapping) else None
    price = config.get("price") if isinstance(config, Mapping) else None
    known = isinstance(price, Mapping) and price.get("cached_input") is not None
    return float(price["input"]) - float(price["cached_input"]) if known and isinstance(price, Mapping) else None
