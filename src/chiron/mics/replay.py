"""Replay: search the same cases with another judge, parser or policy, and pay only for new calls."""

import os
from dataclasses import dataclass
from pathlib import Path

from chiron.cases.case import BadCase
from chiron.cases.images import ImageProblem
from chiron.cases.selection import Selection, Shard
from chiron.client.call import Call, Reply
from chiron.client.failures import RunStopped
from chiron.client.ledger import Ledger
from chiron.errors import InputError
from chiron.jobs.directory import RUN
from chiron.mics.config import RunConfig
from chiron.mics.run import Run
from chiron.mics.run_directory import RunDirectory
from chiron.mics.search import search
from chiron.mics.setup import SearchSetup
from chiron.mics.team import Policy, Team


@dataclass(frozen=True)
class Rehearsal:
    """Forecast of a replay's calls, based on the old ledger."""

    cases: int
    complete: int
    """Cases that the old ledger answers completely."""
    known_calls: int
    """Distinct calls answered by the old ledger."""
    new_calls_at_least: int
    """Distinct calls not in the old ledger. Their replies may lead to further calls."""
    new_calls_at_most: int
    """Upper bound: every incomplete case needs all calls that a search can make."""


class _NotAnswered(RunStopped):
    """Raised for a call that is not in the old ledger."""


async def rehearse(setup: SearchSetup, ledger: Path) -> Rehearsal:
    """Search with the replies of an old ledger only, and count the missing calls.

    Raises:
        InputError: the ledger does not exist.
    """
    known: set[str] = set()
    new: set[str] = set()
    cases = complete = 0
    with Ledger.read(ledger) as old:

        async def ask(call: Call) -> Reply:
            reply = old.get(call.key)
            if reply is None:
                new.add(call.key)
                raise _NotAnswered
            known.add(call.key)
            return reply

        for _, case in setup.selection:
            if isinstance(case, BadCase):
                continue
            try:
                pictures = setup.pictures_of(case, hold=False)
            except ImageProblem:
                continue
            cases += 1
            try:
                await search(case, setup.team, ask, setup.policy, prompts=setup.prompts, pictures=pictures)
                complete += 1
            except _NotAnswered:
                continue
    most = (cases - complete) * most_calls(setup.team, setup.policy)
    return Rehearsal(cases, complete, len(known), len(new), max(most, len(new)))


def most_calls(team: Team, policy: Policy) -> int:
    """Return the maximum number of distinct calls for one case: all mentors, evaluations and judgments, at every depth and restart."""
    evaluations = 2 * len(policy.intern_draws(team))
    attempt = policy.depth * len(team.mentors) * (1 + evaluations) + policy.depth * evaluations
    return attempt * (policy.restarts + 1) + evaluations + 1


def replay_setup(
    old: RunDirectory, config: RunConfig, cases: Path | None = None, images: Path | None = None, *, need_keys: bool = True
) -> SearchSetup:
    """Prepare the cases of an old run with another configuration. ``cases`` and ``images`` override the recorded paths.

    Without ``need_keys``, the setup is good for :func:`rehearse` but not for calls to models.

    Raises:
        InputError: ``old`` is not a run directory, or its cases were moved.
    """
    run = old.need_run()
    path = cases if cases is not None else Path(str(run.get("cases")))
    if not os.path.isfile(path):
        raise InputError(f"the cases of {old.path} are no longer at {path}: name them with --cases FILE")
    shard, limit = run.get("shard"), run.get("limit")
    if not isinstance(shard, str | None) or not isinstance(limit, int | None):
        raise InputError(f"{old.path / RUN} is damaged: its shard is {shard!r} and its limit {limit!r}, which chiron never wrote")
    folder = images if images is not None else Path(str(run.get("images"))) if cases is None else None
    return SearchSetup.of(Selection(path, limit, Shard.parse(shard) if shard else None), config, folder, need_keys=need_keys)


def replay_run(setup: SearchSetup, old: RunDirectory, new: Path) -> Run:
    """Create a run in ``new`` that starts with all replies of ``old``.

    Raises:
        InputError: both are the same directory.
    """
    if new.resolve() == old.path.resolve():
        raise InputError(f"--run {new} is the run to be replayed: name a new directory")
    return Run.of(setup, RunDirectory(new), old.path)
