"""`chiron search`, `replay`, `status` and `report`."""

import asyncio
import inspect
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from chiron.cli.streams import messages, results
from chiron.errors import InputError
from chiron.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from chiron.client.ledger_accounts import FailureReason
    from chiron.jobs.engine import EngineOptions

Cases = Annotated[Path, typer.Argument(metavar="CASES", help="JSONL or JSON file, in the published or the tidy format.")]
Config = Annotated[Path, typer.Option("--config", metavar="FILE", help="YAML configuration; 'chiron init' writes one.")]
RunDir = Annotated[Path, typer.Option("--run", metavar="DIR", help="Run directory; created if missing, otherwise resumed.")]
Images = Annotated[Path | None, typer.Option("--images", metavar="DIR", help="Folder of the images (default: images/ next to CASES).")]
MovedCases = Annotated[Path | None, typer.Option("--cases", metavar="FILE", help="File of the cases, if it was moved.")]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")]

Engine = Annotated[str, typer.Option(metavar="NAME", help="local: this process; ray: a Ray cluster; slurm: see 'chiron slurm'.")]
Address = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Ray cluster, or auto; by default Ray starts on this machine.")]
Workers = Annotated[int | None, typer.Option(metavar="N", min=1, help="Worker processes (Ray's default: one for each machine).")]
StorageUrl = Annotated[
    str | None, typer.Option("--storage", metavar="URL", help="Shared folder or s3://, gs:// URL for copies of the workers' ledgers.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print calls, tokens, cost and time to expect, and stop.")]
Pilot = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=3,
        help="With --dry-run: first ask the first N cases, paid once and kept in the run directory, and project from them.",
    ),
]


def need_dry_run(pilot: int | None, *, dry_run: bool) -> None:
    """Check that a pilot is part of a dry run."""
    if pilot is not None and not dry_run:
        raise InputError("--pilot belongs to --dry-run: add it, or remove --pilot")


def engine_choice(
    engine: Engine = "local", address: Address = None, workers: Workers = None, storage: StorageUrl = None
) -> tuple[str, "EngineOptions"]:
    """Return the name and the options of an engine."""
    from chiron.jobs.engine import EngineOptions

    return engine, EngineOptions(address=address, workers=workers, storage=storage)


def with_engine(
    command: "Callable[..., None]", choice: "Callable[..., tuple[str, EngineOptions]]" = engine_choice, without: "Sequence[str]" = ()
) -> "Callable[..., None]":
    """Return a command that has the options of ``choice``, and runs ``command`` with what returns their result as its argument ``engine``.

    ``without``: options of ``command`` that it does not have.
    """
    added = inspect.signature(choice).parameters.values()

    def extended(**values: Any) -> None:
        chosen = {option.name: values.pop(option.name) for option in added}
        command(**values, engine=lambda: choice(**chosen))  # later, because it loads packages that not every call needs

    options: list[inspect.Parameter] = []
    for option in inspect.signature(command).parameters.values():
        options += added if option.name == "engine" else [] if option.name in without else [option]
    signature = inspect.Signature([option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options])
    extended.__signature__ = signature  # type: ignore[attr-defined]  # read by typer
    extended.__doc__ = command.__doc__
    return extended


def search(
    cases: Cases,
    config: Config,
    run: RunDir,
    images: Images = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first N cases.")] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Search only part I of N, for N machines.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Overrides search.seed.")] = None,
    *,
    engine: "Callable[[], tuple[str, EngineOptions]]",
    dry_run: DryRun = False,
    pilot: Pilot = None,
    json_output: Json = False,
) -> None:
    """Search every case for a reasoning path that interns can follow to its answer.

    Run the same command again to resume: calls in the run directory are not sent or paid for again. Ctrl-C waits for the calls in
    flight; a second Ctrl-C drops them.
    """
    # Imported here and in every command, so that "chiron --help" is fast.
    from chiron.cli.runner import conduct, finish
    from chiron.mics.api import prepare_run
    from chiron.mics.config import load_config

    name, options = engine()
    prepare = partial(
        prepare_run, cases, load_config(config, seed=seed), run, images=images, shard=shard, engine=name, engine_options=options
    )
    need_dry_run(pilot, dry_run=dry_run)
    if dry_run:
        from chiron.cli.forecast import forecast_job

        forecast_job(prepare, pilot=pilot, limit=limit, json_output=json_output)
    else:
        finish(conduct(prepare(limit=limit)), json_output=json_output)


search_command = with_engine(search)


def replay_command(
    old: Annotated[Path, typer.Argument(metavar="DIR", help="Run directory to take replies from; it is not changed.")],
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="YAML configuration of the new run.")] = None,
    run: Annotated[Path | None, typer.Option("--run", metavar="DIR", help="Directory of the new run.")] = None,
    forecast: Annotated[
        list[str] | None,
        typer.Option(
            metavar="POLICY",
            help="Only price another policy from the ledger: adaptive, halving, paper, verified, or KEY=VALUE (depth=2, interns=A,B).",
        ),
    ] = None,
    cases: MovedCases = None,
    images: Images = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print how many calls would be new, and exit.")] = False,
    json_output: Json = False,
) -> None:
    """Search the cases of a run again with another judge, policy or team. Replies in its ledger cost nothing."""
    from chiron.cli.forecast import show_replay_forecast
    from chiron.cli.runner import conduct, finish
    from chiron.mics.api import forecast_replay, replay_run, replay_setup
    from chiron.mics.config import load_config
    from chiron.mics.replay import rehearse
    from chiron.mics.run_directory import RunDirectory

    source = RunDirectory(old)
    if forecast:
        known = load_config(config) if config is not None else None
        found = asyncio.run(forecast_replay(source, forecast, known, cases, images))
        show_replay_forecast(found, old, forecast, json_output=json_output)
        return
    if config is None or run is None:
        raise InputError("a replay needs --config FILE and --run DIR; --forecast POLICY needs neither")
    setup = replay_setup(source, load_config(config), cases, images, need_keys=not dry_run)
    new = replay_run(setup, source, run)
    plan = asyncio.run(rehearse(setup, source.ledger))
    console = messages()
    console.print(
        f"{plan.complete} of {plan.cases} cases need no new call; {plan.known_calls} calls are in {escape(printable(source.ledger))};"
        f" new calls: at least {plan.new_calls_at_least}, at most {plan.new_calls_at_most}"
    )
    if not dry_run:
        finish(conduct(new), json_output=json_output)


def merge_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories of one search, such as its shards.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Run directory; created if missing, otherwise extended.")],
    json_output: Json = False,
) -> None:
    """Merge runs of one search into one run, which resumes, replays, reports and builds as if one process had searched it.

    Merging again adds only what is missing. The merged runs are not changed.
    """
    from chiron.cli.runner import print_json, spent_in_words
    from chiron.mics.merge import merge_runs
    from chiron.reports.page import write_report

    summary = merge_runs(runs, out)
    write_report(out)
    if json_output:
        print_json(summary.to_record())
        return
    counts = ", ".join(f"{n} {name}" for name, n in summary.outcomes.items()) or "no case"
    spent = spent_in_words(summary.spent_usd, summary.possibly_spent_usd)
    console = messages()
    console.print(
        escape(printable(f"{summary.merged} runs merged into {out}: {summary.new_replies} new replies, {summary.new_results} new results"))
    )
    console.print(escape(printable(f"it contains {counts}" + (f"; {spent}" if spent else ""))))
    if summary.differing:
        console.print(
            f"[yellow]note:[/yellow] {summary.differing} calls got another text in a later run; a replay reads the first one, but results"
            " are those of their own run"
        )


RunDirArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Run directory.")]


def status_command(
    run: RunDirArgument,
    json_output: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    failures: Annotated[bool, typer.Option("--failures", help="Also print why calls failed, in the servers' words.")] = False,
) -> None:
    """Show the state of a run: outcomes, MICS-Score, calls, tokens, cost and retries by model and role."""
    from chiron.cli.runner import spending_table, spent_in_words
    from chiron.mics.run_directory import read_status

    status = read_status(run)
    if json_output:
        print(json.dumps({**asdict(status), "run": str(run)}, ensure_ascii=False))
        return
    console = results()
    state = "running" if status.in_use else "not running"
    console.print(escape(printable(f"{run}: started {status.began}, {state}; cases from {status.cases}")))
    counts = ", ".join(f"{n} {name}" for name, n in status.outcomes.items()) or "no case is finished yet"
    mean = "" if status.mean_score is None else f"; mean MICS-Score {status.mean_score:.2f}"
    console.print(escape(printable(f"{counts}{mean}")))
    if status.reasons:
        reasons = ", ".join(f"{name} {n}" for name, n in status.reasons.items())
        console.print(f"not retained because: {escape(printable(reasons))}")
    if status.incomplete:
        console.print(
            f"{status.incomplete} cases lack {status.missing_candidates} candidates and {status.missing_evaluations} evaluations, because"
            " their calls failed; 'chiron replay' sends only these again"
        )
    if status.spending:
        console.print(spending_table(status.spending))
    if spent := spent_in_words(status.spent_usd, status.possibly_spent_usd):
        console.print(spent)
    for words in (*(model.words for model in status.cached), *(batch.words for batch in status.batches)):
        console.print(escape(printable(words)), soft_wrap=True)
    _print_failures(status.failures, in_words=failures)


def _print_failures(reasons: "Sequence[FailureReason]", *, in_words: bool) -> None:
    console = results()
    if in_words:
        console.print("failed calls:" if reasons else "no call failed")
        for failure in reasons:
            line = f"{failure.count:>6}  {failure.role} {failure.model}: {failure.words}"
            console.print(escape(printable(line)), soft_wrap=True)
    elif reasons:
        total = sum(failure.count for failure in reasons)
        console.print(f"{total} calls failed; --failures shows why", soft_wrap=True)


def report_command(
    run: RunDirArgument,
    cases: Annotated[str, typer.Option("--cases", metavar="N|all", help="Number of cases to show in full.")] = "200",
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="File to write (default: DIR/report.html).")] = None,
) -> None:
    """Write the report of a run again, also while it is running."""
    from chiron.reports.page import write_report

    # Python does not parse numbers of thousands of digits.
    if cases != "all" and not (cases.isdecimal() and len(cases) <= 18 and int(cases) > 0):
        raise InputError(f"--cases {cases}: write a number from 1 (at most 18 digits), or all")
    print(write_report(run, out=out, cases=None if cases == "all" else int(cases)))
