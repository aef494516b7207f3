"""`chiron demo` and `chiron sample`."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from chiron.cli.streams import ProgressLine, messages
from chiron.errors import InputError
from chiron.extras import install_command
from chiron.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from chiron.demo.demonstration import Demonstration, Progress
    from chiron.demo.loop import ExportedSignal
    from chiron.training.metrics import HeldOut, StepMetrics


NEEDED = ("torch", "transformers", "accelerate", "peft", "safetensors", "scipy", "matplotlib", "datasets", "datasketch", "imagehash")
"""Packages of the extras ``train`` and ``data``."""


def demo_command(
    directory: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Output directory; a run in it is resumed.")] = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer cases and steps: shorter, with wider intervals.")] = False,
    search_only: Annotated[bool, typer.Option("--search-only", help="Sample cases and embedded baselines; no training.")] = False,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of cases for --search-only.")] = 24,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of world, cases, models and search.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the ladder as JSON, for programs.")] = False,
) -> None:
    """Train a small student on drawn cases, and measure what each kind of stage 3 adds. Needs no key, network or GPU."""
    if search_only:
        if as_json:
            raise InputError("--search-only has no ladder for --json; use one of the two options")
        _search_only(directory, count, seed)
        return
    # Figures and releases come last, so what only they need would otherwise be missed after ten minutes.
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise InputError(
            f"the demonstration trains models and releases datasets, and needs the package '{missing[0]}': {install_command('train,data')},"
            " or use --search-only"
        )
    import torch

    from chiron.demo.data import FULL, QUICK
    from chiron.demo.demonstration import demonstrate
    from chiron.demo.page import write_page
    from chiron.demo.processes import cores

    # Such small models do not gain from threads; several processes share the work.
    torch.set_num_threads(1)
    processes = 1 if torch.cuda.is_available() else min(2, cores())
    console = messages()
    scale = QUICK if quick else FULL
    done = demonstrate(directory / f"{scale.name}-{seed}", scale, _DemoProgress(), seed=seed, processes=processes)
    page = write_page(done)
    if as_json:
        print(json.dumps(done.ladder(), indent=1))
    else:
        _print_picture(done, Console(file=sys.stdout))
    _print_files(done, page, console)


def _print_picture(done: "Demonstration", out: Console) -> None:
    from chiron.demo.page import example_panel, examples, ladder_table

    out.print(ladder_table(done.rungs), soft_wrap=True)
    out.print(
        f"\nShare of right answers to {done.scale.evaluated} new cases of each kind. A bar is solid up to the lower end of the"
        " 95 % interval and light up to the upper end. One run of one seed; chance is 0.11.",
        highlight=False,
    )
    for intern in done.interns:
        seen, held_out = intern.measured.seen_share, intern.measured.held_out_share
        out.print(f"{intern.name}, made from {done.scale.annotated} true chains: {seen.value:.2f} seen, {held_out.value:.2f} held out")
    for example in examples(done, 1):
        out.print()
        out.print(example_panel(example, color=out.color_system is not None))


def _print_files(done: "Demonstration", page: Path, console: Console) -> None:
    from chiron.demo.demonstration import SIGNALS
    from chiron.demo.ladder import MICS

    for name, p in done.purity.items():
        console.print(f"{name}: {p.retained} of {p.cases} cases have a retained path; {p.pure} of these paths have no wrong step")
    console.print("training signals of the search: " + signals_in_words(done.signals), markup=False, soft_wrap=True)
    console.print("took " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in done.seconds.items()))
    for name, file in (
        ("page", page),
        ("ladder", done.folder / "ladder.json"),
        ("search", done.run / "report.html"),
        ("signals", done.folder / SIGNALS),
        ("curves", done.base / "curves.png"),
        ("model", done.folder / MICS / "model"),
    ):
        console.print(f"{name:8}{escape(printable(file))}", soft_wrap=True)


def signals_in_words(signals: "Iterable[ExportedSignal]") -> str:
    """Return the number of rows of each training signal, and why one has none."""
    return ", ".join(f"{each.name} {each.rows:,}" + (f" ({printable(each.why_none)})" if each.why_none else "") for each in signals)


def _search_only(directory: Path, count: int, seed: int) -> None:
    import yaml

    from chiron.cli.runner import conduct, finish
    from chiron.mics.api import prepare_run
    from chiron.mics.config import check_config
    from chiron.mics.prompts import template
    from chiron.phantom.sample import write_sample

    console = messages()
    name = f"{count}-{seed}" if seed else str(count)
    sample = write_sample(directory / f"cases-{name}", count=count, seed=seed)
    console.print(f"generated {sample.count} cases: {escape(printable(sample.cases))}")
    settings = yaml.safe_load(template("offline"))
    settings["search"]["seed"] = seed
    config = check_config(settings, origin=Path("offline.yaml"))
    console.print("searching them with the embedded baselines: extractive mentors, retrieval interns, and a judge that compares texts")
    finish(conduct(prepare_run(sample.cases, config, directory / f"run-{name}")), json_output=False)


class _DemoProgress:
    """Print a headline for each part, and its progress."""

    def __init__(self) -> None:
        self._line = ProgressLine()
        self._jobs: dict[str, str] = {}

    def part(self, text: str) -> None:
        self._line.headline(text)

    def step(self, metrics: "StepMetrics | HeldOut") -> None:
        if hasattr(metrics, "held_out_loss"):
            self._line.headline(f"  held-out loss after {metrics.stage}: {metrics.held_out_loss:.4f}")
        else:
            self._line.update(
                f"  {metrics.stage}: step {metrics.step}/{metrics.steps}, loss {metrics.loss:.3f}", metrics.step, metrics.steps
            )

    def job(self, name: str, news: "StepMetrics | HeldOut | Progress") -> None:
        from chiron.demo.demonstration import Progress
        from chiron.training.metrics import StepMetrics

        if isinstance(news, Progress):
            self._jobs[name] = f"{news.what} {news.done}/{news.of}"
            if news.done == news.of and news.what == "answered":
                del self._jobs[name]
                self._line.headline(f"  {name} is trained and evaluated")
        elif isinstance(news, StepMetrics):
            self._jobs[name] = f"step {news.step}/{news.steps}, loss {news.loss:.3f}"
        if self._jobs:
            self._line.say("  " + "; ".join(f"{job}: {state}" for job, state in self._jobs.items()))


def sample_command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for cases.jsonl, images/ and textbook.jsonl.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of cases.")] = 24,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    size: Annotated[int, typer.Option(min=32, help="Side of the images in pixels.")] = 256,
) -> None:
    """Generate synthetic cases: an organ, a lesion, a history, findings, a question and its answer."""
    from chiron.phantom.sample import write_sample

    sample = write_sample(directory, count=count, seed=seed, size=size)
    print(f"wrote {sample.count} cases to {sample.cases}, images under {sample.images}, rules in {sample.textbook}")
