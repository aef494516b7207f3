"""Forecast what jobs will ask: calls, tokens, cost and time, without sending anything."""

import asyncio
import math
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist, fmean, variance
from typing import Any, Final

from chiron.client.call import Ask, Call, Reply
from chiron.client.config import Price
from chiron.client.ledger import Ledger
from chiron.client.ledger_accounts import Spending
from chiron.client.provider import Endpoint

STEPS: Final = 4
"""Steps of a reasoning that is not in the ledger."""
REASONING: Final = "".join(f"### Step {n}: Step {n} of the reasoning.\n" for n in range(1, STEPS + 1)) + "### The final answer is: unknown"
CONFIDENCE: Final = 0.95
"""Of the interval that is projected from answered units."""
FEWEST: Final = 3
"""Fewest answered units that an interval is projected from."""
_ROUNDING: Final = 1e-9
"""Relative difference of sums of the same costs."""
RoleKey = tuple[str, str]
"""Role and model."""


@dataclass(frozen=True)
class Rehearsal:
    """How to run a job without sending and storing anything."""

    ledger: Path
    endpoints: Mapping[str, Endpoint]
    units: Iterable[Any]
    run: Callable[[Any, Ask], Awaitable[bool]]
    """Runs a unit and returns whether it can be asked."""
    typical: Ask
    """Gives the replies that the ledger does not have."""
    least: Mapping[RoleKey, int] | None = None
    """Fewest calls for one unit if all replies are readable; by default, as many as with the typical replies."""
    most: Mapping[RoleKey, int] | None = None
    """Most calls for one unit; by default, as many as with the typical replies."""
    growth: Mapping[str, int] = field(default_factory=dict)
    """By role: tokens by which a prompt may exceed those of the rehearsal, because it contains a reply."""


@dataclass(frozen=True)
class RoleForecast:
    """What one model will be asked in one role."""

    role: str
    model: str
    calls: int
    """Calls that the ledgers do not have yet."""
    calls_at_least: int
    calls_at_most: int
    known: int
    """Calls that the ledgers have, which cost nothing."""
    prompt_tokens: int
    completion_tokens: int
    usd: float | None
    """``None`` if the model has no price."""
    usd_at_least: float | None
    """``None`` if no call was answered yet, or the model has no price."""
    usd_at_most: float | None
    """``None`` if the model has no price."""
    seconds: float | None
    """At the highest concurrency and rate; ``None`` if no call was answered yet, or the model is asked through batches."""
    measured: int
    """Number of answered calls that tokens, cost and time are projected from. If 0, tokens and cost are upper limits."""


@dataclass(frozen=True)
class Forecast:
    """What several jobs will ask."""

    roles: tuple[RoleForecast, ...]
    items: int
    unusable: int
    """Units that cannot be asked, such as those whose image is missing."""
    answered: int
    """Units whose calls are all in the ledgers. From three on, the ranges of calls and costs are 95 % intervals projected from them."""

    @property
    def usd(self) -> float | None:
        """Total cost; ``None`` if a model that will be asked has no price."""
        return self._total([role.usd for role in self.roles if role.calls])

    @property
    def usd_at_least(self) -> float | None:
        return self._total([role.usd_at_least for role in self.roles if role.calls_at_most])

    @property
    def usd_at_most(self) -> float | None:
        return self._total([role.usd_at_most for role in self.roles if role.calls_at_most])

    @property
    def seconds(self) -> float | None:
        """Total time; ``None`` if it is unknown for a model that will be asked."""
        return self._total([role.seconds for role in self.roles if role.calls])

    @staticmethod
    def _total(values: Sequence[float | None]) -> float | None:
        return None if None in values else math.fsum(value for value in values if value is not None)


def forecast(rehearsals: Sequence[Rehearsal]) -> Forecast:
    """Run all units of prepared jobs against their ledgers and count the calls that are missing. Nothing is sent or written.

    A missing reply is replaced by a typical one, so that the calls that follow it are counted, too. If enough units are answered
    completely, the calls of the others are projected from them instead.

    Raises:
        InputError: a ledger is damaged.
    """
    counts = _Counts()
    for rehearsal in rehearsals:
        asyncio.run(_rehearse(rehearsal, counts))
    keys = dict.fromkeys((*counts.missing, *counts.known))
    return Forecast(tuple(counts.role(key) for key in keys), counts.items, counts.unusable, len(counts.answered))


@dataclass
class _Missing:
    endpoint: Endpoint
    growth: int
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    dearest: float = 0.0

    def add(self, call: Call) -> None:
        """Add the most that a call can take; see :meth:`Endpoint.max_cost`."""
        cost, price = self.endpoint.max_cost(call), self.endpoint.price
        self.calls += 1
        self.prompt_tokens += self.endpoint.max_prompt_tokens(call)
        self.completion_tokens += call.max_tokens
        self.usd += cost
        self.dearest = max(self.dearest, cost + (self.growth * price.input / 1e6 if price is not None else 0.0))


@dataclass
class _Counts:
    items: int = 0
    unusable: int = 0
    open_units: int = 0
    """Units with a missing call."""
    missing: dict[RoleKey, _Missing] = field(default_factory=dict)
    known: Counter[RoleKey] = field(default_factory=Counter)
    known_of_open: Counter[RoleKey] = field(default_factory=Counter)
    """Known calls of units with a missing call."""
    least: Counter[RoleKey] = field(default_factory=Counter)
    most: Counter[RoleKey] = field(default_factory=Counter)
    answered: list[Counter[RoleKey]] = field(default_factory=list)
    """New calls of each unit without a missing call."""
    shared: set[RoleKey] = field(default_factory=set)
    """Roles with calls that several units have in common: later units may need fewer than earlier ones."""
    bounded: bool = False
    """Whether the number of calls depends on the replies."""
    history: list[Spending] = field(default_factory=list)
    paid: defaultdict[RoleKey, float] = field(default_factory=lambda: defaultdict(float))
    """Recorded USD of the answered calls."""

    def remember(self, ledger: Ledger) -> None:
        self.history += ledger.spending()
        for key, usd in ledger.reply_costs().items():
            self.paid[key] += usd

    def calls(self, key: RoleKey) -> tuple[int, int, int]:
        """Return the fewest, the expected and the most missing calls of a role."""
        missing = self.missing.get(key)
        rehearsed = missing.calls if missing is not None else 0
        if not self.bounded:
            return rehearsed, rehearsed, rehearsed
        known = self.known_of_open[key]
        highest = max(0, self.most[key] - known)
        if len(self.answered) < FEWEST or not self.open_units:
            return min(rehearsed, max(0, self.least[key] - known)), rehearsed, max(rehearsed, highest)
        low, expected, high = _project([unit[key] for unit in self.answered], self.open_units)
        # Ends are rounded outwards. No projection exceeds what a unit can ask.
        ends = (math.floor(low) - known, round(expected) - known, min(math.ceil(high) - known, highest))
        return 0 if key in self.shared else max(0, ends[0]), max(0, min(ends[1], highest)), max(0, ends[2])

    def role(self, key: RoleKey) -> RoleForecast:
        """Project the tokens, cost and time of the missing calls from those that were answered."""
        role, model = key
        least, calls, most = self.calls(key)
        known, missing = self.known[key], self.missing.get(key)
        if missing is None or not most:
            return RoleForecast(role, model, 0, 0, 0, known, 0, 0, 0.0, 0.0, 0.0, 0.0, 0)
        price = missing.endpoint.price
        past = [spent for spent in self.history if (spent.role, spent.model) == key and spent.calls]
        measured = sum(spent.calls for spent in past)
        prompt, completion = sum(spent.prompt_tokens for spent in past), sum(spent.completion_tokens for spent in past)
        each = sum(spent.seconds for spent in past) / measured if measured else None
        timed = each is not None and missing.endpoint.batch is None
        seconds = missing.endpoint.limiter.least_seconds(calls, each or 0.0) if timed else None
        if not (prompt and completion):  # some endpoints do not report tokens
            share = calls / missing.calls if missing.calls else 0.0
            tokens = round(missing.prompt_tokens * share), round(missing.completion_tokens * share)
            usd = None if price is None else missing.usd * share
            at_most = None if price is None else max(missing.usd * share, most * missing.dearest)
            at_least = 0.0 if price is not None and not (price.input or price.output) else None
            return RoleForecast(role, model, calls, least, most, known, *tokens, usd, at_least, at_most, seconds, 0)
        tokens = round(prompt / measured * calls), round(completion / measured * calls)
        a_call = None if price is None else _cost_of(price, prompt, completion, self.paid[key]) / measured
        usd, at_least, at_most = (None if a_call is None else number * a_call for number in (calls, least, most))
        return RoleForecast(role, model, calls, least, most, known, *tokens, usd, at_least, at_most, seconds, measured)


def _cost_of(price: Price, prompt: int, completion: int, paid: float) -> float:
    """Return what answered calls cost in USD: as recorded, because some prompt tokens may have been cached.

    If the record does not fit the price, the calls had another price or none. Then no token counts as cached.
    """
    uncached = (prompt * price.input + completion * price.output) / 1e6
    least = uncached - prompt * price.cache_discount / 1e6
    return paid if least * (1 - _ROUNDING) <= paid <= uncached * (1 + _ROUNDING) else uncached


def _project(counts: Sequence[int], units: int) -> tuple[float, float, float]:
    """Return the expected total over further units, with the ends of its prediction interval."""
    mean, number = fmean(counts), len(counts)
    error = math.sqrt(variance(counts) * (units + units**2 / number))
    reach = student_quantile(number - 1) * error
    return mean * units - reach, mean * units, mean * units + reach


def student_quantile(freedom: int) -> float:
    """Return the quantile of Student's distribution for a two-sided interval, to 1 %, from two degrees of freedom on.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5. Without scipy, which a search does not need.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, start=1))


async def _rehearse(rehearsal: Rehearsal, counts: _Counts) -> None:
    path = rehearsal.ledger
    counts.bounded = counts.bounded or rehearsal.most is not None
    for role, model in rehearsal.most or ():
        counts.missing.setdefault((role, model), _Missing(rehearsal.endpoints[model], rehearsal.growth.get(role, 0)))
    with closing(Ledger.read(path)) if path.is_file() else nullcontext() as ledger:
        if ledger is not None:
            counts.remember(ledger)
        seen: set[str] = set()
        for unit in rehearsal.units:
            of_unit: Counter[RoleKey] = Counter()
            before = sum(missing.calls for missing in counts.missing.values())
            asked: set[str] = set()

            async def ask(call: Call, of_unit: Counter[RoleKey] = of_unit, asked: set[str] = asked) -> Reply:
                key = call.role, call.model
                reply = ledger.get(call.key) if ledger is not None else None
                if call.key in seen:
                    if call.key not in asked:
                        counts.shared.add(key)
                elif reply is not None:
                    of_unit[key] += 1
                    counts.known[key] += 1
                else:
                    growth = rehearsal.growth.get(call.role, 0)
                    counts.missing.setdefault(key, _Missing(rehearsal.endpoints[call.model], growth)).add(call)
                asked.add(call.key)
                seen.add(call.key)
                return reply if reply is not None else await rehearsal.typical(call)

            counts.items += 1
            usable = await rehearsal.run(unit, ask)
            counts.unusable += not usable
            if not asked:
                continue
            if sum(missing.calls for missing in counts.missing.values()) == before:
                counts.answered.append(of_unit)
                continue
            counts.open_units += 1
            counts.known_of_open += of_unit
            counts.least += Counter(rehearsal.least or {})
            counts.most += Counter(rehearsal.most or {})
