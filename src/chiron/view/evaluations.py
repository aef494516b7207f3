"""Items of evaluations with every model's answer, grouped for the page."""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from chiron.evaluation.comparing import compare
from chiron.evaluation.items import ItemResult, Verdict
from chiron.evaluation.read_runs import REAL, Evaluated, image_folders, read_evaluations
from chiron.evaluation.tables.content import grids
from chiron.evaluation.tables.formats import Grid
from chiron.view.model_states import EvaluationState
from chiron.view.states import Signature

_KEPT = 4
"""Comparisons kept in memory."""
PATIENCE = 5.0
"""Seconds that a request waits for a comparison."""
_OPEN = {Verdict.UNJUDGED, Verdict.UNUSABLE, Verdict.PENDING}
FILTERS = ("all", "wrong", "unparsed", "unanswered", "disagree")
"""Which items to show."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One model's answer to an item."""

    model: str
    run: str
    """Id of the run."""
    line: int
    """Line of ``items.jsonl``, from 0."""
    result: ItemResult


@dataclass(frozen=True, slots=True)
class AskedItem:
    """An item under one protocol and control, with the answers of all models and seeds."""

    first: ItemResult
    answers: list[Answer]

    def fits(self, kind: str, benchmark: str, words: Sequence[str]) -> bool:
        """Return whether the item belongs to a filter, a benchmark and a search."""
        verdicts = [answer.result.verdict for answer in self.answers]
        kinds = {
            "wrong": Verdict.WRONG in verdicts,
            "unparsed": Verdict.UNPARSED in verdicts,
            "unanswered": any(verdict in _OPEN for verdict in verdicts),
            "disagree": len({verdict == Verdict.RIGHT for verdict in verdicts}) > 1,
        }
        if not kinds.get(kind, True) or (benchmark and self.first.benchmark != benchmark):
            return False
        return all(word in self.text for word in words) if words else True

    @property
    def name(self) -> str:
        return f"{self.first.benchmark}/{self.first.id}"

    @property
    def text(self) -> str:
        """Everything that a search looks at, in lower case."""
        said = [f"{a.result.given or ''} {a.result.reply or ''} {a.result.problem}" for a in self.answers]
        first = self.first
        return " ".join(map(str, [first.id, first.question, *first.options, first.answer, *first.labels.values(), *said])).lower()


@dataclass(frozen=True)
class Comparison:
    """Models that answered benchmarks, side by side."""

    models: list[Evaluated]
    tables: list[Grid]
    items: dict[str, list[AskedItem]]
    """Items by control."""
    folders: dict[str, Path]
    """Image folder by benchmark."""
    verdicts: list[tuple[str, Counter[str]]]
    """Verdicts of the real run, by model."""

    @property
    def benchmarks(self) -> list[str]:
        """Benchmarks in order of appearance."""
        return list(dict.fromkeys(item.first.benchmark for items in self.items.values() for item in items))


class StillReading(Exception):
    """A comparison is not finished yet."""

    def __init__(self, states: Sequence[EvaluationState]) -> None:
        super().__init__(", ".join(state.place.name for state in states))


_Known = tuple[tuple[Signature, ...], Future[Comparison]]
"""Signatures of the runs when their reading began, and the comparison."""


@dataclass
class Comparisons:
    """The last comparisons, each read again when one of its runs changes. Reading continues when the request that began it ends."""

    changed: Callable[[], None] = lambda: None
    """Called when a comparison is finished that a request did not wait for."""
    _known: OrderedDict[tuple[str, ...], _Known] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def get(self, states: Sequence[EvaluationState]) -> Comparison:
        """Return the comparison of some evaluations.

        Raises:
            InputError: one of them cannot be read.
            StillReading: they are large; ask again later.
        """
        until = time.monotonic() + PATIENCE
        now = tuple(state.signature()[1:] for state in states)
        known = self._wait(states, now, until)
        if known is None:
            raise StillReading(states)
        if known[0] != now:
            # A run changed while it was read. If reading again takes long, the page shows the earlier content and then loads again.
            known = self._wait(states, now, until) or known
        return known[1].result()

    def _wait(self, states: Sequence[EvaluationState], now: tuple[Signature, ...], until: float) -> _Known | None:
        """Return what is known or being read, when its reading has ended; ``None`` and a later call of :attr:`changed` if it lasts."""
        key = tuple(state.place.id for state in states)
        with self._lock:
            known = self._known.get(key)
            # One that is being read is finished first, also if its runs change: otherwise a running evaluation is never shown.
            if known is None or (known[0] != now and known[1].done()):
                self._known[key] = known = (now, _begin(states))
            self._known.move_to_end(key)
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        future = known[1]
        if not wait([future], max(0.0, until - time.monotonic())).done:
            future.add_done_callback(lambda _: self.changed())
            return None
        if future.exception() is not None:
            # The next request reads again: what was wrong may be fixed without a change of the files, such as their permissions.
            with self._lock:
                if self._known.get(key) is known:
                    del self._known[key]
        return known

    def folder(self, state: EvaluationState, benchmark: str) -> Path | None:
        """Return the image folder of a benchmark, from any comparison with this evaluation; errors as in :meth:`get`."""
        with self._lock:
            with_it = [future for key, (_, future) in self._known.items() if state.place.id in key]
        done = [future.result() for future in with_it if future.done() and future.exception() is None]
        return next((found.folders[benchmark] for found in done if benchmark in found.folders), None) or self.get([state]).folders.get(
            benchmark
        )


def _begin(states: Sequence[EvaluationState]) -> Future[Comparison]:
    """Read in a daemon thread, which does not delay the end of the server."""
    future: Future[Comparison] = Future()

    def work() -> None:
        try:
            future.set_result(_read(states))
        except BaseException as problem:  # noqa: BLE001 - raised by the request
            future.set_exception(problem)

    threading.Thread(target=work, name="chiron-view-comparison", daemon=True).start()
    return future


def _read(states: Sequence[EvaluationState]) -> Comparison:
    by_path = {state.path: state for state in states}
    models = read_evaluations(list(by_path))
    items: dict[str, dict[tuple[str, str, str], AskedItem]] = {}
    for model in models:
        for answer in _answers(model, by_path):
            result = answer.result
            of_control = items.setdefault(result.control, {})
            of_control.setdefault((result.protocol, result.benchmark, result.id), AskedItem(result, [])).answers.append(answer)
    controls = sorted(items, key=lambda name: (name != REAL, name))
    return Comparison(
        models,
        [grid for comparison in compare(models) for grid in grids(comparison)],
        {control: list(items[control].values()) for control in controls},
        image_folders(models),
        [(model.name, Counter(str(r.verdict) for r in model.results if r.control == REAL)) for model in models],
    )


def _answers(model: Evaluated, by_path: dict[Path, EvaluationState]) -> list[Answer]:
    """Return a model's answers with the lines they are on: its results are those of its runs, one run after the other."""
    found: list[Answer] = []
    left = iter(model.results)
    for path in model.runs:
        state = by_path[path]
        with state.lock:
            state.lines.advance(float("inf"))
            count = len(state.lines)
        for line in range(count):
            result = next(left, None)
            if result is None:
                return found
            name = model.name if result.seed == 0 else f"{model.name}, seed {result.seed}"
            found.append(Answer(name, state.place.id, line, result))
    return found
