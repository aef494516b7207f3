"""Output of `chiron eval`: the list of benchmarks, a forecast, and the figures of an evaluation."""

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from chiron.cli.compare import encoder_of
from chiron.cli.forecast import show_forecast
from chiron.cli.live import duration
from chiron.cli.runner import closing_code, is_submitted, print_json, run_with_ui, spending_table, spent_in_words
from chiron.cli.streams import messages, plain_table, results, whole
from chiron.errors import InputError
from chiron.evaluation.benchmarks.loading import how_to_get, load
from chiron.evaluation.evaluation import Evaluation, EvaluationSummary
from chiron.evaluation.items import ITEMS, RESULTS
from chiron.evaluation.registry import benchmark_of, benchmarks, protocol_of, protocols, suite_of, suites
from chiron.evaluation.results import ResultGroup
from chiron.evaluation.tsv import export_tsv
from chiron.terminal import printable

if TYPE_CHECKING:
    from chiron.evaluation.suite_run import SuitePart, SuiteRun
    from chiron.jobs.engine import Engine


def show_benchmarks(files: Sequence[Path], *, json_output: bool) -> None:
    """Print all benchmarks, protocols and suites."""
    known, ways, tables = benchmarks(files).values(), protocols(files).values(), suites(files).values()
    if json_output:
        fields = ("name", "title", "size", "license", "protocol", "hub")
        listed = [{**{f: getattr(b, f) for f in fields}, "how_to_get": how_to_get(b)} for b in known]
        print_json(
            {
                "benchmarks": listed,
                "protocols": [{"name": p.name, "description": p.description, "judged": p.judged} for p in ways],
                "suites": [asdict(suite) for suite in tables],
            }
        )
        return
    console = Console()
    for b in known:
        console.print(Text.assemble((b.name, "bold"), f"  {b.title}"))
        for label, value in (("holds", b.size), ("license", b.license), ("protocol", b.protocol), ("to get it", how_to_get(b))):
            console.print(Text(f"    {label:10}{value}"), soft_wrap=True)
    console.print("\nProtocols")
    for p in ways:
        console.print(Text.assemble((f"{p.name:18}", "bold"), p.description, "; needs a judge" if p.judged else ""), soft_wrap=True)
    console.print("\nSuites (--suite)")
    for suite in tables:
        console.print(Text.assemble((f"{suite.name:18}", "bold"), f"{suite.title}: {', '.join(suite.benchmarks)}"), soft_wrap=True)


def write_tsv(names: list[str], out: Path, *, data: Path | None, protocol: str | None, files: Sequence[Path] = ()) -> None:
    """Write each benchmark as ``OUT/NAME.tsv``."""
    if not names:
        raise InputError("--benchmarks LIST is missing: 'chiron eval --list' shows them")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"folder {out} cannot be created: {error.strerror}") from error
    for benchmark in (benchmark_of(name, files) for name in names):
        path = out / f"{benchmark.name}.tsv"
        count, left_out = export_tsv(load(benchmark, data, out), protocol_of(protocol or benchmark.protocol, files), path)
        for line in left_out:
            messages().print(f"[yellow]left out:[/yellow] {escape(printable(line))}")
        print(f"{count} questions  {printable(path)}")


def measure(evaluation: Evaluation, *, dry_run: bool, json_output: bool) -> None:
    """Measure a model, print its figures and exit with the exit code. A dry run only prints a forecast."""
    if dry_run:
        show_forecast([evaluation.rehearsal()], json_output=json_output)
    else:
        finish_evaluation(run_with_ui(evaluation), json_output=json_output)


def finish_evaluation(summary: EvaluationSummary, *, json_output: bool) -> NoReturn:
    """Print the figures of an evaluation, and exit with its exit code."""
    if json_output:
        print_json(summary.to_record())
    elif not is_submitted(summary):
        console = messages()
        console.print(figures_table(summary.groups))
        if summary.spending:
            console.print(spending_table(summary.spending))
        console.print(_items_in_words(summary))
        for name, file in (("items", ITEMS), ("results", RESULTS)):
            console.print(f"{name:8}{escape(printable(summary.directory / file))}")
    sys.exit(closing_code(summary))


def _items_in_words(summary: EvaluationSummary) -> str:
    spent = spent_in_words(summary.spent_usd, summary.possibly_spent_usd)
    return f"{summary.total} items in {duration(summary.seconds)}" + (f"; {spent}" if spent else "")


def figures_table(groups: tuple[ResultGroup, ...]) -> Table:
    """Build a table with one line for each benchmark and control."""
    figures = ("seeds", "N", "accuracy", "95 %", "unparsed", "unusable", "pending")
    table = plain_table(("benchmark", "control"), figures, "other scores")
    for group in groups:
        interval = group["interval"]
        count = group["verdicts"]
        part = "" if group["n"] == group["n_of_benchmark"] else f" of {group['n_of_benchmark']}"
        scores = ", ".join(f"{name} {score['mean']:.3f}" for name, score in group["scores"].items() if "@" not in name)
        table.add_row(
            group["benchmark"],
            group["control"],
            str(group["seeds"]),
            f"{group['n']}{part}",
            "-" if group["accuracy"] is None else f"{group['accuracy']:.1%}",
            f"{interval[0]:.1%} - {interval[1]:.1%}" if interval else "-",
            f"{group['unparsed_rate']:.1%}",
            str(count["unusable"]),
            str(count["pending"]),
            Text(printable(scores)),
        )
    return whole(table)


def measure_suite(
    name: str,
    models: Sequence[str],
    run: Path,
    *,
    config: Path | None,
    data: Path | None,
    files: Sequence[Path],
    bertscore: str | None,
    options: Mapping[str, Any],
    engine: "Engine",
    dry_run: bool,
    json_output: bool,
) -> None:
    """Prepare a suite, then forecast or measure it; see :func:`finish_suite`.

    ``options``: keys of the section ``evaluation`` to replace; ``None`` keeps the configured value.
    """
    from chiron.evaluation.config import load_evaluation
    from chiron.evaluation.suite_run import prepare_suite

    suite = suite_of(name, files)
    if twice := [model for model, number in Counter(models).items() if number > 1]:
        raise InputError(f"--model {printable(twice[0])} is given twice: name each model once")
    chosen = {model: load_evaluation(config, model, **options) for model in models}
    encoder = encoder_of(bertscore, None, None) if bertscore is not None else None
    prepared = prepare_suite(suite, chosen, run, data=data, benchmark_files=files, encoder=encoder, need_keys=not dry_run, engine=engine)
    if dry_run:
        _note_missing(prepared)
        show_forecast([evaluation.rehearsal() for evaluation in prepared.evaluations], json_output=json_output)
        return
    finish_suite(prepared, json_output=json_output)


def _note_missing(prepared: "SuiteRun") -> None:
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


def finish_suite(prepared: "SuiteRun", *, json_output: bool, merged: Callable[[], None] | None = None) -> NoReturn:
    """Measure the models one after the other, print the table, write it, and exit with the exit code of the worst evaluation.

    ``merged``: the evaluations are those of a submitted suite. Leave none out, also after an error in one. Call this when everything is
    written.
    """
    from chiron.evaluation.tables.formats import show

    console = messages()
    _note_missing(prepared)
    codes: list[int] = []
    problems: list[InputError] | None = None if merged is None else []
    asked = len(prepared.evaluations)

    def execute(part: "SuitePart", evaluation: Evaluation) -> EvaluationSummary | None:
        console.print(f"[bold]{escape(printable(part.model))}[/bold] on {escape(part.benchmark)} ({len(codes) + 1} of {asked})")
        if (summary := _measured(evaluation, problems)) is None:
            codes.append(2)
            return None
        if is_submitted(summary):
            codes.append(0)
            return summary
        console.print(_items_in_words(summary))
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
