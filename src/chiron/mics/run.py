"""Run the search over many cases. Runs resume after a crash, and no call is paid for twice."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from chiron.cases.case import BadCase, Case
from chiron.cases.formats import NO_QUESTION
from chiron.cases.images import ImageProblem
from chiron.cases.selection import Selection
from chiron.client.call import ImagePart
from chiron.client.client import ModelClient
from chiron.client.failures import CallerFault, RunStopped, commonest
from chiron.client.ledger import Ledger, ResultHead, Spending, StoredResult
from chiron.client.missing_calls import Missing, UnitAsk
from chiron.errors import DiskError, InputError
from chiron.jobs.crashes import CrashLog, UnitCrashed
from chiron.jobs.session import open_client
from chiron.mics.result import Outcome, Reason, SearchResult, tally
from chiron.mics.run_directory import RunDirectory, SearchProgress
from chiron.mics.search import search
from chiron.mics.setup import SearchSetup

_DERIVE_EVERY = 30.0
"""Minimum number of seconds between rewrites of the derived files; longer if writing is slow."""


@dataclass(frozen=True)
class RunSummary:
    """Summary of a run."""

    run: Path
    total: int
    retained: int
    rejected: int
    unsolved: int
    unjudged: int
    """Cases without a result because the judge gave no verdict."""
    pending: int
    """Selected cases without a result; the same command resumes them."""
    refused: int
    """Pending cases whose calls would be rejected again."""
    bad: int
    mean_score: float | None
    spending: tuple[Spending, ...]
    spent_usd: float
    possibly_spent_usd: float
    """Part of ``spent_usd`` that was reserved for calls without a reply."""
    seconds: float
    halted: RunStopped | DiskError | None = None
    """Why the run ended early, if it did."""
    pending_because: str | None = None
    """Most frequent reason of the pending cases."""
    notes: tuple[str, ...] = ()
    """Further messages for the user."""


@dataclass
class Run:
    """Work of one process in a run directory."""

    setup: SearchSetup
    directory: RunDirectory
    progress: SearchProgress = field(default_factory=SearchProgress)
    desk: ModelClient | None = None
    replayed_from: Path | None = None
    _deriving: list[asyncio.Future[None]] = field(default_factory=list)
    _dropped: int = 0

    def stop(self) -> None:
        """Stop sending calls; replies to calls in progress are still received and stored."""
        if self.desk is not None:
            self.desk.stop()

    async def execute(self) -> RunSummary:
        """Search every selected case that has no result yet, and write the derived files.

        Raises:
            InputError: the directory is in use, or contains a run with another configuration.
            DiskError: the derived files cannot be written.
        """
        identity = self.setup.identity()
        with self.directory.opened(identity) as ledger:
            self._check_cases(ledger)
            self.directory.write_run(identity, self._about())
            if self.replayed_from is not None:
                ledger.copy_calls_from(RunDirectory(self.replayed_from).ledger)
            try:
                async with open_client(self.setup.endpoints, ledger, self.setup.config.search.budget_usd) as desk:
                    self.desk = desk
                    await self._search_all(desk)
            finally:
                self.directory.write_derived(ledger)
            return self._summary(ledger)

    async def _search_all(self, desk: ModelClient) -> None:
        self.progress.total = self.setup.selection.count()
        known = desk.ledger.result_heads()
        bad_before = {head.position: label for label, head in known.items() if head.outcome == Outcome.BAD_CASE}
        places = asyncio.Semaphore(self.setup.config.search.cases_in_flight)
        crashes = CrashLog(self.directory.path, desk)
        derive = asyncio.create_task(self._derive_now_and_then(desk))
        self.progress.began = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                for rank, (position, case) in enumerate(self.setup.selection):
                    if (label := bad_before.get(position)) is not None:  # this line may hold another case now; a bad case is detected again
                        known.pop(label, None)
                        desk.ledger.drop_result(label)
                    if isinstance(case, BadCase):
                        known.pop(case.label, None)
                        self._keep(desk, _stored_bad(case, case.label, position))
                        continue
                    head = known.pop(case.id, None)
                    if head is not None and head.position != position:
                        desk.ledger.move_result(case.id, position)
                    if head is not None and head.fingerprint == case.fingerprint and head.outcome != Outcome.PENDING:
                        self.progress.known(head)
                        crashes.survived()
                        continue
                    await places.acquire()
                    if desk.halted is not None:
                        break
                    self.progress.in_flight += 1
                    task = group.create_task(self._search_one(desk, crashes, case, position, rank))
                    task.add_done_callback(lambda _: places.release())
            if desk.halted is None and self.setup.selection.is_whole:
                self._drop(desk, known)
        except ExceptionGroup as group_error:
            # One case's failure is handled there. An error here affects all cases (a damaged ledger, for example), so raise the first one.
            raise group_error.exceptions[0] from None
        finally:
            derive.cancel()
            # Threads cannot be canceled: one that is still writing would overwrite the final files with older lines.
            await asyncio.gather(derive, *self._deriving, return_exceptions=True)

    def _check_cases(self, ledger: Ledger) -> None:
        """Reject a directory that mostly contains results of another case file, which is probably a mistake."""
        run, now = self.directory.read_run(), str(self.setup.selection.cases.resolve())
        if run is None or run.get("cases") in (None, now):
            return
        known = {name for name, head in ledger.result_heads().items() if head.outcome != Outcome.BAD_CASE}
        # Compare with the whole file, even if only a part of it is searched now.
        gone = len(known - {case.id for _, case in Selection(self.setup.selection.cases) if isinstance(case, Case)})
        if 2 * gone > len(known):
            raise InputError(
                f"{self.directory.path} holds results of {len(known)} cases of {run['cases']}, and {gone} of them are not in {now}:"
                " choose another --run"
            )

    def _drop(self, desk: ModelClient, gone: Mapping[str, ResultHead]) -> None:
        """Drop the results of cases that are no longer in the file, and report it."""
        for case_id, head in gone.items():
            desk.ledger.drop_result(case_id)
            self._dropped += head.outcome != Outcome.BAD_CASE
        if self._dropped:
            desk.note(
                "\0dropped",
                f"{self._dropped} results are of cases that are no longer in {self.setup.selection.cases.name}: they left paths.jsonl and"
                " rejected.jsonl; their replies stay in the ledger",
            )

    async def _search_one(self, desk: ModelClient, crashes: CrashLog, case: Case, position: int, rank: int) -> None:
        try:
            result = await crashes.watch(self._searched(desk.line(rank), case, position), rank)
        except (RunStopped, UnitCrashed) as reason:
            why = Reason.CRASHED if isinstance(reason, UnitCrashed) else Reason.CALLS_FAILED
            result = _stored(SearchResult(case, self.setup.policy.stop, reason=why, detail=str(reason)), position)
        except DiskError as reason:
            desk.halt(reason)
            return
        finally:
            self.progress.in_flight -= 1
        self._keep(desk, result)

    async def _searched(self, ask: UnitAsk, case: Case, position: int) -> StoredResult:
        setup = self.setup
        pictures: tuple[ImagePart, ...] = ()
        try:
            pictures = await asyncio.to_thread(setup.pictures_of, case)
            result = await search(case, setup.team, ask, setup.policy, prompts=setup.prompts, pictures=pictures)
            if result.outcome == Outcome.PENDING and ask.is_refused:
                result.reason = Reason.CALLS_REFUSED
            return _stored(result, position)
        except (ImageProblem, CallerFault) as problem:
            return _stored_bad(BadCase(case.line, case.id, str(problem)), case.id, position)
        finally:
            setup.pictures.release(pictures)

    def _keep(self, desk: ModelClient, result: StoredResult) -> None:
        try:
            desk.ledger.put_result(result)
        except DiskError as reason:
            desk.halt(reason)
        self.progress.ended(result)

    async def _derive_now_and_then(self, desk: ModelClient) -> None:
        wait = _DERIVE_EVERY
        while True:
            await asyncio.sleep(wait)
            began = time.monotonic()
            try:
                # In a thread with its own connection: with 60,000 cases this takes many seconds, and calls are waiting.
                writing = asyncio.ensure_future(asyncio.to_thread(_derive, self.directory))
                self._deriving = [writing]
                await asyncio.shield(writing)
            except DiskError as reason:
                desk.halt(reason)
                return
            wait = max(_DERIVE_EVERY, 50 * (time.monotonic() - began))

    def _about(self) -> dict[str, Any]:
        about: dict[str, Any] = {
            "chiron": version("chiron-med"),
            "cases": str(self.setup.selection.cases.resolve()),
            "images": str(self.setup.images.root.resolve()),
            "shard": f"{s.index}/{s.count}" if (s := self.setup.selection.shard) else None,
            "limit": self.setup.selection.limit,
            "config": self.setup.config.model_dump(mode="json"),
            "prompts": dict(self.setup.prompts.texts),
        }
        known = self.directory.read_run() or {}
        source = str(self.replayed_from.resolve()) if self.replayed_from else known.get("replayed_from")
        return {**about, "replayed_from": source} if source else about

    def _summary(self, ledger: Ledger) -> RunSummary:
        counts = tally(ledger.outcomes())
        scores = ledger.scores()
        # Cases that were not started because the run stopped are not in the ledger.
        pending = max(counts["pending"], self.progress.total - counts.total() + counts["pending"])
        assert self.desk is not None  # noqa: S101 - set before this is called
        waiting = [
            {name: r.record.get(name) for name in ("reason", "detail")}
            for r in ledger.results(retained=False)
            if r.outcome == Outcome.PENDING
        ]
        spending = tuple(ledger.spending())
        if counts["unjudged"]:
            self._note_unjudged(ledger, self.desk)
        self._note_missing(ledger, self.desk)
        if counts["bad"]:
            self._note_unlabeled(ledger, self.desk)
        return RunSummary(
            run=self.directory.path,
            total=self.progress.total,
            retained=counts["retained"],
            rejected=counts["rejected"],
            unsolved=counts["unsolved"],
            unjudged=counts["unjudged"],
            pending=pending,
            refused=sum(str(record.get("reason")) == Reason.CALLS_REFUSED for record in waiting),
            bad=counts["bad"],
            mean_score=sum(scores) / len(scores) if scores else None,
            spending=spending,
            spent_usd=ledger.spent_usd(),
            possibly_spent_usd=ledger.possibly_spent_usd(),
            seconds=time.monotonic() - self.progress.began,
            halted=self.desk.halted,
            pending_because=commonest(str(record.get("detail")) for record in waiting),
            notes=tuple(self.desk.notes.values()),
        )

    def _note_unjudged(self, ledger: Ledger, desk: ModelClient) -> None:
        """Report how many cases have no verdict, and the judge's most frequent problem."""
        problems = [str(r.record.get("detail")) for r in ledger.results(retained=False) if r.outcome == Outcome.UNJUDGED]
        desk.note(
            "\0unjudged",
            f"{len(problems)} cases are unjudged, most of them because {commonest(problems)}. Running again reads the same replies: choose"
            f" another judge or raise search.max_tokens.judge, and 'chiron replay {self.directory.path}' with that configuration",
        )

    def _note_unlabeled(self, ledger: Ledger, desk: ModelClient) -> None:
        """Report how many cases have no question, and how to add questions."""
        unlabeled = sum(result.record.get("detail") == NO_QUESTION for result in ledger.results(retained=False))
        if unlabeled:
            desk.note(
                "\0unlabeled",
                f"{unlabeled} cases have no question and were not searched: make questions with 'chiron build questions"
                f" {self.setup.selection.cases} --config FILE --out DIR', and search those",
            )

    def _note_missing(self, ledger: Ledger, desk: ModelClient) -> None:
        """Report how many cases ended with missing calls; a replay repeats only those calls."""
        found = [missing for result in ledger.results() if (missing := Missing.of(result.record))]
        if found:
            total = sum(found, Missing())
            desk.note(
                "\0missing",
                f"{len(found)} cases ended with candidates or evaluations missing ({total.candidates} candidates, {total.evaluations}"
                f" evaluations; a quorum was there): 'chiron replay {self.directory.path}' with the same configuration asks for those"
                " alone",
            )


def _stored(result: SearchResult, position: int) -> StoredResult:
    case = result.case
    return StoredResult(case.id, position, case.fingerprint, result.outcome, result.retained, result.mics_score, result.to_record())


def _stored_bad(bad: BadCase, label: str, position: int) -> StoredResult:
    record = {
        "case_id": bad.id,
        "line": bad.line,
        "outcome": Outcome.BAD_CASE.value,
        "reason": Reason.BAD_CASE.value,
        "detail": bad.problem,
    }
    return StoredResult(label, position, "", Outcome.BAD_CASE, retained=False, mics_score=None, record=record)


def _derive(directory: RunDirectory) -> None:
    with Ledger.read(directory.ledger) as ledger:
        directory.write_derived(ledger)
