"""``chiron eval``: a model's answers to benchmarks, by a protocol, in a run directory."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(invoke_without_command=True, no_args_is_help=True)


@app.callback()
def command(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Under models of the configuration; without one, offline:NAME or a checkpoint's folder."),
    ] = None,
    benchmarks: Annotated[str | None, typer.Option(metavar="LIST", help="Names with commas between; --list shows them.")] = None,
    run: Annotated[
        Path | None, typer.Option("--run", metavar="DIR", help="The run directory of this model and protocol: made, or gone on with.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="YAML with models, and perhaps a section evaluation.")
    ] = None,
    protocol: Annotated[str | None, typer.Option(metavar="P", help="huatuo_closed, chiron_judge, medevalkit_full or exact.")] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="The files as downloaded; else they come from the hub.")] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first N items of each benchmark.")] = None,
    seeds: Annotated[int | None, typer.Option(metavar="K", min=1, help="Ask everything K times; or K orders of the options.")] = None,
    temperature: Annotated[float | None, typer.Option(metavar="T", min=0, max=2, help="0, or 0.7 for several seeds.")] = None,
    control: Annotated[str, typer.Option(metavar="C", help="none, no-image, blank, swap or shuffle-options.")] = "none",
    judge: Annotated[str | None, typer.Option(metavar="NAME", help="For a protocol that wants one; else a column of its own.")] = None,
    extractor: Annotated[str | None, typer.Option(metavar="NAME", help="A model that reads the options out too, as a column.")] = None,
    interns: Annotated[
        str | None, typer.Option(metavar="NAMES", help="They go on from the reasoning: its MICS-Score. Needs --judge.")
    ] = None,
    list_all: Annotated[bool, typer.Option("--list", help="Show the benchmarks and how to get them.")] = False,
    export_tsv: Annotated[
        Path | None, typer.Option("--export-tsv", metavar="DIR", help="Ask nothing: write the benchmarks as TSV for VLMEvalKit.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the figures as JSON on standard output.")] = False,
) -> None:
    """Measure a model on benchmarks. What the run directory holds is neither asked nor paid for twice.

    One directory is of one model and protocol; benchmarks and controls add up in it. 'chiron compare DIR DIR ...' makes tables of several.
    """
    if context.invoked_subcommand is not None:
        return
    from chiron.cli.evaluating import finish_evaluation, show_benchmarks, write_tsv
    from chiron.errors import InputError

    if list_all:
        show_benchmarks(json_output=json_output)
        return
    if export_tsv is not None:
        write_tsv(_names(benchmarks or ""), export_tsv, data=data, protocol=protocol)
        return
    for name, value in (("--model NAME", model), ("--benchmarks LIST", benchmarks), ("--run DIR", run)):
        if value is None:
            raise InputError(f"{name} is missing: 'chiron eval --help' shows how it is used, 'chiron eval --list' the benchmarks")
    assert model is not None and benchmarks is not None and run is not None  # noqa: S101, PT018 - looked at above
    from chiron.cli.conducting import attend
    from chiron.evaluation.config import load_evaluation
    from chiron.evaluation.controls import control_of
    from chiron.evaluation.running import prepare_evaluation

    chosen = load_evaluation(
        config,
        model,
        protocol=protocol,
        limit=limit,
        seeds=seeds,
        temperature=temperature,
        judge=judge,
        extractor=extractor,
        interns=_names(interns) if interns is not None else None,
    )
    prepared = prepare_evaluation(model, _names(benchmarks), run, chosen, data=data, control=control_of(control))
    finish_evaluation(attend(prepared.session, prepared.execute), json_output=json_output)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
