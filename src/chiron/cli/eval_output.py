"""Output of `chiron eval`: the list of benchmarks, a forecast, and the figures of an evaluation."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from chiron.cli.forecast import show_forecast
from chiron.cli.live import duration
from chiron.cli.runner import closing_code, is_submitted, print_json, run_with_ui, spending_table, spent_in_words
from chiron.cli.streams import messages, whole
from chiron.errors import InputError
from chiron.evaluation.benchmarks.loading import how_to_get, load
from chiron.evaluation.evaluation import Evaluation, EvaluationSummary
from chiron.evaluation.items import ITEMS, RESULTS
from chiron.evaluation.registry import benchmark_of, benchmarks, protocol_of, protocols, suites
from chiron.evaluation.results import ResultGroup
from chiron.evaluation.tsv import export_tsv
from chiron.terminal import printable


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
        console.print(spending_table(summary.spending))
        spent = spent_in_words(summary.spent_usd, summary.possibly_spent_usd)
        console.print(f"{summary.total} items in {duration(summary.seconds)}" + (f"; {spent}" if spent else ""))
        for name, file in (("items", ITEMS), ("results", RESULTS)):
            console.print(f"{name:8}{escape(printable(summary.directory / file))}")
    sys.exit(closing_code(summary))


def figures_table(groups: tuple[ResultGroup, ...]) -> Table:
    """Build a table with one line for each benchmark and control."""
    table = Table(box=None, padding=(0, 2), pad_edge=False, header_style="dim")
    for title in ("benchmark", "control", "seeds", "N", "accuracy", "95 %", "unparsed", "unusable", "pending", "other scores"):
        table.add_column(title, justify="left" if title in {"benchmark", "control", "other scores"} else "right")
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
