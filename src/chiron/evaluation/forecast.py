"""Forecast what an evaluation will ask: calls, tokens, cost and time, without sending anything."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from chiron.client.call import Call, Reply
from chiron.client.ledger import Ledger
from chiron.client.ledger_accounts import Spending
from chiron.client.provider import Endpoint
from chiron.evaluation.evaluation import Evaluation

STEPS = 4
"""Steps of the reasoning that a forecast assumes where interns or a reward model are asked about each step."""
_REPLIES = {
    "model": "".join(f"### Step {n}: Step {n} of the reasoning.\n" for n in range(1, STEPS + 1)) + "### The final answer is: unknown",
    "intern": "### The final answer is: unknown",
    "judge": "yes",
    "extractor": "A",
    "ranker": "50",
    "reward_model": "+",
    "grader": "Grade: 1",
}


@dataclass(frozen=True)
class RoleForecast:
    """What one model will be asked in one role."""

    role: str
    model: str
    calls: int
    """Calls that the ledgers do not have yet."""
    known: int
    """Calls that the ledgers have, which cost nothing."""
    prompt_tokens: int
    completion_tokens: int
    usd: float | None
    """``None`` if the model has no price."""
    seconds: float | None
    """At the highest concurrency and rate; ``None`` if no call was answered yet."""
    measured: int
    """Number of answered calls that tokens, cost and time are projected from. If 0, tokens and cost are upper limits."""


@dataclass(frozen=True)
class Forecast:
    """What several evaluations will ask."""

    roles: tuple[RoleForecast, ...]
    items: int
    unusable: int
    """Items that cannot be asked, such as those whose image is missing."""

    @property
    def usd(self) -> float | None:
        """Total cost; ``None`` if a model that will be asked has no price."""
        costs = [role.usd for role in self.roles if role.calls]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    @property
    def seconds(self) -> float | None:
        """Total time; ``None`` if it is unknown for a model that will be asked."""
        times = [role.seconds for role in self.roles if role.calls]
        return None if None in times else sum(time for time in times if time is not None)


def forecast(evaluations: Sequence[Evaluation]) -> Forecast:
    """Run all items of prepared evaluations against their ledgers and count the calls that are missing. Nothing is sent or written.

    A missing reply is replaced by a typical one, so that the calls of judges and interns that follow it are counted, too.

    Raises:
        InputError: a ledger is damaged.
    """
    counts = _Counts()
    for evaluation in evaluations:
        asyncio.run(_rehearse(evaluation, counts))
    roles = (counts.role(*key) for key in dict.fromkeys((*counts.missing, *counts.known)))
    return Forecast(tuple(roles), counts.items, counts.unusable)


@dataclass
class _Missing:
    endpoint: Endpoint
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0

    def add(self, call: Call) -> None:
        """Add the most that a call can take; see :meth:`Endpoint.max_cost`."""
        self.calls += 1
        self.prompt_tokens += self.endpoint.max_prompt_tokens(call)
        self.completion_tokens += call.max_tokens
        self.usd += self.endpoint.max_cost(call)


@dataclass
class _Counts:
    items: int = 0
    unusable: int = 0
    missing: dict[tuple[str, str], _Missing] = field(default_factory=dict)
    known: Counter[tuple[str, str]] = field(default_factory=Counter)
    history: list[Spending] = field(default_factory=list)

    def role(self, role: str, model: str) -> RoleForecast:
        """Project the tokens, cost and time of the missing calls from those that were answered."""
        known = self.known[role, model]
        missing = self.missing.get((role, model))
        if missing is None:
            return RoleForecast(role, model, 0, known, 0, 0, 0.0, 0.0, 0)
        price, calls = missing.endpoint.price, missing.calls
        past = [spent for spent in self.history if (spent.role, spent.model) == (role, model) and spent.calls]
        measured = sum(spent.calls for spent in past)
        prompt, completion = sum(spent.prompt_tokens for spent in past), sum(spent.completion_tokens for spent in past)
        each = sum(spent.seconds for spent in past) / measured if measured else None
        seconds = None if each is None else missing.endpoint.limiter.least_seconds(calls, each)
        if not (prompt and completion):  # some endpoints do not report tokens
            usd = missing.usd if price is not None else None
            return RoleForecast(role, model, calls, known, missing.prompt_tokens, missing.completion_tokens, usd, seconds, 0)
        prompt, completion = round(prompt / measured * calls), round(completion / measured * calls)
        usd = (prompt * price.input + completion * price.output) / 1e6 if price is not None else None
        return RoleForecast(role, model, calls, known, prompt, completion, usd, seconds, measured)


async def _rehearse(evaluation: Evaluation, counts: _Counts) -> None:
    path = evaluation.directory.ledger
    with closing(Ledger.read(path)) if path.is_file() else nullcontext() as ledger, TemporaryDirectory() as gray_images:
        if ledger is not None:
            counts.history += ledger.spending()
        seen: set[str] = set()

        async def ask(call: Call) -> Reply:
            key = call.role, call.model
            reply = ledger.get(call.key) if ledger is not None else None
            if call.key not in seen:
                seen.add(call.key)
                if reply is not None:
                    counts.known[key] += 1
                else:
                    counts.missing.setdefault(key, _Missing(evaluation.endpoints[call.model])).add(call)
            return reply if reply is not None else Reply(_REPLIES[call.role])

        asker = replace(evaluation.asker, blank=Path(gray_images))
        for unit in evaluation.units():
            counts.items += 1
            result = await asker(unit, ask)
            counts.unusable += result.reply is None
