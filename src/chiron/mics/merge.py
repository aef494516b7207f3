"""Merge the runs of one search, such as its shards, into one run directory."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chiron.client.batch_record import FOLDER, read_open_batches
from chiron.client.ledger_merge import Merged, MergingLedger
from chiron.errors import InputError
from chiron.jobs.directory import RUN, differences
from chiron.mics.result import Outcome, counts_by_summary_name
from chiron.mics.run_directory import RunDirectory


@dataclass(frozen=True, kw_only=True)
class MergeSummary:
    """What a merge added, and what the merged run contains."""

    run: str
    merged: int
    """Number of merged runs."""
    new_replies: int
    new_results: int
    differing: int
    """Calls that got another text in a later run. The merged run keeps the first one."""
    outcomes: dict[str, int]
    """Cases of the merged run by summary name."""
    spent_usd: float
    possibly_spent_usd: float

    def to_record(self) -> dict[str, Any]:
        """Convert to a JSON object."""
        return asdict(self)


def merge_runs(runs: Sequence[Path | str], out: Path | str) -> MergeSummary:
    """Merge runs into ``out``, which then resumes, replays, reports and builds as if one process had searched all their cases.

    Merging again adds only what is missing, also after a kill. The merged runs are not changed.

    Args:
        runs: directories of finished or stopped runs of the same search: shards, or the same cases at different times.
        out: run directory; created if missing.

    Raises:
        InputError: a run, or ``out``, is in use, damaged, of another configuration, waits for batches, or contradicts another one.
        DiskError: the disk is full.
    """
    sources, target = [RunDirectory(Path(run)) for run in runs], RunDirectory(Path(out))
    if not sources:
        raise InputError("no run to merge: name at least one run directory")
    _refuse_twice(sources, target)
    records = [source.need_run() for source in sources]
    identity = target.read_run() or records[0]
    for source, record in zip(sources, records, strict=True):
        _need_same(target if target.read_run() else sources[0], identity.get("identity"), source, record.get("identity"))
    total = Merged()
    with ExitStack() as held:
        for source in sources:
            held.enter_context(source.locked())
            _refuse_open_batches(source)
        held.enter_context(target.opened(dict(identity["identity"])))
        _refuse_open_batches(target)
        with MergingLedger.open(target.ledger) as ledger:
            for source in sources:
                added = ledger.merge(source.ledger, unfinished=Outcome.PENDING)
                total.replies += added.replies
                total.results += added.results
                total.differing += added.differing
            # Written last: a half-merged directory is not yet a run that could be resumed by mistake.
            target.write_run(dict(identity["identity"]), _run_record(sources, records, target.read_run()))
            target.write_derived(ledger)
            return MergeSummary(
                run=str(out),
                merged=len(sources),
                new_replies=total.replies,
                new_results=total.results,
                differing=total.differing,
                outcomes=dict(counts_by_summary_name(ledger.outcomes()).most_common()),
                spent_usd=ledger.spent_usd(),
                possibly_spent_usd=ledger.possibly_spent_usd(),
            )


def _refuse_twice(sources: Sequence[RunDirectory], target: RunDirectory) -> None:
    seen = {target.path.resolve(): "--out"}
    for source in sources:
        if (first := seen.get(source.path.resolve())) is not None:
            raise InputError(f"{source.path} is named twice (also as {first}): name each run once, and another directory as --out")
        seen[source.path.resolve()] = str(source.path)


def _refuse_open_batches(run: RunDirectory) -> None:
    """Refuse a run that waits for batches. The merged run would send a source's calls again, and a target's batches may contain calls
    that the sources have answered.
    """
    if found := read_open_batches(run.path):
        several = f"{len(found)} open batches" if len(found) > 1 else "1 open batch"
        raise InputError(
            f"{run.path} has {several} ({found[0].words}): run its search again until the batches are collected, and then merge. If"
            f" they cannot be collected, move their records in {run.path / FOLDER} away; their calls are then sent and paid for again"
        )


def _need_same(first: RunDirectory, known: Any, source: RunDirectory, identity: Any) -> None:
    if not isinstance(identity, dict) or "mentors" not in identity:
        raise InputError(f"{source.path} is not a run of 'chiron search' (see {source.path / RUN}): leave it out")
    if found := differences(known, identity):
        raise InputError(
            f"{source.path} has another configuration than {first.path} ({'; '.join(found)}): merge only runs of one search, or bring it to"
            " the same configuration with 'chiron replay'"
        )


def _run_record(sources: Sequence[RunDirectory], records: Sequence[dict[str, Any]], known: dict[str, Any] | None) -> dict[str, Any]:
    """Return the content of ``run.json`` without the identity. What the runs do not have in common (shard, limit) is left open."""
    all_records = [*([known] if known else []), *records]
    rest = {name: value for name, value in all_records[0].items() if name not in {"identity", "began", "python"}}
    for name in ("shard", "limit"):
        if any(json.dumps(record.get(name)) != json.dumps(rest.get(name)) for record in all_records):
            rest[name] = None
    merged_from = [*(known or {}).get("merged_from", []), *(str(source.path.resolve()) for source in sources)]
    return {**rest, "merged_from": list(dict.fromkeys(merged_from))}
