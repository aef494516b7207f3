"""`chiron eval --suite`: models on all columns of a published table, and the table."""

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from rich.markup import escape

from chiron.cli.compare import encoder_of
from chiron.cli.forecast import show_forecast
from chiron.cli.live import duration
from chiron.cli.runner import closing_code, is_submitted, print_json, run_with_ui, spent_in_words
from chiron.cli.streams import messages, results
from chiron.errors import InputError
from chiron.evaluation.config import load_evaluation
from chiron.evaluation.evaluation import Evaluation, EvaluationSummary
from chiron.evaluation.registry import suite_of
from chiron.evaluation.suite_run import SuitePart, SuiteRun, prepare_suite
from chiron.evaluation.tables.formats import show
from chiron.jobs.engine import Engine
from chiron.terminal import printable


@dataclass(frozen=True)
class SuiteCommand:
    """The options of the command."""

    suite: str
    models: Sequence[str]
    run: Path
    config: Path | None
    data: Path | None
    files: Sequence[Path]
    bertscore: str | None
    options: Mapping[str, Any]
    """Keys of the section ``evaluation`` to replace; ``None`` keeps the configured value."""
    engine: Engine

    def prepare(self, *, need_keys: bool) -> SuiteRun:
        """Prepare the suite; for errors see :func:`chiron.evaluation.suite_run.prepare_suite`."""
        suite = suite_of(self.suite, self.files)
        if twice := [name for name, number in Counter(self.models).items() if number > 1]:
            raise InputError(f"--model {printable(twice[0])} is given twice: name each model once")
        models = {name: load_evaluation(self.config, name, **self.options) for name in self.models}
        encoder = encoder_of(self.bertscore, None, None) if self.bertscore is not None else None
        return prepare_suite(
            suite, models, self.run, data=self.data, benchmark_files=self.files, encoder=encoder, need_keys=need_keys, engine=self.engine
        )


def measure_suite(command: SuiteCommand, *, dry_run: bool, json_output: bool) -> None:
    """Prepare a suite, then forecast or measure it; see :func:`finish_suite`."""
    prepared = command.prepare(need_keys=not dry_run)
    if dry_run:
        _note_missing(prepared)
        show_forecast([evaluation.rehearsal() for evaluation in prepared.evaluations], json_output=json_output)
        return
    finish_suite(prepared, json_output=json_output)


def _note_missing(prepared: SuiteRun) -> None:
    for problem in prepared.missing.values():
        messages().print(f"[yellow]note:[/yellow] {escape(printable(f'left out: {problem}'))}")


def _measured(evaluation: Evaluation, problems: list[InputError] | None) -> EvaluationSummary | None:
    """Run an evaluation. An error is printed and added to ``problems``, or raised without them."""
    try:
        return run_with_ui(evaluation)
    except InputError as problem:
        if problems is None:
            raise
        problems.append(problem)
        messages().print(f"[red]error:[/red] {escape(printable(problem))}", soft_wrap=True)
        return None


def finish_suite(prepared: SuiteRun, *, json_output: bool, merged: Callable[[], None] | None = None) -> NoReturn:
    """Measure the models one after the other, print the table, write it, and exit with the exit code of the worst evaluation.

    ``merged``: the evaluations are those of a submitted suite. Leave none out, also after an error in one. Call this when everything is
    written.
    """
    console = messages()
    _note_missing(prepared)
    codes: list[int] = []
    problems: list[InputError] | None = None if merged is None else []
    asked = len(prepared.evaluations)

    def execute(part: SuitePart, evaluation: Evaluation) -> EvaluationSummary | None:
        console.print(f"[bold]{escape(printable(part.model))}[/bold] on {escape(part.benchmark)} ({len(codes) + 1} of {asked})")
        if (summary := _measured(evaluation, problems)) is None:
            codes.append(2)
            return None
        if is_submitted(summary):
            codes.append(0)
            return summary
        spent = spent_in_words(summary.spent_usd, summary.possibly_spent_usd)
        console.print(f"{summary.total} items in {duration(summary.seconds)}" + (f"; {spent}" if spent else ""))
        codes.append(closing_code(summary))
        return summary

    summaries = prepared.measure(execute, every=merged is not None)
    if prepared.submitted:
        if json_output:
            print_json({"suite": prepared.suite.name, "submitted": prepared.submitted[0]})
        console.print(escape(printable(prepared.submitted[0])), soft_wrap=True)
        sys.exit(0)
    tables = prepared.tables()
    paths = prepared.write(tables)
    if json_output:
        print_json(
            {
                "suite": prepared.suite.name,
                "tables": [asdict(table) for table in tables],
                "files": [str(path) for path in paths],
                "evaluations": [summary.to_record() for summary in summaries],
            }
        )
    else:
        show(tables, results())
    for path in paths:
        console.print(f"table   {escape(printable(path))}")
    if prepared.missing:
        codes.append(2)
    if merged is not None and not problems and 130 not in codes:
        merged()
    # The first of these that occurred: interrupted, a bug, something to fix, something pending.
    sys.exit(next((code for code in (130, 1, 2, 3) if code in codes), 0))
