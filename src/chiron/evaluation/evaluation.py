"""Run an evaluation: load benchmarks, check everything before any call is paid for, ask every item, and write two files."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from chiron.cases.reader import AnswerPool, read_textbook
from chiron.client.call import Ask, Call, Reply
from chiron.client.client import ModelClient
from chiron.client.failures import UnitAsk
from chiron.client.ledger import Ledger
from chiron.errors import InputError
from chiron.evaluation.benchmarks.loading import LoadedBenchmark, load
from chiron.evaluation.claims import ClaimChecker, read_references, unreferenced
from chiron.evaluation.config import EvaluationConfig, EvaluationFile, EvaluationPrompts
from chiron.evaluation.controls import Control, apply_control, note_unchanged
from chiron.evaluation.extra_scores import ExtractorColumn, GraderColumn, JudgeColumn, Judging, MicsColumn, RankColumn, RewardColumn
from chiron.evaluation.item_runner import REFUSED, UNSCORED, UNSCORED_FOR_GOOD, AskSettings, ExtraScore, ItemRunner, Unit
from chiron.evaluation.items import ITEMS, BadItem, Item, ItemResult, Verdict
from chiron.evaluation.protocols.protocol import Protocol
from chiron.evaluation.registry import benchmark_of, protocol_of
from chiron.evaluation.results import ResultGroup, group_of, merge, need_no_smaller
from chiron.evaluation.statistics import scipy_special
from chiron.jobs.directory import WorkDirectory
from chiron.jobs.forecast import REASONING, Rehearsal
from chiron.jobs.job import Job, JobSummary, Pending, Progress, Resume, units_in_flight
from chiron.jobs.roles import Roles, identity_of
from chiron.mics.team import Policy, Team

_EXAMPLES = 3
SAMPLING = 0.7
"""Default temperature when several samples are drawn."""


@dataclass
class EvaluationProgress(Progress):
    """Progress counters of an evaluation."""

    unit: str = "items"

    def figure(self) -> str:
        """Return the share of right answers so far."""
        asked = self.done - self.outcomes[Verdict.PENDING]
        if self.outcomes[Verdict.SCORED]:
            return f"reports {self.outcomes[Verdict.SCORED]:,}"
        return f"right {self.outcomes[Verdict.RIGHT] / asked:.1%}" if asked > 0 else ""


@dataclass(frozen=True, kw_only=True)
class EvaluationSummary(JobSummary):
    """Result of an evaluation."""

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
    watch: Callable[[int], None] = lambda _: None
    """Called with the number of items done so far."""
    _lines: list[ItemResult] = field(default_factory=list, init=False)
    _groups: list[ResultGroup] = field(default_factory=list, init=False)

    def units(self) -> Iterator[Unit]:
        """Yield every item once per sample, benchmark by benchmark."""
        protocol = self.asker.settings.protocol
        for benchmark in self.loaded:
            items = [protocol.shown(item) if isinstance(item, Item) else item for item in self.counted(benchmark)]
            for sample in range(self.samples):
                for item in apply_control(items, self.control, seed=self.seed, sample_index=sample)[: self.limit]:
                    yield Unit(benchmark, item, self.control, sample)

    def count(self) -> int:
        """Return the number of items, once per sample."""
        return sum(map(self._count_of, self.loaded))

    def counted(self, benchmark: LoadedBenchmark) -> Sequence[Any]:
        """Return the items of a benchmark that the protocol counts."""
        return benchmark.counted_by(self.asker.settings.protocol)

    def _count_of(self, benchmark: LoadedBenchmark) -> int:
        return len(self.counted(benchmark)[: self.limit]) * self.samples

    def start(self, ledger: Ledger) -> None:
        """Check that this evaluation does not replace a larger one.

        Raises:
            InputError: the directory has more answers than this run will give.
        """
        del ledger
        for loaded in self.loaded:
            need_no_smaller(self.directory.path, loaded, str(self.control), self._count_of(loaded))

    async def work(self, unit: Unit, ask: UnitAsk) -> ItemResult:
        """Ask one item."""
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
            line = self.asker.pending(unit, result.problem) if isinstance(result, Pending) else result
            self.progress.outcomes[line.verdict] += 1
            self.watch(self.progress.done)
            lines.append(line)
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
        counted = {item.id for item in self.counted(loaded)}
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
        asking = self.asker.settings
        prompts = asking.prompts.bare() if loaded.bare else asking.prompts
        return {**self.settings, "protocol": asking.protocol.name, "prompts": asking.protocol.prompt_hashes(prompts)}

    def _write(self, lines: Sequence[ItemResult]) -> list[ResultGroup]:
        by_benchmark = {loaded.name: [line for line in lines if line.benchmark == loaded.name] for loaded in self.loaded}
        new = [
            group_of(loaded, by_benchmark[loaded.name], self.asker.settings.protocol, self._settings(loaded), self.limit)
            for loaded in self.loaded
        ]
        return merge(self.directory.path, new, lines, {**self.about, "identity": self.identity})


def prepare_evaluation(
    model: str,
    benchmarks: Sequence[str],
    run: Path | str,
    config: EvaluationFile,
    *,
    data: Path | str | None = None,
    control: Control = Control.NONE,
    benchmark_files: Sequence[Path | str] = (),
    references: Path | str | None = None,
    need_keys: bool = True,
) -> Evaluation:
    """Prepare an evaluation and check everything that can be checked before a call is paid for.

    Args:
        model: the model's name under ``models`` in the configuration.
        benchmarks: benchmark names; ``chiron eval --list`` shows them.
        run: run directory of this model and protocol; created if missing, otherwise resumed.
        config: from :func:`chiron.evaluation.config.load_evaluation`.
        data: folder with the downloaded files; ``None`` fetches them from the hub.
        control: change made to every item, such as leaving out its image.
        benchmark_files: Python files with further benchmarks and protocols (:mod:`chiron.evaluation.registry`).
        references: JSONL of findings or reports that checkers compare steps with. The known answer of a report is its own reference.
        need_keys: whether API keys must be set. An evaluation prepared without them cannot be executed.

    Raises:
        InputError: a name is unknown, or data, keys, prompts or scipy are missing.
    """
    scipy_special()  # Check now: results.json needs scipy for its intervals, and no answer should be paid for without it.
    if not benchmarks:
        raise InputError("name at least one benchmark: 'chiron eval --list' shows them")
    files = [Path(file) for file in benchmark_files]
    known = [benchmark_of(name, files) for name in dict.fromkeys(benchmarks)]
    usual = {benchmark.protocol for benchmark in known}
    if config.evaluation.protocol is None and len(usual) > 1:
        raise InputError(f"these benchmarks have different usual protocols ({', '.join(sorted(usual))}): name one with --protocol")
    protocol = protocol_of(config.evaluation.protocol or usual.pop(), files)
    folder = Path(data) if data is not None else None
    loaded = tuple(load(benchmark, folder, Path(run)) for benchmark in known)
    file = Path(references) if references is not None else None
    return evaluation_of(model, loaded, protocol, Path(run), config, control=control, textbook=folder, references=file, need_keys=need_keys)


def evaluation_of(
    model: str,
    loaded: Sequence[LoadedBenchmark],
    protocol: Protocol,
    run: Path,
    config: EvaluationFile,
    *,
    control: Control = Control.NONE,
    textbook: Path | None = None,
    prompts: EvaluationPrompts | None = None,
    references: Path | None = None,
    need_keys: bool = True,
) -> Evaluation:
    """Prepare an evaluation of benchmarks that are already loaded. ``prompts`` replace those of the configuration.

    Without ``need_keys``, missing API keys are no error; such an evaluation cannot be executed.

    Raises:
        InputError: keys, prompts or a judge are missing.
    """
    chosen = config.evaluation
    if protocol.judged and chosen.judge is None:
        raise InputError(f"the protocol {protocol.name} needs a judge: name one with --judge NAME (a model under models)")
    prompts = prompts or EvaluationPrompts.load(chosen.prompts)
    config.model(model)  # check the name

    def answers() -> AnswerPool:
        entries = read_textbook(textbook / "textbook.jsonl") if textbook is not None else ()
        return AnswerPool.of(() if entries else (i.answer for b in loaded for i in b.items if isinstance(i, Item)), entries)

    roles = Roles.of(config, answers=answers, measured=(model, chosen.max_tokens.model or protocol.max_tokens), need_keys=need_keys)
    samples, temperature = chosen.seeds, _temperature_of(chosen, control)
    max_images = chosen.most_images(model)
    asking = AskSettings(roles.one("model"), protocol, prompts, temperature, chosen.image_side, max_images, chosen.family)
    judge = roles.get("judge") if protocol.judged else None
    judging = Judging(judge, prompts, protocol.any_yes) if judge is not None else None
    known = _references(loaded, protocol, references, chosen)
    checkers = [ClaimChecker(checker, prompts, known) for checker in roles.all("checker")]
    extra_scores = _extra_scores(roles, chosen, protocol, prompts)
    asker = ItemRunner(asking, roles.pictures, run / "images" / "blank", judging, extra_scores, checkers)
    identity = {
        "model": [asking.model.identity, asking.model.max_tokens],
        "protocol": protocol.name,
        "prompts": protocol.prompt_hashes(prompts),
        "temperature": temperature,
        "image_side": chosen.image_side,
        "max_images": max_images,
        "seed": chosen.seed,
        "judge": None if judge is None else identity_of(judge),
    }
    notes: tuple[str, ...] = ()
    if samples > 1 and temperature > 0 and chosen.temperature is None:
        notes = (f"{samples} samples are drawn at temperature {temperature:g}; choose another one with --temperature",)
    loaded = tuple(replace(b, notes=(*b.notes, *(notes if n == 0 else ()))) for n, b in enumerate(loaded))
    loaded = tuple(_noted(b, protocol, control) for b in loaded)
    if checkers:
        counted = {b.name: {item.id: item for item in b.counted_by(protocol) if isinstance(item, Item)} for b in loaded}
        loaded = tuple(replace(b, notes=(*b.notes, *unreferenced(known, {b.name: counted[b.name]}))) for b in loaded)
    settings = {
        "judge": None if judge is None else judge.name,
        "columns_by": dict(config.named()) | _lists(chosen, prompts),
        "family": None if chosen.family is None else str(chosen.family),
        "seed": chosen.seed,
        "control": str(control),
    }
    return Evaluation(
        directory=WorkDirectory(run),
        identity=identity,
        about={"model": model, "configuration": config.model_dump(mode="json")},
        endpoints=roles.endpoints,
        budget_usd=chosen.budget_usd,
        in_flight=units_in_flight(chosen.in_flight, roles.endpoints),
        asker=asker,
        loaded=loaded,
        control=control,
        samples=samples,
        seed=chosen.seed,
        limit=chosen.limit,
        settings=settings,
    )


def _temperature_of(chosen: EvaluationConfig, control: Control) -> float:
    """Return the configured temperature, or the default for this number of samples.

    Raises:
        InputError: all samples would be the same.
    """
    temperature = chosen.temperature
    if temperature is None:
        temperature = SAMPLING if chosen.seeds > 1 and control != Control.SHUFFLE_OPTIONS else 0.0
    if chosen.seeds > 1 and temperature == 0 and control not in {Control.SHUFFLE_OPTIONS, Control.SWAP}:
        raise InputError("several samples at temperature 0 give the same answer: set a temperature above 0")
    return temperature


def _unusable(lines: Sequence[ItemResult]) -> str:
    """Describe the items that could not be asked, and why."""
    bad = [line for line in lines if line.verdict == Verdict.UNUSABLE]
    if not bad:
        return ""
    examples = "; ".join(f"{line.id}: {line.problem.removeprefix(f'{line.id}: ')}" for line in bad[:_EXAMPLES])
    more = f"; and {len(bad) - _EXAMPLES} more" if len(bad) > _EXAMPLES else ""
    return f"{len(bad)} of {len(lines)} items are unusable and count as wrong (see {ITEMS}): {examples}{more}"


def _noted(loaded: LoadedBenchmark, protocol: Protocol, control: Control) -> LoadedBenchmark:
    shown = [protocol.shown(item) if isinstance(item, Item) else item for item in loaded.counted_by(protocol)]
    out = len(loaded.items) - len(shown)
    left_out = (
        f"{loaded.name}: protocol {protocol.name} ({protocol.description}) leaves out {out} of {len(loaded.items)} items" if out else ""
    )
    notes = (left_out, note_unchanged(loaded.name, shown, control))
    return replace(loaded, notes=(*loaded.notes, *(note for note in notes if note)))


def _lists(chosen: EvaluationConfig, prompts: EvaluationPrompts) -> dict[str, Any]:
    """Describe the roles that several models may have. The hash of the rubric is part of what a grade means."""
    graders: dict[str, Any] = {"graders": chosen.graders, "rubric": prompts.hashes(("grade",))["grade"]} if chosen.graders else {}
    if chosen.checkers:
        graders |= {"checkers": chosen.checkers, "claims_rubric": prompts.hashes(("claims",))["claims"]}
    return graders | ({"interns": chosen.interns} if chosen.interns else {})


def _references(
    loaded: Sequence[LoadedBenchmark], protocol: Protocol, file: Path | None, chosen: EvaluationConfig
) -> dict[str, dict[str, str]]:
    """Collect what checkers compare steps with: the known reports, and the user's file.

    Raises:
        InputError: there are checkers without references or the reverse, or the file cannot be used.
    """
    if file is not None and not chosen.checkers:
        raise InputError(f"{file}: references are for checkers, but there is none: name one with --checkers NAME")
    items = {b.name: {item.id: item for item in b.items if isinstance(item, Item)} for b in loaded}
    known = {name: {id_: item.answer for id_, item in by_id.items()} for name, by_id in items.items()} if protocol.scores_only else {}
    for name, of in (read_references(file, items) if file is not None else {}).items():
        known[name] = {**known.get(name, {}), **of}
    if chosen.checkers and not any(known.get(name) for name in items):
        raise InputError("checkers compare steps with findings or a report of each item: give a JSONL file of them with --references")
    return known


def _extra_scores(roles: Roles, chosen: EvaluationConfig, protocol: Protocol, prompts: EvaluationPrompts) -> tuple[ExtraScore, ...]:
    extra_scores: list[ExtraScore] = []
    if (extractor := roles.get("extractor")) is not None:
        extra_scores.append(ExtractorColumn(extractor, prompts))
    if (ranker := roles.get("ranker")) is not None:
        extra_scores.append(RankColumn(ranker, prompts))
    if (reward_model := roles.get("reward_model")) is not None:
        extra_scores.append(RewardColumn(reward_model))
    extra_scores += [GraderColumn(grader, prompts) for grader in roles.all("grader")]
    if (judge := roles.get("judge")) is not None:
        if not protocol.judged:
            extra_scores.append(JudgeColumn(Judging(judge, prompts)))
        if interns := roles.all("intern"):
            policy = Policy(temperatures=chosen.intern_temperatures, seed=chosen.seed, image_side=chosen.image_side)
            extra_scores.append(MicsColumn(Team((), interns, judge), policy, prompts))
    return tuple(extra_scores)
