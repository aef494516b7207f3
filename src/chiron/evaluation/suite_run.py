"""Measure models on every column of a suite. Each model and benchmark is an evaluation of its own, which resumes in its own folder."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from chiron.client.failures import Submitted, UserStopped
from chiron.client.ledger import Ledger
from chiron.errors import DiskError, InputError
from chiron.evaluation.benchmarks.loading import LoadedBenchmark, load
from chiron.evaluation.bertscore import Encoder, scored
from chiron.evaluation.config import EvaluationFile
from chiron.evaluation.evaluation import Evaluation, EvaluationSummary
from chiron.evaluation.items import ITEMS
from chiron.evaluation.preparation import absolute, evaluation_of, preparation_of
from chiron.evaluation.protocols.protocol import Protocol
from chiron.evaluation.published import published, published_table
from chiron.evaluation.read_runs import Arm, read_evaluations
from chiron.evaluation.registry import benchmark_of, protocol_of, suite_of
from chiron.evaluation.statistics import need_scipy
from chiron.evaluation.suites.suite import BERTSCORE, MICS, Suite
from chiron.evaluation.tables.formats import Grid, html, latex, markdown, plain
from chiron.evaluation.tables.suite import SuiteResults, suite_table
from chiron.io import write_atomically
from chiron.jobs.engine import Engine, GatheringEngine, LocalEngine

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_WRITERS: Mapping[str, Callable[[Sequence[Grid]], str]] = {"txt": plain, "md": markdown, "tex": latex, "html": html}


@dataclass(frozen=True)
class SuitePart:
    """One model on one benchmark."""

    model: str
    benchmark: str
    evaluation: Evaluation | None
    """``None`` if it cannot be asked."""
    problem: str = ""
    """Why it cannot be asked, in a few words."""


Execute = Callable[[SuitePart, Evaluation], EvaluationSummary | None]


@dataclass(frozen=True)
class SuiteRun:
    """One suite, ready to be measured."""

    suite: Suite
    directory: Path
    parts: tuple[SuitePart, ...]
    """Model by model, in the order of the columns."""
    lacking: Mapping[str, str]
    """By column key: the options without which the column is not measured."""
    missing: Mapping[str, str]
    """By benchmark: what is wrong with its data."""
    text_only: frozenset[str]
    protocols: Mapping[str, Protocol]
    """By benchmark."""
    encoder: Encoder | None
    budget_usd: float | None
    engine: Engine
    record: Mapping[str, Any]
    """JSON object from which :func:`suite_of_record` prepares the suite again."""
    submitted: list[str] = field(default_factory=list)
    """Message about what the engine runs later. The table is complete when that has ended."""

    @property
    def evaluations(self) -> list[Evaluation]:
        return [part.evaluation for part in self.parts if part.evaluation is not None]

    def measure(self, execute: Execute, *, every: bool = False) -> list[EvaluationSummary]:
        """Execute the evaluations with :meth:`_measure`. An engine that runs them later gets all of them together."""
        if not self.evaluations or not isinstance(self.engine, GatheringEngine):
            return self._measure(execute, every=every)
        jobs = len(self.evaluations)
        with self.engine.gather(self.directory, dict(self.record), jobs=jobs, budget_usd=self.budget_usd) as gathered:
            summaries = self._measure(execute, every=every)
            stopped = any(isinstance(summary.halted, UserStopped | DiskError) for summary in summaries)
            if not stopped and (message := gathered.submit(sum(map(_spent, self.evaluations)))) is not None:
                self.submitted.append(message)
        return summaries

    def _measure(self, execute: Execute, *, every: bool) -> list[EvaluationSummary]:
        """Execute the evaluations one after the other. After the user's stop or a full disk, no more are started.

        If an evaluation stops for another reason (its endpoint is down, the key is refused), its model's further evaluations are left out:
        they would stop as well. Run again to resume.

        Args:
            execute: runs one evaluation and returns its summary, or ``None`` if it could not be run.
            every: leave out no evaluation unless the user stops the run, because no call is sent.
        """
        summaries: list[EvaluationSummary] = []
        stopped: set[str] = set()
        for part in self.parts:
            if part.evaluation is None or part.model in stopped:
                continue
            if self.budget_usd is not None:
                others = [e for e in self.evaluations if e is not part.evaluation]
                part.evaluation.budget_usd = max(0.0, self.budget_usd - sum(map(_spent, others)))
            if (summary := execute(part, part.evaluation)) is None:
                continue
            summaries.append(summary)
            if isinstance(summary.halted, UserStopped if every else UserStopped | DiskError):
                break
            if summary.halted is not None and not isinstance(summary.halted, Submitted) and not every:
                stopped.add(part.model)
        return summaries

    def tables(self) -> list[Grid]:
        """Build the table of what is measured so far, and the published one, which is set apart.

        Raises:
            InputError: a run directory is damaged, or the encoder for BERTScore cannot be used.
        """
        arms: dict[tuple[str, str], Arm] = {}
        problems: dict[tuple[str, str], str] = {}
        for part in self.parts:
            measured = self._arm(part)
            for column in (column for column in self.suite.columns if column.benchmark == part.benchmark):
                key = part.model, column.key
                if problem := part.problem or (f"needs {self.lacking[column.key]}" if column.key in self.lacking else ""):
                    problems[key] = problem
                elif measured is not None:
                    arms[key] = self._with_bertscore(measured) if (column.score or "").startswith(BERTSCORE) else measured
        models = tuple(dict.fromkeys(part.model for part in self.parts))
        results = SuiteResults(self.suite, models, arms, problems, self.missing, self.text_only, self.protocols)
        is_published = any(row.table == self.suite.name for row in published())
        return [suite_table(results), *([published_table(self.suite)] if is_published else [])]

    def write(self, tables: Sequence[Grid]) -> list[Path]:
        """Write the tables into the run directory as text, Markdown, LaTeX and HTML. Returns the paths.

        Raises:
            DiskError: they cannot be written.
        """
        paths = []
        with suppress(OSError):  # no evaluation may have created it; the error comes with the first file
            self.directory.mkdir(parents=True, exist_ok=True)
        for ending, text in _WRITERS.items():
            paths.append(self.directory / f"{self.suite.name}.{ending}")
            write_atomically(paths[-1], [text(tables)])
        return paths

    def _arm(self, part: SuitePart) -> Arm | None:
        """Read the answers of one part; ``None`` if it was not asked yet."""
        if part.evaluation is None or not (part.evaluation.directory.path / ITEMS).is_file():
            return None
        (model,) = read_evaluations([part.evaluation.directory.path])
        return model.arm(self.protocols[part.benchmark].name, part.benchmark)

    def _with_bertscore(self, arm: Arm) -> Arm:
        assert self.encoder is not None  # noqa: S101 - otherwise the column lacks it
        return replace(arm, results=tuple(scored(arm.results, self.encoder)[0]))


def prepare_suite(
    suite: Suite,
    models: Mapping[str, EvaluationFile],
    run: Path | str,
    *,
    data: Path | str | None = None,
    benchmark_files: Sequence[Path | str] = (),
    encoder: Encoder | None = None,
    need_keys: bool = True,
    engine: Engine | None = None,
) -> SuiteRun:
    """Prepare a suite and check everything that can be checked before a call is paid for.

    Args:
        suite: from :func:`chiron.evaluation.registry.suite_of`.
        models: the configuration of each measured model. A protocol named in it is replaced by those of the suite.
        run: folder for the run directories, ``RUN/MODEL/BENCHMARK``, and the tables.
        data: folder with the downloaded files; ``None`` fetches them from the hub.
        benchmark_files: Python files with further benchmarks and protocols.
        encoder: for columns of BERTScore.
        need_keys: whether API keys must be set.
        engine: runs the evaluations; by default this process.

    Raises:
        InputError: a name is unknown, or all data, a key, a prompt or scipy are missing.
    """
    need_scipy()
    files = [Path(file) for file in benchmark_files]
    folder, directory = Path(data) if data is not None else None, Path(run)
    known = {name: benchmark_of(name, files) for name in suite.benchmarks}
    protocols = {name: protocol_of(protocol, files) for name, protocol in suite.benchmarks.items()}
    loaded: dict[str, LoadedBenchmark] = {}
    missing: dict[str, str] = {}
    for name, benchmark in known.items():
        try:
            loaded[name] = load(benchmark, folder, directory)
        except InputError as problem:
            missing[name] = str(problem)
    if not loaded:
        raise InputError(f"suite '{suite.name}' has no data: {next(iter(missing.values()))}")
    chosen = next(iter(models.values())).evaluation
    options = ((c.key, c.lacks(chosen, judged=protocols[c.benchmark].judged, encoder=encoder is not None)) for c in suite.columns)
    lacking = {key: needed for key, needed in options if needed}
    text_only = frozenset(model for model, config in models.items() if config.evaluation.most_images(model) == 0)

    def part(model: str, name: str) -> SuitePart:
        problem = (
            "no data"
            if name in missing
            else "needs --judge"
            if protocols[name].judged and chosen.judge is None
            else "text only"
            if model in text_only and known[name].needs_image
            else ""
        )
        if problem:
            return SuitePart(model, name, None, problem)
        config = _config_of(models[model], suite, name, protocols[name], lacking)
        place = directory / folder_of(model) / name
        evaluation = evaluation_of(model, [loaded[name]], protocols[name], place, config, textbook=folder, need_keys=need_keys)
        arguments = {"model": model, "benchmarks": [name], "data": absolute(folder), "benchmark_files": [absolute(file) for file in files]}
        evaluation.again = preparation_of(config, arguments)
        evaluation.engine = engine or evaluation.engine
        return SuitePart(model, name, evaluation)

    parts = tuple(part(model, name) for model in models for name in suite.benchmarks)
    record = {
        "suite": suite.name,
        "models": {name: config.model_dump(mode="json") for name, config in models.items()},
        "data": absolute(folder),
        "benchmark_files": [absolute(file) for file in files],
        "encoder": None if encoder is None else asdict(encoder),
    }
    return SuiteRun(
        suite, directory, parts, lacking, missing, text_only, protocols, encoder, chosen.budget_usd, engine or LocalEngine(), record
    )


def suite_of_record(record: Mapping[str, Any], run: Path, engine: Engine) -> SuiteRun:
    """Prepare a suite again, without keys, from :attr:`SuiteRun.record`.

    Raises:
        InputError: as for :func:`prepare_suite`.
    """
    files = record["benchmark_files"]
    models = {name: EvaluationFile.check(config, origin=Path("run.json")) for name, config in record["models"].items()}
    encoder = None if record["encoder"] is None else Encoder(**record["encoder"])
    suite = suite_of(record["suite"], [Path(file) for file in files])
    return prepare_suite(
        suite, models, run, data=record["data"], benchmark_files=files, encoder=encoder, need_keys=False, engine=engine
    )  # fmt: skip


def folder_of(model: str) -> str:
    """Return the name of a model's folder: the model's name if it is a safe file name, else a safe one with a hash."""
    if _SAFE.fullmatch(model):
        return model
    digest = hashlib.sha256(model.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', model).strip('-')[-60:]}-{digest}"


def _config_of(config: EvaluationFile, suite: Suite, benchmark: str, protocol: Protocol, lacking: Mapping[str, str]) -> EvaluationFile:
    """Leave out the judges and interns that no column of this benchmark needs, because their calls cost money."""
    wanted = any(c.benchmark == benchmark and (c.score or "").startswith(MICS) and c.key not in lacking for c in suite.columns)
    chosen = config.evaluation
    changes = {
        "protocol": protocol.name,
        "extractor": None,
        "interns": chosen.interns if wanted else [],
        "judge": chosen.judge if wanted or protocol.judged else None,
        "budget_usd": None,
    }
    return config.model_copy(update={"evaluation": chosen.model_copy(update=changes)})


def _spent(evaluation: Evaluation) -> float:
    ledger = evaluation.directory.ledger
    if not ledger.is_file():
        return 0.0
    with Ledger.read(ledger) as read:
        return read.spent_usd()
