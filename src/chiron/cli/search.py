"""``chiron search``: the search over a file of cases, in a run directory."""

from pathlib import Path
from typing import Annotated

import typer

Cases = Annotated[Path, typer.Argument(metavar="CASES", help="JSONL or JSON, in the published or the tidy format.")]
Config = Annotated[Path, typer.Option("--config", metavar="FILE", help="YAML; 'chiron init' writes one.")]
RunDir = Annotated[Path, typer.Option("--run", metavar="DIR", help="The run directory: made, or gone on with.")]
Images = Annotated[Path | None, typer.Option("--images", metavar="DIR", help="Where images lie (default: images/ beside CASES).")]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")]


def command(
    cases: Cases,
    config: Config,
    run: RunDir,
    images: Images = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first N cases.")] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Only part I of N, for N machines.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Overrides search.seed.")] = None,
    json_output: Json = False,
) -> None:
    """Search every case for a reasoning path that interns can follow to its answer.

    Run it again to go on: what the run directory holds is neither asked nor paid for twice. Ctrl-C stops once the calls under way are
    in; a second Ctrl-C stops at once.
    """
    # Imported here, and so in every command, because a person waits for "chiron --help" too.
    from chiron.cli.conducting import conduct, finish
    from chiron.mics.config import load_config
    from chiron.mics.public import prepare_run

    prepared = prepare_run(cases, load_config(config, seed=seed), run, images=images, limit=limit, shard=shard)
    finish(conduct(prepared), json_output=json_output)
