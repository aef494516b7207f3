"""Run an evaluation: ask every item, and write two files."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from chiron.client.call import Ask, Call, Reply
from chiron.client.client import ModelClient
from chiron.client.failures import UnitAsk
from chiron.client.ledger import Ledger
from chiron.evaluation.benchmarks.loading import LoadedBenchmark
from chiron.evaluation.controls import Control, apply_control
from chiron.evaluation.item_runner import REFUSED, UNSCORED, UNSCORED_FOR_GOOD, ItemRunner, Unit
from chiron.evaluation.items import ITEMS, BadItem, ItemResult, Verdict
from chiron.evaluation.results import ResultGroup, group_of, merge, need_no_smaller
from chiron.jobs.engine import Part
from chiron.jobs.forecast import REASONING, Rehearsal
from chiron.jobs.job import Job, JobSummary, Pending, Progress, Resume
from chiron.jobs.replies import Preparation, RankedPart

_EXAMPLES = 3


@dataclass
class EvaluationProgress(Progress):
    unit: str = "items"

    def figure(self) -> str:
        """Return the share of right answers so far."""
        asked = self.done - self.outcomes[Verdict.PENDING]
        if self.outcomes[Verdict.SCORED]:
            return f"reports {self.outcomes[Verdict.SCORED]:,}"
        return f"right {self.outcomes[Verdict.RIGHT] / asked:.1%}" if asked > 0 else ""


@dataclass(frozen=True, kw_only=True)
class EvaluationSummary(JobSummary):
    """What an evaluation did, and its figures."""

    groups: tuple[ResultGroup, ...] = ()
    """One group per benchmark and control, including those of earlier runs in the same directory."""

    def to_record(self) -> dict[str, Any]:
        """Convert to a JSON object."""
        record = super().to_record()
        return {"run": record.pop("directory"), **record}


_TYPICAL = {
    "model": REASONING,
    "intern": "### The final answer is: unknown",
    "judge": "yes",
    "extractor": "A",
    "ranker": "50",
    "reward_model": "+",
    "grader": "Grade: 1",
    "checker": "1 | supported | There is an effusion.\n1 | not mentioned | The heart is enlarged.\n2 | contradicted | There is a mass.",
}
"""Replies by role that a forecast assumes."""


async def _typical(call: Call) -> Reply:
    return Reply(_TYPICAL[call.role])


@dataclass(kw_only=True)
class Evaluation(Job[Unit, ItemResult, EvaluationSummary]):
    """One evaluation, ready to execute. A unit is an item, asked once."""

    resume: ClassVar[Resume] = Resume.REPLIES
    asker: ItemRunner
    loaded: tuple[LoadedBenchmark, ...]
    control: Control
    samples: int
    seed: int
    limit: int | None
    settings: dict[str, Any]
    """Settings to record with every group of ``results.json``."""
    progress: EvaluationProgress = field(default_factory=EvaluationProgress)
    again: Preparation | None = None
    """How other processes prepare the evaluation; ``None`` if they cannot."""
    watch: Callable[[int], None] = lambda _: None
    """Called with the number of items done so far."""
    _lines: list[ItemResult] = field(default_factory=list, init=False)
    _groups: list[ResultGroup] = field(default_factory=list, init=False)

    def units(self) -> Iterator[Unit]:
        """Yield every item once per sample, benchmark by benchmark."""
        for benchmark in self.loaded:
            items = benchmark.shown_by(self.asker.protocol)
            for sample in range(self.samples):
                for item in apply_control(items, self.control, seed=self.seed, sample_index=sample)[: self.limit]:
                    yield Unit(benchmark, item, self.control, sample)

    def count(self) -> int:
        return sum(map(self._count_of, self.loaded))

    def _count_of(self, benchmark: LoadedBenchmark) -> int:
        return len(benchmark.counted_by(self.asker.protocol)[: self.limit]) * self.samples

    @cached_property
    def data_digest(self) -> str:
        return " ".join(loaded.fingerprint for loaded in self.loaded)

    def part_of(self, units: Sequence[tuple[int, Unit]]) -> Part:
        if self.again is None:
            return super().part_of(units)
        return RankedPart(again=self.again, data=self.data_digest, ranks=frozenset(rank for rank, _ in units))

    def count_result(self, result: ItemResult | Pending) -> None:
        self.progress.outcomes[Verdict.PENDING if isinstance(result, Pending) else result.verdict] += 1

    def start(self, ledger: Ledger) -> None:
        """Check that this evaluation does not replace a larger one.

        Raises:
            InputError: the directory has more answers than this run will give.
        """
        del ledger
        for loaded in self.loaded:
            need_no_smaller(self.directory.path, loaded, str(self.control), self._count_of(loaded))

    async def work(self, unit: Unit, ask: UnitAsk) -> ItemResult:
        return await self.asker(unit, ask)

    def rehearsal(self) -> Rehearsal:
        """Return how to run the items without sending and storing anything."""

        async def run(unit: Unit, ask: Ask) -> bool:
            with TemporaryDirectory() as gray_images:
                result = await replace(self.asker, blank=Path(gray_images))(unit, ask)
            return result.reply is not None

        return Rehearsal(self.directory.ledger, self.endpoints, self.units(), run, _typical)

    async def process(self, results: AsyncIterator[tuple[Unit, ItemResult | Pending]], client: ModelClient) -> None:
        """Collect the results, then write ``items.jsonl`` and ``results.json``.

        Raises:
            DiskError: the files cannot be written.
        """
        lines = []
        async for unit, result in results:
            self.watch(self.progress.done)
            lines.append(self.asker.pending(unit, result.problem) if isinstance(result, Pending) else result)
        self._lines = self._refused_to_pending(lines, client)
        for loaded in self.loaded:
            for note in (*loaded.notes, *self._unknown(loaded)):
                client.note(note, note)
        self._note_results(client)
        self._groups = await asyncio.to_thread(self._write, self._lines)

    def summarize(self, summary: JobSummary, client: ModelClient) -> EvaluationSummary:
        """Count items whose extra scores are missing, and refused items, as pending."""
        del client
        unscored = self._unscored()
        refused = [line for line in self._lines if line.verdict is Verdict.PENDING and line.problem.startswith(REFUSED)]
        values = {
            **vars(summary),
            "pending": max(summary.pending, self.progress.outcomes[Verdict.PENDING]) + len(unscored),
            "pending_because": summary.pending_because or next((line.problem for line in (*refused, *unscored)), None),
            "refused": summary.refused + len(refused) + sum(line.problem.startswith(UNSCORED_FOR_GOOD) for line in unscored),
        }
        return EvaluationSummary(**values, groups=tuple(self._groups))

    def _unscored(self) -> list[ItemResult]:
        return [line for line in self._lines if line.problem.startswith((UNSCORED, UNSCORED_FOR_GOOD))]

    def _note_results(self, client: ModelClient) -> None:
        """Report items that lack a score or a verdict, and those that cannot be asked."""
        lines = self._lines
        if unscored := self._unscored():
            client.note("unscored", f"{len(unscored)} of {len(lines)} items have a verdict but lack an extra score")
        if unjudged := sum(line.verdict is Verdict.UNJUDGED for line in lines):
            client.note(
                "unjudged",
                f"the judge gave no verdict on {unjudged} of {len(lines)} items, which do not count as right: choose another judge, or"
                " raise evaluation.max_tokens.judge",
            )
        if note := _unusable(lines):
            client.note("unusable", note)

    def _unknown(self, loaded: LoadedBenchmark) -> Iterator[str]:
        """Warn about unreadable records that are left out of N because it is unclear whether the protocol would count them."""
        counted = {item.id for item in loaded.counted_by(self.asker.protocol)}
        left = [item for item in loaded.items if isinstance(item, BadItem) and item.kind is None and item.id not in counted]
        if left:
            yield (f"{loaded.name}: {len(left)} bad records of unknown kind are not included in N (first: {left[0].id}: {left[0].problem})")

    def _refused_to_pending(self, lines: list[ItemResult], client: ModelClient) -> list[ItemResult]:
        """Set refused items back to pending if the endpoint answered nothing at all.

        An endpoint that refuses one item would refuse it again, so that item is done. If it answers no item, the items are not the cause.
        """
        refused = [line for line in lines if line.problem.startswith(REFUSED)]
        if not refused or any(line.reply is not None for line in lines):
            return lines
        images = any(line.images for line in refused)
        hint = ": does the model accept images? --control no-image sends none" if images else ""
        client.note("refused", f"every item failed with '{refused[0].problem}'{hint}")
        self.progress.outcomes[Verdict.UNUSABLE] -= len(refused)
        self.progress.outcomes[Verdict.PENDING] += len(refused)
        return [replace(line, verdict=Verdict.PENDING) if line.problem.startswith(REFUSED) else line for line in lines]

    def _settings(self, loaded: LoadedBenchmark) -> dict[str, Any]:
        asking = self.asker
        prompts = asking.prompts.bare() if loaded.bare else asking.prompts
        return {**self.settings, "protocol": asking.protocol.name, "prompts": asking.protocol.prompt_hashes(prompts)}

    def _write(self, lines: Sequence[ItemResult]) -> list[ResultGroup]:
        by_benchmark = {loaded.name: [line for line in lines if line.benchmark == loaded.name] for loaded in self.loaded}
        new = [
            group_of(loaded, by_benchmark[loaded.name], self.asker.protocol, self._settings(loaded), self.limit) for loaded in self.loaded
        ]
        return merge(self.directory.path, new, lines, {**self.about, "identity": self.identity})


def _unusable(lines: Sequence[ItemResult]) -> str:
    """Describe the items that could not be asked, and why."""
    bad = [line for line in lines if line.verdict == Verdict.UNUSABLE]
    if not bad:
        return ""
    examples = "; ".join(f"{line.id}: {line.problem.removeprefix(f'{line.id}: ')}" for line in bad[:_EXAMPLES])
    more = f"; and {len(bad) - _EXAMPLES} more" if len(bad) > _EXAMPLES else ""
    return f"{len(bad)} of {len(lines)} items are unusable and count as wrong (see {ITEMS}): {examples}{more}"
