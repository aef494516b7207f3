"""Search with the replies of an old ledger only: what a replay needs, and what another policy would have asked, without a call."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from chiron.cases.case import BadCase
from chiron.cases.images import ImageProblem
from chiron.client.call import Call, Reply
from chiron.client.failures import RunStopped, Transient
from chiron.client.ledger import Ledger
from chiron.errors import InputError
from chiron.mics.result import SearchResult
from chiron.mics.search import search
from chiron.mics.setup import SearchSetup
from chiron.mics.team import most_calls

RESAMPLES: Final = 2000
_LISTS: Final = ("mentors", "interns", "temperatures")
_SHORT: Final = {"full": "evaluation", "adaptive": "evaluation", "halving": "evaluation", "paper": "policy", "verified": "policy"}
_ROLES: Final = ("mentor", "intern", "judge")


class _NotAnswered(RunStopped):
    """Raised for a call that is not in the old ledger."""


@dataclass
class ReplayedCase:
    """One case, searched with stored replies."""

    case_id: str
    result: SearchResult | None = None
    """``None`` if a reply is not in the ledger."""
    known: dict[str, tuple[Call, Reply]] = field(default_factory=dict)
    """Calls that the ledger answers, by key."""
    new: dict[str, Call] = field(default_factory=dict)
    """Calls that it does not answer. Their replies may lead to further calls."""


async def replay_cases(setup: SearchSetup, ledger: Ledger, failed: frozenset[str] = frozenset()) -> AsyncIterator[ReplayedCase]:
    """Search every usable case with the replies of a ledger only.

    Args:
        setup: cases, team and rules.
        ledger: the replies.
        failed: keys of calls that failed for good; they count as missing replies, as in the run that recorded them.
    """
    for _, case in setup.selection:
        if isinstance(case, BadCase):
            continue
        try:
            pictures = setup.load_images(case, hold=False)
        except ImageProblem:
            continue
        replayed = ReplayedCase(case.id)

        async def ask(call: Call, into: ReplayedCase = replayed) -> Reply:
            reply = ledger.get(call.key)
            if reply is not None:
                into.known[call.key] = call, reply
                return reply
            if call.key in failed:
                raise Transient("failed in the recorded run")
            into.new[call.key] = call
            raise _NotAnswered

        with suppress(_NotAnswered):
            replayed.result = await search(case, setup.team, ask, setup.policy, prompts=setup.prompts, pictures=pictures)
        yield replayed


@dataclass(frozen=True)
class ReplayCalls:
    """Forecast of a replay's calls, based on the old ledger."""

    cases: int
    complete: int
    """Cases that the old ledger answers completely."""
    known_calls: int
    """Distinct calls answered by the old ledger."""
    new_calls_at_least: int
    """Distinct calls not in the old ledger. Their replies may lead to further calls."""
    new_calls_at_most: int
    """Upper bound: every incomplete case needs all calls that a search can make."""


async def rehearse(setup: SearchSetup, ledger: Path) -> ReplayCalls:
    """Search with the replies of an old ledger only, and count the missing calls.

    Raises:
        InputError: the ledger does not exist.
    """
    known: set[str] = set()
    new: set[str] = set()
    cases = complete = 0
    with Ledger.read(ledger) as old:
        async for case in replay_cases(setup, old):
            cases, complete = cases + 1, complete + (case.result is not None)
            known.update(case.known)
            new.update(case.new)
    most = (cases - complete) * sum(most_calls(setup.team, setup.policy).values())
    return ReplayCalls(cases, complete, len(known), len(new), max(most, len(new)))


@dataclass(frozen=True)
class Figure:
    """One figure of a forecast, over the cases that can be priced. Intervals: 95 %, bootstrap over cases."""

    name: str
    recorded: float
    """Sum under the recorded policy."""
    forecast: float
    """Sum under the other policy."""
    per_case: float
    per_case_interval: tuple[float, float]
    change: float | None
    """``forecast / recorded - 1``; ``None`` if ``recorded`` is 0."""
    change_interval: tuple[float, float] | None


@dataclass(frozen=True)
class ReplayForecast:
    """What another policy would have asked in a run. It covers only cases whose replies are all in the ledger."""

    cases: int
    priced: int
    """Cases whose replies are all in the ledger, under both policies."""
    figures: tuple[Figure, ...]
    same_paths: float | None
    """Share of these cases that end with the same path, or both without one."""
    same_paths_interval: tuple[float, float] | None
    retained_recorded: int
    retained_forecast: int
    unpriced: tuple[str, ...]
    """Figures that are not known, because an endpoint reported no tokens or a model has no price."""
    unknown: dict[str, int]
    """First replies that the ledger does not have: role, model and temperature, with the number of cases."""

    @property
    def unknown_share(self) -> float:
        """Share of the cases that cannot be priced."""
        return 1 - self.priced / self.cases if self.cases else 0.0


def forecast_overrides(changes: Iterable[str]) -> dict[str, Any]:
    """Parse the changes of a policy: a word (``adaptive``, ``halving``, ``full``, ``paper``, ``verified``) or ``KEY=VALUE``.

    Raises:
        InputError: neither of them.
    """
    overrides: dict[str, Any] = {}
    for change in changes:
        key, equals, value = (part.strip() for part in change.partition("="))
        if not equals and key in _SHORT:
            overrides[_SHORT[key]] = key
        elif equals and key and value:
            overrides[key] = [one.strip() for one in value.split(",")] if key in _LISTS else value
        else:
            raise InputError(
                f"unknown policy '{change}' (--forecast): choose one of {', '.join(_SHORT)}, or write KEY=VALUE with a key of the"
                " section search, such as depth=2 or interns=NAME,NAME"
            )
    return overrides


async def forecast(recorded: SearchSetup, other: SearchSetup, ledger: Path) -> ReplayForecast:
    """Forecast the calls, tokens and cost of another policy from a run's ledger. Nothing is sent or written.

    Args:
        recorded: the run as it was searched.
        other: the same cases with another policy.
        ledger: the run's ledger.

    Raises:
        InputError: the ledger does not exist or is damaged.
    """
    unknown: Counter[str] = Counter()
    pairs: list[tuple[_Priced, _Priced]] = []
    with Ledger.read(ledger) as replies:
        failed = frozenset(replies.failed_keys())
        before = [_priced(case) async for case in replay_cases(recorded, replies, failed)]
        after = [_priced(case) async for case in replay_cases(other, replies, failed)]
    for first, second in zip(before, after, strict=True):
        if isinstance(first, _Priced) and isinstance(second, _Priced):
            pairs.append((first, second))
        else:
            unknown[first if isinstance(first, str) else str(second)] += 1
    return _forecast_of(len(before), pairs, dict(unknown.most_common()))


@dataclass(frozen=True, slots=True)
class _Priced:
    """What a forecast keeps of a case, so that a large run fits into memory."""

    retained: bool
    path: tuple[str, ...] | None
    """The retained path."""
    figures: tuple[float, ...]
    """By ``_MEASURES``; NaN if not known."""


def _priced(case: ReplayedCase) -> _Priced | str:
    """Measure a case, or name the first reply that the ledger does not have."""
    result = case.result
    if result is None:
        call = next(iter(case.new.values()))
        return f"{call.role} {call.model} at temperature {call.temperature:g}"
    path = result.path.steps if result.retained and result.path is not None else None
    return _Priced(result.retained, path, tuple(measure(case) for _, measure in _MEASURES))


_Measure = Callable[[ReplayedCase], float]


def _sum_of(value: Callable[[Reply], float | None]) -> _Measure:
    def measure(case: ReplayedCase) -> float:
        values = [value(reply) for _, reply in case.known.values()]
        return float(sum(v for v in values if v is not None)) if None not in values else float("nan")

    return measure


def _calls_of(role: str) -> _Measure:
    return lambda case: sum(call.role == role for call, _ in case.known.values())


_MEASURES: Final[tuple[tuple[str, _Measure], ...]] = (
    ("calls", lambda case: len(case.known)),
    *((f"{role} calls", _calls_of(role)) for role in _ROLES),
    ("tokens in", _sum_of(lambda reply: reply.usage.prompt_tokens)),
    ("tokens out", _sum_of(lambda reply: reply.usage.completion_tokens)),
    ("USD", _sum_of(lambda reply: reply.cost_usd)),
)


def _forecast_of(cases: int, pairs: Sequence[tuple[_Priced, _Priced]], unknown: dict[str, int]) -> ReplayForecast:
    same = np.array([first.path == second.path for first, second in pairs], dtype=float)
    retained = [sum(case.retained for case in side) for side in zip(*pairs, strict=True)] or [0, 0]
    values = {
        name: np.array([[one.figures[number] for one in pair] for pair in pairs], dtype=float).T
        for number, (name, _) in enumerate(_MEASURES)
    }
    known = {name: value for name, value in values.items() if pairs and not np.isnan(value).any()}
    drawn = _resampled([same, *(row for value in known.values() for row in value)]) if pairs else np.zeros((0, 0))
    figures = [
        _figure(name, value, drawn[1 + 2 * number], drawn[2 + 2 * number], len(pairs)) for number, (name, value) in enumerate(known.items())
    ]
    return ReplayForecast(
        cases=cases,
        priced=len(pairs),
        figures=tuple(figures),
        same_paths=float(same.mean()) if pairs else None,
        same_paths_interval=_interval(drawn[0] / len(pairs)) if pairs else None,
        retained_recorded=retained[0],
        retained_forecast=retained[1],
        unpriced=tuple(name for name in values if pairs and name not in known),
        unknown=unknown,
    )


def _resampled(rows: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Return the sums of each row over resampled cases: ``(rows, RESAMPLES)``."""
    table, chance = np.array(rows), np.random.default_rng(0)
    count = table.shape[1]
    return np.array([table[:, chance.integers(count, size=count)].sum(axis=1) for _ in range(RESAMPLES)]).T


def _interval(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _figure(name: str, sums: Any, recorded: Any, other: Any, cases: int) -> Figure:
    before, after = float(sums[0].sum()), float(sums[1].sum())
    positive = recorded > 0
    change = after / before - 1 if before else None
    interval = _interval(other[positive] / recorded[positive] - 1) if before else None
    return Figure(name, before, after, after / cases, _interval(other / cases), change, interval)
