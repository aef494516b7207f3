"""Run an evaluation: load benchmarks, check everything before any call is paid for, ask every item, and write two files."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chiron.cases.reader import read_textbook
from chiron.client.client import Endpoint
from chiron.client.config import max_tokens_of
from chiron.client.images import PictureStore
from chiron.errors import InputError
from chiron.evaluation.benchmarks.loading import LoadedBenchmark, load
from chiron.evaluation.config import EvaluationFile, EvaluationPrompts
from chiron.evaluation.controls import Control, concerned, varied
from chiron.evaluation.extra_scores import ExtractorColumn, JudgeColumn, Judging, MicsColumn
from chiron.evaluation.item_runner import REFUSED, UNSCORED, UNSCORED_FOR_GOOD, AskSettings, ExtraScore, ItemRunner, Unit
from chiron.evaluation.items import ITEMS, BadItem, Item, ItemResult, Verdict
from chiron.evaluation.protocols.protocol import Protocol
from chiron.evaluation.registry import benchmark_of, protocol_of
from chiron.evaluation.results import ResultGroup, group_of, merge, need_no_smaller
from chiron.evaluation.statistics import scipy_stats
from chiron.jobs.directory import WorkDirectory
from chiron.jobs.session import Pending, Progress, Session, SessionSummary
from chiron.mics.team import Policy, RoleModel, Team
from chiron.providers.baselines.search_team import AnswerPool
from chiron.providers.factory import build_endpoints

_LISTED = 3
SAMPLING = 0.7
"""Default temperature when several samples are drawn."""


@dataclass
class EvaluationProgress(Progress):
    """Progress counters of an evaluation."""

    unit: str = "items"

    def figure(self) -> str:
        """Return the share of right answers so far."""
        asked = self.done - self.outcomes[Verdict.PENDING]
        return f"right {self.outcomes[Verdict.RIGHT] / asked:.1%}" if asked > 0 else ""


@dataclass(frozen=True)
class EvaluationSummary(SessionSummary):
    """Result of an evaluation."""

    groups: tuple[ResultGroup, ...] = ()
    """One group per benchmark and control, including those of earlier runs in the same directory."""


@dataclass
class Evaluation:
    """One evaluation, ready to execute."""

    session: Session
    asker: ItemRunner
    loaded: tuple[LoadedBenchmark, ...]
    control: Control
    draws: int
    seed: int
    limit: int | None
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings to record with every group of ``results.json``."""
    watch: Callable[[int], None] = lambda _: None
    """Called with the number of items done so far."""

    @property
    def units(self) -> Iterator[Unit]:
        """Yield every item once per sample, benchmark by benchmark."""
        protocol = self.asker.manner.protocol
        for benchmark in self.loaded:
            items = [protocol.shown(item) if isinstance(item, Item) else item for item in self.counted(benchmark)]
            for draw in range(self.draws):
                for item in varied(items, self.control, seed=self.seed, draw=draw)[: self.limit]:
                    yield Unit(benchmark, item, self.control, draw)

    def counted(self, benchmark: LoadedBenchmark) -> Sequence[Any]:
        """Return the items of a benchmark that the protocol counts."""
        return benchmark.counted_by(self.asker.manner.protocol)

    def _asked_of(self, benchmark: LoadedBenchmark) -> int:
        return len(self.counted(benchmark)[: self.limit]) * self.draws

    async def execute(self) -> EvaluationSummary:
        """Ask the items that the ledger does not have yet, then write ``items.jsonl`` and ``results.json``.

        Raises:
            InputError: the directory is in use, belongs to another model or protocol, or has more answers than this run will give.
            DiskError: the files cannot be written.
        """
        groups: list[ResultGroup] = []
        unscored: list[ItemResult] = []
        doubted: list[ItemResult] = []

        async def job(session: Session) -> None:
            for loaded in self.loaded:
                need_no_smaller(session.directory.path, loaded, str(self.control), self._asked_of(loaded))
            lines = self._doubted([line async for line in self._lines(session)], session)
            unscored.extend(line for line in lines if line.problem.startswith((UNSCORED, UNSCORED_FOR_GOOD)))
            doubted.extend(line for line in lines if line.verdict is Verdict.PENDING and line.problem.startswith(REFUSED))
            if session.desk is not None:
                for loaded in self.loaded:
                    for note in (*loaded.notes, *self._unknown(loaded)):
                        session.desk.note(note, note)
                if unscored:
                    session.desk.note("unscored", f"{len(unscored)} of {len(lines)} items have their verdict and lack a further score")
                if unjudged := sum(line.verdict is Verdict.UNJUDGED for line in lines):
                    session.desk.note(
                        "unjudged",
                        f"on {unjudged} of {len(lines)} items the judge said neither yes nor no: they do not count as right; choose another"
                        " judge, or allow it more tokens (evaluation.max_tokens.judge)",
                    )
                if note := _unusable(lines):
                    session.desk.note("unusable", note)
            groups.extend(await asyncio.to_thread(self._write, lines))

        session = self.session
        session.progress.total = sum(map(self._asked_of, self.loaded))
        summary = await session.execute(job)
        summary = replace(
            summary,
            pending=max(summary.pending, session.progress.outcomes[Verdict.PENDING]) + len(unscored),
            pending_because=summary.pending_because or next((line.problem for line in (*doubted, *unscored)), None),
            refused=summary.refused + len(doubted) + sum(line.problem.startswith(UNSCORED_FOR_GOOD) for line in unscored),
        )
        return EvaluationSummary(**vars(summary), groups=tuple(groups))

    def _unknown(self, loaded: LoadedBenchmark) -> Iterator[str]:
        """Warn about unreadable records that are left out of N because it is unclear whether the protocol would count them."""
        counted = {item.id for item in self.counted(loaded)}
        left = [item for item in loaded.items if isinstance(item, BadItem) and item.kind is None and item.id not in counted]
        if left:
            yield (
                f"{loaded.name}: {len(left)} bad records do not say of what kind they are (the first is {left[0].id}: {left[0].problem}):"
                " they are not in N"
            )

    @staticmethod
    def _doubted(lines: list[ItemResult], session: Session) -> list[ItemResult]:
        """Set refused items back to pending if the endpoint answered nothing at all.

        An endpoint that refuses one item would refuse it again, so that item is done. If it answers no item, the items are not the cause.
        """
        refused = [line for line in lines if line.problem.startswith(REFUSED)]
        if not refused or any(line.reply is not None for line in lines) or session.desk is None:
            return lines
        images = any(line.images for line in refused)
        session.desk.note(
            "refused",
            f"'{refused[0].problem}' of every item that was asked"
            + (": does the model take images? --control no-image sends none" if images else ""),
        )
        outcomes = session.progress.outcomes
        outcomes[Verdict.UNUSABLE] -= len(refused)
        outcomes[Verdict.PENDING] += len(refused)
        return [replace(line, verdict=Verdict.PENDING) if line.problem.startswith(REFUSED) else line for line in lines]

    async def _lines(self, session: Session) -> Any:
        async for unit, result in session.over(self.units, self.asker):
            line = self.asker.pending(unit, result.problem) if isinstance(result, Pending) else result
            session.progress.outcomes[line.verdict] += 1
            self.watch(session.progress.done)
            yield line

    def _settings(self, loaded: LoadedBenchmark) -> dict[str, Any]:
        manner = self.asker.manner
        prompts = manner.prompts.bare() if loaded.bare else manner.prompts
        return {**self.settings, "protocol": manner.protocol.name, "prompts": manner.protocol.prompt_hashes(prompts)}

    def _write(self, lines: Sequence[ItemResult]) -> list[ResultGroup]:
        by_benchmark = {loaded.name: [line for line in lines if line.benchmark == loaded.name] for loaded in self.loaded}
        new = [
            group_of(loaded, by_benchmark[loaded.name], self.asker.manner.protocol, self._settings(loaded), self.limit)
            for loaded in self.loaded
        ]
        head = {**self.session.about, "identity": self.session.identity}
        return merge(self.session.directory.path, new, lines, head)


def prepare_evaluation(
    model: str,
    benchmarks: Sequence[str],
    run: Path | str,
    config: EvaluationFile,
    *,
    data: Path | str | None = None,
    control: Control = Control.NONE,
    benchmark_files: Sequence[Path | str] = (),
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

    Raises:
        InputError: a name is unknown, or data, keys, prompts or scipy are missing.
    """
    scipy_stats()  # Check now: results.json needs scipy for its intervals, and no answer should be paid for without it.
    if not benchmarks:
        raise InputError("name at least one benchmark: 'chiron eval --list' shows them")
    files = [Path(file) for file in benchmark_files]
    known = [benchmark_of(name, files) for name in dict.fromkeys(benchmarks)]
    usual = {benchmark.protocol for benchmark in known}
    if config.evaluation.protocol is None and len(usual) > 1:
        raise InputError(
            f"these benchmarks are usually asked by different protocols ({', '.join(sorted(usual))}): name one with --protocol"
        )
    protocol = protocol_of(config.evaluation.protocol or usual.pop(), files)
    folder = Path(data) if data is not None else None
    loaded = tuple(load(benchmark, folder, Path(run)) for benchmark in known)
    return evaluation_of(model, loaded, protocol, Path(run), config, control=control, textbook=folder)


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
) -> Evaluation:
    """Prepare an evaluation of benchmarks that are already loaded. ``prompts`` replace those of the configuration.

    Raises:
        InputError: keys, prompts or a judge are missing.
    """
    chosen = config.evaluation
    if protocol.judged and chosen.judge is None:
        raise InputError(f"the protocol {protocol.name} needs a judge: name one with --judge NAME (a model under models)")
    taking = {name: config.models[name] for _, name in config.named()} | {model: config.model(model)}
    prompts = prompts or EvaluationPrompts.load({name: Path(path) for name, path in chosen.prompts.items()})
    pictures = PictureStore()

    def catalogue() -> AnswerPool:
        entries = read_textbook(textbook / "textbook.jsonl") if textbook is not None else ()
        return AnswerPool.of(() if entries else (i.answer for b in loaded for i in b.items if isinstance(i, Item)), entries)

    endpoints = build_endpoints(taking, pictures=pictures, catalogue=catalogue)
    seats = _Seats(config, endpoints, protocol)
    draws = chosen.seeds
    temperature = chosen.temperature
    if temperature is None:
        temperature = SAMPLING if draws > 1 and control != Control.SHUFFLE_OPTIONS else 0.0
    if draws > 1 and temperature == 0 and control not in {Control.SHUFFLE_OPTIONS, Control.SWAP}:
        raise InputError("several seeds at temperature 0 give the same answer several times: set a temperature above 0")
    manner = AskSettings(seats.of(model, "model"), protocol, prompts, temperature, chosen.image_side, chosen.max_images, chosen.family)
    judging = Judging(seats.of(chosen.judge, "judge"), prompts, protocol.any_yes) if chosen.judge is not None and protocol.judged else None
    asker = ItemRunner(manner, pictures, run / "images" / "blank", judging, seats.columns(prompts))
    identity = {
        "model": [manner.model.identity, manner.model.max_tokens],
        "protocol": protocol.name,
        "prompts": protocol.prompt_hashes(prompts),
        "temperature": temperature,
        "image_side": chosen.image_side,
        "max_images": chosen.max_images,
        "seed": chosen.seed,
        "judge": None if judging is None else [judging.seat.name, judging.seat.identity, judging.seat.max_tokens],
    }
    about = {"model": model, "configuration": config.model_dump(mode="json")}
    session = Session(WorkDirectory(run), identity, about, endpoints, chosen.budget_usd, chosen.in_flight, EvaluationProgress())
    notes = seats.notes(draws, temperature, chosen.temperature)
    loaded = tuple(replace(b, notes=(*b.notes, *(notes if n == 0 else ()))) for n, b in enumerate(loaded))
    loaded = tuple(_noted(b, protocol, control) for b in loaded)
    settings = {
        "judge": None if judging is None else judging.seat.name,
        "columns_by": dict(config.named()) | ({"interns": chosen.interns} if chosen.interns else {}),
        "family": None if chosen.family is None else str(chosen.family),
        "seed": chosen.seed,
        "control": str(control),
    }
    return Evaluation(session, asker, loaded, control, draws, chosen.seed, chosen.limit, settings)


def _unusable(lines: Sequence[ItemResult]) -> str:
    """Describe the items that could not be asked, and why."""
    bad = [line for line in lines if line.verdict == Verdict.UNUSABLE]
    if not bad:
        return ""
    listed = "; ".join(f"{line.id}: {line.problem.removeprefix(f'{line.id}: ')}" for line in bad[:_LISTED])
    more = f"; and {len(bad) - _LISTED} more" if len(bad) > _LISTED else ""
    return f"{len(bad)} of {len(lines)} items are unusable and count as wrong ({ITEMS} says why of each): {listed}{more}"


def _noted(loaded: LoadedBenchmark, protocol: Protocol, control: Control) -> LoadedBenchmark:
    shown = [protocol.shown(item) if isinstance(item, Item) else item for item in loaded.counted_by(protocol)]
    out = len(loaded.items) - len(shown)
    left_out = (
        f"{loaded.name}: protocol {protocol.name} ({protocol.description}) leaves out {out} of {len(loaded.items)} items" if out else ""
    )
    notes = (left_out, concerned(loaded.name, shown, control))
    return replace(loaded, notes=(*loaded.notes, *(note for note in notes if note)))


@dataclass(frozen=True)
class _Seats:
    """The role models of the evaluation: judge, extractor and interns."""

    config: EvaluationFile
    endpoints: dict[str, Endpoint]
    protocol: Protocol

    def of(self, name: str, role: str) -> RoleModel:
        limit = getattr(self.config.evaluation.max_tokens, role) or self.protocol.max_tokens
        return RoleModel(name, self.endpoints[name].provider.identity, max_tokens_of(self.config.models[name], limit))

    def columns(self, prompts: EvaluationPrompts) -> tuple[ExtraScore, ...]:
        chosen = self.config.evaluation
        columns: list[ExtraScore] = []
        if chosen.extractor is not None:
            columns.append(ExtractorColumn(self.of(chosen.extractor, "extractor"), prompts))
        if chosen.judge is not None:
            judge = self.of(chosen.judge, "judge")
            if not self.protocol.judged:
                columns.append(JudgeColumn(Judging(judge, prompts)))
            if chosen.interns:
                team = Team((), tuple(self.of(name, "intern") for name in chosen.interns), judge)
                policy = Policy(temperatures=chosen.intern_temperatures, seed=chosen.seed, image_side=chosen.image_side)
                columns.append(MicsColumn(team, policy, prompts))
        return tuple(columns)

    @staticmethod
    def notes(draws: int, temperature: float, wanted: float | None) -> tuple[str, ...]:
        if draws > 1 and temperature > 0 and wanted is None:
            return (f"{draws} samples are drawn at temperature {temperature:g}: name another with --temperature",)
        return ()
