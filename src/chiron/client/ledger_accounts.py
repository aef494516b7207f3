"""The part of a ledger that knows what was paid, and what may have been: attempts that failed, and attempts under way."""

import math
import re
import time
from collections import Counter
from dataclasses import dataclass

from chiron.client.call import Call
from chiron.client.finish_reasons import CUT_OFF_SQL
from chiron.client.ledger_store import Store, damaged

_UNDER_WAY = "under_way"
"""The kind of an attempt that was sent and has not come back; kept among the failures until it does."""
_LOST = "lost"
"""The kind of one whose process died first."""
_SHOWN_AFTER = "words of failures may be shown after"
"""The name of a fact: the last failure whose words may not."""
_SURPRISE = "surprise: "
"""Begins the names of such facts."""


@dataclass(frozen=True, slots=True)
class Spending:
    """What one model was asked in one role, summed over the ledger."""

    model: str
    role: str
    calls: int
    copied: int
    """Of these, replies that a replay took over from another ledger."""
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    priced: bool
    """Whether ``cost_usd`` covers every call."""
    seconds: float
    retries: int
    failed: int
    """How often a call got no answer in the end; a later run may have got it."""
    cut_off: int = 0
    """Replies that the token limit ended."""
    only_thinking: int = 0
    """Replies that have thinking and no text."""


@dataclass(frozen=True, slots=True)
class FailureReason:
    """Why calls to one model in one role got no answer."""

    model: str
    role: str
    words: str
    """What may be shown: the server's words, without keys and without the prompt."""
    count: int


class Accounts(Store):
    """What calls cost."""

    def begin_attempt(self, call: Call, cost_at_most: float) -> int:
        """Record, before it is sent, what an attempt may cost; the number is for :meth:`end_attempt` and its like.

        A process that is killed cannot say what it had under way, but the provider bills it: whoever opens the ledger next finds it here.

        Raises:
            DiskError: the disk took it not.
        """
        return self._insert(call, _UNDER_WAY, "", final=False, cost_at_most=cost_at_most)

    def end_attempt(self, attempt: int) -> None:
        """The attempt was not billed, or its cost stands elsewhere."""
        self._write("DELETE FROM failures WHERE id = ?", (attempt,))

    def fail_attempt(self, attempt: int, kind: str, message: str) -> None:
        """The attempt failed, and may be billed all the same."""
        self._write("UPDATE failures SET kind = ?, message = ?, failed_at = ? WHERE id = ?", (kind, message, time.time(), attempt))

    def take_over_attempts(self) -> None:
        """Whatever is under way on record was so in a process that is dead; to be called by the one that writes now."""
        self._write(
            "UPDATE failures SET kind = ?, message = 'its process was killed while it was under way' WHERE kind = ?", (_LOST, _UNDER_WAY)
        )

    def lost_attempts(self) -> tuple[int, float]:
        """How many attempts were under way when a process died, and what they cost at most, in USD. Part of :meth:`spent_usd`."""
        row = self._read_one("SELECT COUNT(*), COALESCE(SUM(cost_at_most), 0) FROM failures WHERE kind = ?", (_LOST,))
        return (0, 0.0) if row is None else (int(row[0]), float(row[1]))

    def note_failure(self, call: Call, kind: str, message: str, *, final: bool, cost_at_most: float = 0.0) -> None:
        """Record an attempt that failed: for the counts, and for what a provider may bill all the same."""
        self._insert(call, kind, message, final=final, cost_at_most=cost_at_most)

    def keep_words_from_here(self) -> None:
        """Remember from which failure on the recorded words may be shown: earlier versions recorded what the prompt said, too.

        Raises:
            DiskError: the disk took it not.
        """
        self._write("INSERT OR IGNORE INTO facts SELECT ?, COALESCE(MAX(id), 0) FROM failures", (_SHOWN_AFTER,))

    def failure_reasons(self) -> list[FailureReason]:
        """Why calls got no answer in the end, the commonest first; words that differ in numbers only are one reason.

        A ledger of an earlier version has its failures counted without their words.
        """
        known = self._read_one("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'facts'")
        row = self._read_one("SELECT value FROM facts WHERE name = ?", (_SHOWN_AFTER,)) if known is not None else None
        counts: Counter[tuple[str, str, str]] = Counter()
        words: dict[tuple[str, str, str], str] = {}
        for number, model, role, kind, message in self._read("SELECT id, model, role, kind, message FROM failures WHERE final ORDER BY id"):
            shown = str(message) if row is not None and number > int(row[0]) else f"{kind} (recorded by an earlier version, without words)"
            key = (str(model), str(role), re.sub(r"\d+", "#", shown))
            counts[key] += 1
            words[key] = shown
        return [FailureReason(key[0], key[1], words[key], count) for key, count in counts.most_common()]

    def cost_overrun(self, of: str) -> float:
        """How many times more than was thought possible a reply of such calls once cost, as :meth:`keep_surprise` was told; at least 1.

        Raises:
            InputError: the ledger is damaged.
        """
        row = self._read_one("SELECT value FROM facts WHERE name = ?", (_SURPRISE + of,))
        try:
            times = 1.0 if row is None else float(row[0])
        except (TypeError, ValueError):
            times = math.nan
        if not 1.0 <= times < math.inf:
            raise damaged(self.path, "its greatest surprise is no number")
        return times

    def keep_surprise(self, of: str, times: float) -> None:
        """Keep for later processes what :meth:`surprise` says; ``of`` names whose calls, and by what their cost was bounded.

        Raises:
            DiskError: the disk took it not.
        """
        self._write("INSERT OR REPLACE INTO facts VALUES (?,?)", (_SURPRISE + of, repr(times)))

    def _insert(self, call: Call, kind: str, message: str, *, final: bool, cost_at_most: float) -> int:
        row = (bytes.fromhex(call.key), call.role, call.model, kind, message, int(final), cost_at_most, time.time())
        cursor = self._write(
            "INSERT INTO failures (key, role, model, kind, message, final, cost_at_most, failed_at) VALUES (?,?,?,?,?,?,?,?)",
            row,
        )
        return int(cursor.lastrowid or 0)

    def spent_usd(self) -> float:
        """Paid in this run: replies of its own; attempts that a provider may bill without having answered; and those under way."""
        row = self._read_one(
            "SELECT (SELECT COALESCE(SUM(cost_usd), 0) FROM calls WHERE copied = 0), (SELECT COALESCE(SUM(cost_at_most), 0) FROM failures)"
        )
        return 0.0 if row is None else float(row[0] + row[1])

    def possibly_spent_usd(self) -> float:
        """Of :meth:`spent_usd`, what no reply stands for: it was set aside for attempts whose bill nobody knows."""
        row = self._read_one("SELECT COALESCE(SUM(cost_at_most), 0) FROM failures")
        return 0.0 if row is None else float(row[0])

    def spending(self) -> list[Spending]:
        """By model and role."""
        failed = {
            (model, role): (finals, lost)
            for model, role, finals, lost in self._read(
                "SELECT model, role, SUM(final), SUM(cost_at_most) FROM failures GROUP BY model, role"
            )
        }
        rows = self._read(
            "SELECT model, role, COUNT(*), SUM(copied), COALESCE(SUM(prompt_tokens),0), COALESCE(SUM(completion_tokens),0),"  # noqa: S608 - the words are ours
            " COALESCE(SUM(CASE WHEN copied THEN 0 ELSE cost_usd END),0), COUNT(cost_usd) = COUNT(*),"
            f" SUM(seconds), SUM(attempts-1), SUM(LOWER(finish) IN ('{CUT_OFF_SQL}')), SUM(finish LIKE '%: only thinking')"
            " FROM calls GROUP BY model, role"
        )
        found = {}
        for model, role, calls, copied, prompt, completion, cost, priced, seconds, retries, cut_off, thinking in rows:
            finals, lost = failed.pop((model, role), (0, 0.0))
            found[model, role] = Spending(
                model, role, calls, copied, prompt, completion, cost + lost, bool(priced), seconds, retries, finals, cut_off, thinking
            )
        for (model, role), (finals, lost) in failed.items():
            found[model, role] = Spending(model, role, 0, 0, 0, 0, lost, lost > 0, 0.0, 0, finals)
        order = {"mentor": 0, "intern": 1, "judge": 2}
        return [found[k] for k in sorted(found, key=lambda k: (order.get(k[1], 3), k[0]))]
