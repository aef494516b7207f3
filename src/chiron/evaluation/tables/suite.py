"""Build the table of a suite: the columns of the published table, and a row for each measured model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from chiron.evaluation.figures import Accuracy, Figure, accuracy, scores
from chiron.evaluation.protocols.protocol import Protocol
from chiron.evaluation.read_runs import Arm
from chiron.evaluation.statistics import mean_interval
from chiron.evaluation.suites.suite import Column, Suite
from chiron.evaluation.tables import formats
from chiron.evaluation.tables.content import CLUSTERED, N_NOTE, interval_notes, left_out
from chiron.evaluation.tables.formats import EMPTY, Cell, Grid, cell


@dataclass(frozen=True)
class SuiteResults:
    """What was measured of a suite."""

    suite: Suite
    models: tuple[str, ...]
    arms: Mapping[tuple[str, str], Arm]
    """By model and column key."""
    problems: Mapping[tuple[str, str], str]
    """By model and column key: why there is no figure, in a few words."""
    missing: Mapping[str, str]
    """By benchmark: what is wrong with its data."""
    text_only: frozenset[str]
    """Models that accept no images."""
    protocols: Mapping[str, Protocol] = field(default_factory=dict)
    """By benchmark."""

    def accuracy(self, model: str, column: Column) -> Accuracy | None:
        """Return the accuracy of a model on the benchmark of a column; ``None`` if there is none."""
        arm = self.arms.get((model, column.key))
        return accuracy(arm.results) if arm is not None and arm.results else None

    def figure(self, model: str, column: Column) -> Figure | None:
        """Return the reported figure of a column; ``None`` if there is none."""
        measured = self.accuracy(model, column)
        if measured is None or column.score is None:
            return measured.share if measured is not None else None
        return scores(self.arms[model, column.key].results).get(column.score)


def suite_table(results: SuiteResults) -> Grid:
    """Build the table of the measured models, with what is needed to believe it."""
    suite = results.suite
    head = ("model", *(column.title for column in suite.columns), *(("AVG",) if suite.averaged else ()))
    rows = tuple(
        (
            f"{model}{'*' if model in results.text_only else ''}",
            (
                *(_cell(results, model, column) for column in suite.columns),
                *((_average(results, model),) if suite.averaged else ()),
            ),
        )
        for model in results.models
    )
    return Grid(f"Measured here: {suite.title}, in percent", head, rows, tuple(_notes(results)))


def _cell(results: SuiteResults, model: str, column: Column) -> Cell:
    measured, figure = results.accuracy(model, column), results.figure(model, column)
    if measured is None or figure is None:
        return cell(EMPTY.figure, results.problems.get((model, column.key), "not asked yet" if measured is None else "no score"))
    whole = results.arms[model, column.key].making.whole
    part = f" of {whole:,}" if whole is not None and whole != measured.items else ""
    protocol = results.protocols.get(column.benchmark)
    return cell(
        formats.with_interval(figure),
        f"N {measured.items:,}{part}" if column.score is None else f"n {figure.of:,} of {measured.asked:,}",
        *formats.doubts(measured),
        left_out(measured.missing_left_out) if column.score is None and protocol and protocol.leaves_out_unparsed else "",
    )


def _average(results: SuiteResults, model: str) -> Cell:
    """Average the columns of AVG, if all of them are complete. An average over fewer columns could not be compared with another one."""
    columns = results.suite.averaged
    figures = [figure for column in columns if (figure := results.figure(model, column)) is not None]
    if len(figures) < len(columns):
        return cell(EMPTY.figure, f"{len(figures)} of {len(columns)} columns")
    if any(measured.pending for column in columns if (measured := results.accuracy(model, column)) is not None):
        return cell(EMPTY.figure, "pending items")
    known = [(figure.value, figure.interval) for figure in figures if figure.interval is not None]
    mean = sum(figure.value for figure in figures) / len(figures)
    interval = mean_interval(known) if len(known) == len(figures) else None
    return cell(formats.with_interval(Figure(mean, interval, len(figures), "Wilson")), f"over {len(columns)} columns")


def _notes(results: SuiteResults) -> Iterator[str]:
    suite = results.suite
    yield from interval_notes([a for model in results.models for c in suite.columns if (a := results.accuracy(model, c)) is not None])
    yield N_NOTE
    if suite.averaged:
        yield (
            f"AVG: mean of {', '.join(column.title for column in suite.averaged)}, only if all of them are complete; its interval combines"
            " theirs as independent (MOVER)."
        )
    if scored := [column.title for column in suite.columns if column.score and any(results.figure(m, column) for m in results.models)]:
        yield f"{', '.join(scored)}: mean over the answers that have it (n), times 100; brackets: {CLUSTERED}."
    for column in suite.columns:
        judge = next((arm.making.judge for (_, key), arm in results.arms.items() if key == column.key and arm.making.judge), None)
        judged = f", judge {judge}" if judge else ""
        yield f"{column.title}: {column.benchmark} ({column.split}), protocol {column.protocol}{judged}."
    yield from suite.notes
    yield from dict.fromkeys(note for protocol in results.protocols.values() for note in protocol.notes)
    for benchmark, problem in results.missing.items():
        yield f"{benchmark}, no data: {problem.removeprefix(f'{benchmark}: ')}."
    if results.text_only:
        yield "* A text-only model (max_images: 0 in the configuration): it is not asked about images."
    yield from _partial(results)


def _partial(results: SuiteResults) -> Iterator[str]:
    """Yield why figures are not final."""
    # Several columns may show the same answers.
    arms = {(model, arm.benchmark): arm for (model, _), arm in results.arms.items()}.values()
    limits = {arm.making.limit for arm in arms if arm.making.limit is not None}
    if limits:
        yield f"Only the first {', '.join(f'{limit:,}' for limit in sorted(limits))} items of a benchmark were asked (--limit)."
    found = [accuracy(arm.results) for arm in arms if arm.results]
    if unusable := sum(a.unusable for a in found):
        yield f"{unusable:,} questions cannot be asked, for example because the model accepts fewer images: they count as wrong."
    if any(a.pending for a in found) or any(key not in results.arms and key not in results.problems for key in _keys(results)):
        yield "Answers are pending: run the same command again before you use these figures."


def _keys(results: SuiteResults) -> Iterator[tuple[str, str]]:
    return ((model, column.key) for model in results.models for column in results.suite.columns)
