"""`chiron demo` and `chiron sample`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chiron.cli.streams import messages
from chiron.errors import InputError
from chiron.terminal import printable

if TYPE_CHECKING:
    from chiron.demo.demonstration import Demonstration, Progress
    from chiron.training.metrics import HeldOut, StepMetrics


def demo_command(
    directory: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Output folder.")] = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Run the same steps in two minutes, with lower accuracy.")] = False,
    search_only: Annotated[
        bool, typer.Option("--search-only", help="Search sample cases with the embedded baselines, without training.")
    ] = False,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of cases, for --search-only.")] = 24,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed.")] = 0,
) -> None:
    """Run everything on synthetic cases: train, search, train on the found paths, evaluate. Needs no key, network or GPU."""
    if search_only:
        _search_only(directory, count, seed)
        return
    try:
        import scipy.stats  # noqa: F401 - for the intervals of its figures, which are computed last
        import torch

        from chiron.demo.demonstration import demonstrate
    except ModuleNotFoundError as error:
        raise InputError(
            f"the demonstration trains a model and needs the package '{error.name}': pip install 'chiron-med[train]', or use --search-only"
        ) from error
    from chiron.cli.runner import conduct
    from chiron.demo.data import FULL, QUICK
    from chiron.demo.page import write_page
    from chiron.demo.processes import cores

    # Such small models do not gain from threads; several processes share the work.
    torch.set_num_threads(1)
    processes = 1 if torch.cuda.is_available() else min(2, cores())
    console = messages()
    scale = QUICK if quick else FULL
    done = demonstrate(directory / f"{scale.name}-{seed}", scale, _DemoProgress(console), conduct, seed=seed, processes=processes)
    page = write_page(done)
    Console(file=sys.stdout).print(_table(done))
    _say_where(done, page, console)


def _table(done: "Demonstration") -> Table:
    table = Table(box=None, padding=(0, 3), pad_edge=False, header_style="bold")
    for title in ("stage 3 on", "rows", "seen", "held out"):
        table.add_column(title, justify="left" if title == "stage 3 on" else "right")
    for arm in done.arms:
        shares = [arm.measured.seen_share, arm.measured.held_out_share]
        table.add_row(arm.name, str(arm.rows or ""), *(f"{s.value:.3f}  [{s.interval[0]:.2f}, {s.interval[1]:.2f}]" for s in shares))
    return table


def _say_where(done: "Demonstration", page: Path, console: Console) -> None:
    p = done.purity
    console.print(
        f"share of right answers and its 95 % interval, {done.scale.evaluated} new cases each; chance is 0.167. Of {p.retained} retained"
        f" paths {p.pure} have no wrong step. One run of one seed"
    )
    console.print("took " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in done.seconds.items()))
    for name, file in (
        ("page", page),
        ("search", done.run / "report.html"),
        ("curves", done.base / "curves.png"),
        ("models", done.arms[0].model),
    ):
        console.print(f"{name:8}{escape(printable(file))}", soft_wrap=True)


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

    def __init__(self, console: Console) -> None:
        from chiron.cli.streams import ProgressLine

        self._line = ProgressLine(console)
        self._arms: dict[str, str] = {}

    def part(self, text: str) -> None:
        self._line.headline(text)

    def step(self, metrics: "StepMetrics | HeldOut") -> None:
        if hasattr(metrics, "held_out_loss"):
            self._line.headline(f"  held-out loss after {metrics.stage}: {metrics.held_out_loss:.4f}")
        else:
            self._line.update(
                f"  {metrics.stage}: step {metrics.step}/{metrics.steps}, loss {metrics.loss:.3f}", metrics.step, metrics.steps
            )

    def arm(self, name: str, news: "StepMetrics | HeldOut | Progress") -> None:
        from chiron.demo.demonstration import Progress
        from chiron.training.metrics import StepMetrics

        if isinstance(news, Progress):
            self._arms[name] = f"answered {news.answered}/{news.of}"
        elif isinstance(news, StepMetrics):
            self._arms[name] = f"step {news.step}/{news.steps}, loss {news.loss:.3f}"
        self._line.say("  " + "; ".join(f"{arm}: {state}" for arm, state in self._arms.items()))


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
