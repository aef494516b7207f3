"""`chiron train` and `chiron convert`."""

import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chiron.cli.streams import messages, quiet, show_log
from chiron.errors import InputError
from chiron.extras import install_command

if TYPE_CHECKING:
    from rich.console import Console

    from chiron.training.session import Prepared, TrainingSummary

_BUSY = 0.8
"""If less of the GPUs' time is used, a dry run says so."""
EXIT_REQUEUE = 75
"""Exit code of a training that ended on SIGTERM or SIGUSR1: EX_TEMPFAIL of sysexits.h, "try again later".

It differs from 130 (interrupted by hand) and from 143 and 138 (killed by these signals, without a checkpoint).
"""


class StopSignals:
    """Whether SIGTERM or SIGUSR1 was received. Until :attr:`training` is set, such a signal ends the process at once."""

    def __init__(self) -> None:
        self.received = False
        self.training = False

    def receive(self, *_: object) -> None:
        """Handle a signal. Repeated ones change nothing: schedulers send them to a process and to its group."""
        self.received = True
        if not self.training:
            sys.exit(EXIT_REQUEUE)


@contextlib.contextmanager
def _stop_signals() -> Iterator[StopSignals]:
    signals = StopSignals()
    before = {number: signal.signal(number, signals.receive) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train_command(
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="YAML recipe.")] = None,
    data: Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Folder with the recipe's JSONL files.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Output folder; created if missing, otherwise resumed.")] = None,
    images: Annotated[
        Path | None, typer.Option("--images", metavar="DIR", help="Folder of the images (default: images/ in --data).")
    ] = None,
    named: Annotated[
        str | None,
        typer.Option("--recipe", metavar="NAME", help="Use a recipe of the package instead of RECIPE; an unknown name lists them."),
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write event files for TensorBoard, under OUT/tensorboard.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the estimated time and memory, and exit.")] = False,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Number of GPUs, for --dry-run.")] = 1,
    tflops: Annotated[
        float | None, typer.Option("--tflops", min=0.001, help="Useful TFLOP/s of a GPU, for --dry-run (default: as measured on an H200).")
    ] = None,
    measure: Annotated[
        int, typer.Option("--measure", min=0, metavar="STEPS", help="With --dry-run: train so many steps, and estimate from their speed.")
    ] = 0,
    list_bases: Annotated[bool, typer.Option("--list-bases", help="List the families of base models and what each supports.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="With --list-bases: as JSON on standard output.")] = False,
) -> None:
    """Train a curriculum. After a kill, run the same command again: it resumes and gives the same weights.

    SIGTERM and SIGUSR1 end it after the current step with a checkpoint and exit code 75.

    On several GPUs: accelerate launch --num_processes 8 -m chiron train RECIPE --data DIR --out DIR
    """
    if list_bases:
        _show_bases(json_output=json_output)
        return
    if json_output:
        raise InputError("--json belongs to --list-bases: add it, or remove --json")
    recipe = _recipe_file(recipe, named)
    if recipe is None or data is None or out is None:
        missing = "RECIPE" if recipe is None else "--data DIR" if data is None else "--out DIR"
        raise InputError(f"{missing} is missing: run 'chiron train RECIPE --data DIR --out DIR'")
    try:
        from chiron.evaluation.reward import row_is_right
        from chiron.mmrp.card import has_practice_text
        from chiron.training.base import load_base
        from chiron.training.known_bases import load_for_estimate
        from chiron.training.recipe import load_recipe
        from chiron.training.session import prepare, train
        from chiron.training.stage import TrainingStopped
    except ModuleNotFoundError as error:
        raise InputError(f"training needs the package '{error.name}': {install_command('train')}") from error
    console = messages()
    if os.environ.get("RANK", "0") != "0":  # of several processes, the others print their errors only
        console = quiet()
        show_log(logging.ERROR)
    settings = load_recipe(recipe)
    if tensorboard:
        settings = settings.model_copy(update={"tensorboard": True})
    with _stop_signals() as signals:
        prepared = prepare(settings, data, images, load=load_for_estimate if dry_run else load_base)
        _announce(prepared, console)
        if has_practice_text(data):
            console.print("[yellow]note:[/yellow] the data contain practice text, not medical reasoning: the model is not to be used")
        if dry_run:
            _estimate(prepared, console, gpus=gpus, tflops=tflops, measure=measure)
            return
        from chiron.cli.live import TrainingView

        signals.training = True
        try:
            with TrainingView(console, prepared.plans) as view:
                trained = train(prepared, out, watch=view.tell, stop=lambda: signals.received, score=row_is_right)
        except TrainingStopped as stopped:
            console.print(str(stopped), markup=False)
            sys.exit(EXIT_REQUEUE)
    _report(prepared, trained, console)


def _report(prepared: "Prepared", trained: "TrainingSummary", console: "Console") -> None:
    from chiron.training.estimate import measure_throughput

    out = trained.out
    if (speed := measure_throughput(prepared, out / "metrics.jsonl", gpus=_processes())) is not None:
        for line in speed.lines():
            console.print(line)
    for stage, loss in trained.held_out.items():
        console.print(f"held-out loss after {stage}: {loss:.4f}")
    for name, file in (
        ("model", trained.model),
        ("adapter", trained.adapter),
        ("curves", out / "curves.png"),
        ("metrics", out / "metrics.jsonl"),
        *([("events", out / "tensorboard")] if prepared.recipe.event_files else []),
    ):
        console.print(f"{name:9}{file or '-'}", markup=False)


def _recipe_file(recipe: Path | None, named: str | None) -> Path | None:
    if named is None:
        return recipe
    from chiron.training.recipe import builtin_recipe

    if recipe is not None:
        raise InputError(f"--recipe {named} and RECIPE {recipe} were both given: remove one of them")
    return builtin_recipe(named)


def _show_bases(*, json_output: bool) -> None:
    from chiron.providers.local.families.registry import describe_families

    found = describe_families()
    if json_output:
        print(json.dumps(found, indent=2))
        return
    for family in found:
        print(f"{family['name']} (model_type {family['model_type']}): {family['checkpoints']}")
        rows = {
            "images": family["images"],
            "train": " or ".join(family["train"]),
            "LoRA": ", ".join(family["lora"]),
            **{
                label: "yes" if family[key] else "no"
                for label, key in (("QLoRA", "qlora"), ("packing", "packing"), ("in-process", "in_process"))
            },
            "convert": family["convert"] or "no",
        }
        print("".join(f"    {label:12}{value}\n" for label, value in rows.items()), end="")
    print("Tested with tiny random models on CPUs, and InternVL3 with random weights on one H200. Published weights are not tested.")


def _announce(prepared: "Prepared", console: "Console") -> None:
    if prepared.base.one_layer is not None:
        from chiron.training.known_bases import CHARACTERS_PER_TOKEN

        console.print(
            f"estimated without the base's tokenizer: {prepared.recipe.base} is not on this machine and cannot be reached, so its published"
            f" sizes are used, and {CHARACTERS_PER_TOKEN} characters count as a token",
            markup=False,
        )
    for plan in prepared.plans:
        note = f"; {plan.epochs:.1f} epochs" if plan.epochs > 1.01 else ""
        console.print(
            f"stage {plan.stage.name}: {plan.rows:,} rows, {plan.tokens:,} tokens ({plan.trained_tokens:,} trained on),"
            f" {plan.steps:,} steps, {plan.utilisation:.1%} of positions in use{note}"
        )


def _estimate(prepared: "Prepared", console: "Console", *, gpus: int, tflops: float | None, measure: int) -> None:
    from chiron.training.estimate import estimate

    found = estimate(prepared, gpus=gpus, tflops=tflops)
    if measure:
        if prepared.base.one_layer is not None:
            raise InputError(f"--measure needs the weights of {prepared.recipe.base}: make it available, or leave out --measure")
        found = found.at(_measured(prepared, console, measure))
    console.print(f"{found.parameters / 1e6:,.1f} M weights, {found.trained / 1e6:,.2f} M of them trained in the last stage")
    unit = prepared.base.layout.unit
    for s in found.stages:
        uneven = f"; {1 - s.busy:.0%} of the GPUs' time is idle: {gpus} cannot share the rows of a step evenly; larger steps would help"
        idle = uneven if s.busy < _BUSY else ""
        console.print(f"stage {s.stage}: {s.tokens:,} tokens, {s.tiles:,} {unit}, {s.petaflops:,.3g} PFLOP, about {s.hours:,.2g} h{idle}")
    where = f"on {gpus} GPU at {found.tflops:.3g} useful TFLOP/s each"
    console.print(f"in all about {found.hours:,.2g} h {where}, about {found.memory_gib:,.1f} GiB on each (estimates)")


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _measured(prepared: "Prepared", console: "Console", steps: int) -> float:
    """Train a few steps in a temporary folder; return the useful TFLOP/s. The model is changed."""
    from chiron.evaluation.reward import row_is_right
    from chiron.training.estimate import measure_throughput
    from chiron.training.metrics import HeldOut, StepMetrics
    from chiron.training.session import train
    from chiron.training.stage import TrainingStopped

    with tempfile.TemporaryDirectory() as folder:
        out, done = Path(folder), list[StepMetrics | HeldOut]()
        with contextlib.suppress(TrainingStopped):
            train(prepared, out, watch=done.append, stop=lambda: len(done) >= steps - 1, score=row_is_right)
        speed = measure_throughput(prepared, out / "metrics.jsonl", gpus=_processes())
    if speed is None:
        raise InputError("--measure needs at least two steps of one stage: raise it")
    for line in speed.lines():
        console.print(line)
    return speed.useful_tflops


class Target(StrEnum):
    """Checkpoint layouts."""

    HF = "hf"
    INTERNVL_CHAT = "internvl_chat"


def convert_command(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder of an InternVL checkpoint in either layout.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to create.")],
    target: Annotated[Target | None, typer.Option("--to", help="Layout to write (default: the other one).")] = None,
    system: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="To hf: system message for conversations without one: internvl2_5 (the authors') or a text."),
    ] = None,
) -> None:
    """Convert a checkpoint: the authors' internvl_chat (InternVL3, Chiron-o1) to transformers' InternVL, and back."""
    try:
        from chiron.convert.convert import detect, to_hf, to_internvl_chat
    except ModuleNotFoundError as error:
        raise InputError(f"conversion needs the package '{error.name}': {install_command('train')}") from error
    if target is not None and target == detect(source):
        raise InputError(f"{source} already has the layout {target}: nothing to convert")
    if system is not None and detect(source) != "internvl_chat":
        raise InputError("--system applies only to the layout hf, because the authors' code has its own system message: remove it")
    report = to_hf(source, out, system=system) if detect(source) == "internvl_chat" else to_internvl_chat(source, out)
    left = f"; left out: {', '.join(report.left_out)}" if report.left_out else ""
    notes = "".join(f"; {note}" for note in report.notes)
    print(
        f"wrote {out} in the layout {report.layout}: {report.tensors} tensors, {report.parameters / 1e6:,.1f} M parameters,"
        f" {report.size / 1e9:.2f} GB in {len(report.shards)} file{'s' if len(report.shards) != 1 else ''}{left}{notes}"
    )
