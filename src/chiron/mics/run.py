"""Run the search over many cases. Runs resume after a crash, and no call is paid for twice."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from chiron.cases.case import BadCase, Case
from chiron.cases.formats import NO_QUESTION
from chiron.cases.images import ImageProblem
from chiron.cases.reader import Selection
from chiron.client.call import Ask, Call, ImagePart, Reply
from chiron.client.client import ModelClient
from chiron.client.failures import CallerFault, Missing, UnitAsk, commonest
from chiron.client.ledger import Ledger, ResultHead, StoredResult
from chiron.errors import DiskError, InputError
from chiron.io import file_sha256
from chiron.jobs.forecast import REASONING, Rehearsal
from chiron.jobs.job import Job, JobSummary, Pending, Resume, units_in_flight
from chiron.mics.config import RunConfig, check_config
from chiron.mics.prompts import MAX_GIVEN_ANSWER
from chiron.mics.result import Outcome, Reason, SearchResult, counts_by_summary_name
from chiron.mics.run_directory import RunDirectory, SearchProgress
from chiron.mics.search import search
from chiron.mics.setup import SearchSetup
from chiron.mics.team import fewest_calls, most_calls
from chiron.providers.baselines.practice import notes_on_paths

_DERIVE_EVERY = 30.0
"""Minimum number of seconds between rewrites of the derived files; longer if writing is slow."""


@dataclass(frozen=True, kw_only=True)
class RunSummary(JobSummary):
    """Summary of a run. Its counts include results of earlier processes."""

    mean_score: float | None

    @property
    def retained(self) -> int:
        """Number of cases with a retained path."""
        return self.outcomes.get("retained", 0)

    @property
    def rejected(self) -> int:
        """Number of cases whose path was not retained."""
        return self.outcomes.get("rejected", 0)

    @property
    def unsolved(self) -> int:
        """Number of cases whose candidates all scored zero."""
        return self.outcomes.get("unsolved", 0)

    @property
    def unjudged(self) -> int:
        """Number of cases without a result because the judge gave no verdict."""
        return self.outcomes.get("unjudged", 0)

    @property
    def bad(self) -> int:
        """Number of cases that are unusable as they are."""
        return self.outcomes.get("bad", 0)

    def to_record(self) -> dict[str, Any]:
        """Convert to a JSON object."""
        record = super().to_record()
        counts = {name: getattr(self, name) for name in ("retained", "rejected", "unsolved", "unjudged", "bad")}
        return {"run": record.pop("directory"), **counts, **{name: value for name, value in record.items() if name != "outcomes"}}


@dataclass(frozen=True, kw_only=True)
class SearchPart:
    """Some cases of a search, for another process. Paths have to be the same on both machines."""

    cases: Path
    cases_sha256: str
    images: Path
    config: RunConfig
    positions: frozenset[int]

    def to_record(self) -> dict[str, Any]:
        """Convert to a JSON object; see :meth:`of_record`."""
        paths = {"cases": str(self.cases), "cases_sha256": self.cases_sha256, "images": str(self.images)}
        return {"kind": "search", **paths, "config": self.config.model_dump(mode="json"), "positions": sorted(self.positions)}

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> Self:
        """Read a part that was stored as JSON.

        Raises:
            InputError: its configuration is invalid here, for example because a plug-in is missing.
        """
        return cls(
            cases=Path(record["cases"]),
            cases_sha256=record["cases_sha256"],
            images=Path(record["images"]),
            config=check_config(record["config"], origin=Path("run.json")),  # its paths are already resolved
            positions=frozenset(record["positions"]),
        )

    def open(self, directory: Path, workers: int) -> "Run":
        """Return the run that searches these cases in ``directory``, with an equal share of the models' limits.

        Raises:
            InputError: an input or a key is missing on this machine, or its file of cases differs.
        """
        selection = Selection(self.cases, positions=self.positions)
        setup = SearchSetup.of(selection, self.config.for_workers(workers), self.images)
        if file_sha256(self.cases) != self.cases_sha256:
            raise InputError(f"{self.cases} on this machine differs from the file where the search was started: copy it to every machine")
        return Run.of(setup, RunDirectory(directory))


@dataclass(kw_only=True)
class Run(Job[tuple[int, Case], StoredResult, RunSummary]):
    """Work of one process in a run directory. A unit is a case with its position in the file."""

    resume: ClassVar[Resume] = Resume.RESULTS
    setup: SearchSetup
    directory: RunDirectory
    progress: SearchProgress = field(default_factory=SearchProgress)
    replayed_from: Path | None = None
    _stale: dict[str, ResultHead] = field(default_factory=dict, init=False)
    """Stored results whose case was not selected so far, by case id."""
    _deriving: list[asyncio.Future[None]] = field(default_factory=list, init=False)

    @classmethod
    def of(cls, setup: SearchSetup, directory: RunDirectory, replayed_from: Path | None = None) -> Self:
        """Create a run."""
        search = setup.config.search
        return cls(
            setup=setup,
            directory=directory,
            identity=setup.identity(),
            about=setup.about(),
            endpoints=setup.roles.endpoints,
            budget_usd=search.budget_usd,
            in_flight=units_in_flight(search.cases_in_flight, setup.roles.endpoints),
            replayed_from=replayed_from,
        )

    def start(self, ledger: Ledger) -> None:
        """Check the cases, and copy the replies of the replayed run."""
        self._check_cases(ledger)
        if self.replayed_from is not None:
            ledger.copy_calls_from(RunDirectory(self.replayed_from).ledger)

    def run_record(self) -> dict[str, Any]:
        """Return the content of ``run.json``; the source of a replay is kept."""
        known = self.directory.read_run() or {}
        source = str(self.replayed_from.resolve()) if self.replayed_from else known.get("replayed_from")
        return {**super().run_record(), **({"replayed_from": source} if source else {})}

    def count(self) -> int:
        """Return the number of selected cases."""
        return self.setup.selection.count()

    def units(self) -> Iterator[tuple[int, Case]]:
        """Yield every usable case, and store a result for the others."""
        assert self.client is not None  # noqa: S101 - open while the job runs
        ledger = self.client.ledger
        self._stale = ledger.result_heads()
        bad_before = {head.position: label for label, head in self._stale.items() if head.outcome == Outcome.BAD_CASE}
        for position, case in self.setup.selection:
            if (label := bad_before.get(position)) is not None:  # this line may hold another case now; a bad case is detected again
                self._stale.pop(label, None)
                ledger.drop_result(label)
            if isinstance(case, BadCase):
                self._stale.pop(case.label, None)
                self.progress.done += 1
                self._store(_stored_bad(case, case.label, position), self.client)
            else:
                yield position, case

    def is_finished(self, unit: tuple[int, Case], client: ModelClient) -> bool:
        """Return whether the case has a result that a rerun would not change."""
        position, case = unit
        head = self._stale.pop(case.id, None)
        if head is None:
            return False
        if head.position != position:
            client.ledger.move_result(case.id, position)
        if head.fingerprint != case.fingerprint or head.outcome == Outcome.PENDING:
            return False
        self.progress.known(head)
        return True

    async def work(self, unit: tuple[int, Case], ask: UnitAsk) -> StoredResult:
        """Search one case."""
        position, case = unit
        setup = self.setup
        pictures: tuple[ImagePart, ...] = ()
        try:
            pictures = await asyncio.to_thread(setup.load_images, case)
            result = await search(case, setup.team, ask, setup.policy, prompts=setup.prompts, pictures=pictures)
            if result.outcome == Outcome.PENDING and ask.is_refused:
                result.reason = Reason.CALLS_REFUSED
            return _stored(result, position)
        except (ImageProblem, CallerFault) as problem:
            return _stored_bad(BadCase(case.line, case.id, str(problem)), case.id, position)
        finally:
            setup.release_images(pictures)

    def rehearsal(self) -> Rehearsal:
        """Return how to search the cases without sending and storing anything."""
        setup = self.setup

        async def run(unit: Case, ask: Ask) -> bool:
            try:
                pictures = setup.load_images(unit, hold=False)
            except ImageProblem:
                return False
            await search(unit, setup.team, ask, setup.policy, prompts=setup.prompts, pictures=pictures)
            return True

        limits = setup.config.search.max_tokens
        return Rehearsal(
            self.directory.ledger,
            setup.roles.endpoints,
            (case for _, case in setup.selection if isinstance(case, Case)),
            run,
            _typical,
            least=fewest_calls(setup.team, setup.policy),
            most=most_calls(setup.team, setup.policy),
            growth={"mentor": limits.mentor, "intern": limits.mentor, "judge": MAX_GIVEN_ANSWER},
        )

    async def process(self, results: AsyncIterator[tuple[tuple[int, Case], StoredResult | Pending]], client: ModelClient) -> None:
        """Store each result in the ledger, and rewrite the derived files from time to time."""
        derive = asyncio.create_task(self._derive_now_and_then(client))
        try:
            async for (position, case), result in results:
                self._store(self._stored_pending(case, position, result) if isinstance(result, Pending) else result, client)
            if client.halted is None and self.setup.selection.is_whole:
                self._drop_stale(client)
        finally:
            derive.cancel()
            # Threads cannot be canceled: one that is still writing would overwrite the final files with older lines.
            await asyncio.gather(derive, *self._deriving, return_exceptions=True)

    @cached_property
    def _cases_sha256(self) -> str:
        return file_sha256(self.setup.selection.cases)

    def part_of(self, units: Sequence[tuple[int, tuple[int, Case]]]) -> SearchPart:
        """Return the part of the search with these cases."""
        self.setup.config.for_workers(1)  # refuses models with batches before a worker does
        return SearchPart(
            cases=self.setup.selection.cases.resolve(),
            cases_sha256=self._cases_sha256,
            images=self.setup.images.root.resolve(),
            config=self.setup.config,
            positions=frozenset(position for _, (position, _) in units),
        )

    def find_result(self, unit: tuple[int, Case], client: ModelClient) -> StoredResult | None:
        """Return the stored result of a case, if it belongs to the case as it is now."""
        found = client.ledger.result(unit[1].id)
        return found if found is not None and found.fingerprint in {unit[1].fingerprint, ""} else None

    def finish(self, ledger: Ledger) -> None:
        """Write ``paths.jsonl`` and ``rejected.jsonl``."""
        self.directory.write_derived(ledger)

    def _check_cases(self, ledger: Ledger) -> None:
        """Reject a directory that mostly contains results of another case file, which is probably a mistake."""
        run, now = self.directory.read_run(), str(self.setup.selection.cases.resolve())
        if run is None or run.get("cases") in (None, now):
            return
        known = {name for name, head in ledger.result_heads().items() if head.outcome != Outcome.BAD_CASE}
        # Compare with the whole file, even if only a part of it is searched now.
        missing = len(known - {case.id for _, case in Selection(self.setup.selection.cases) if isinstance(case, Case)})
        if 2 * missing > len(known):
            raise InputError(
                f"{self.directory.path} contains results of {len(known)} cases of {run['cases']}, but {missing} of them are not in {now}:"
                " choose another --run"
            )

    def _drop_stale(self, client: ModelClient) -> None:
        """Drop the results of cases that are no longer in the file, and report it."""
        for case_id in self._stale:
            client.ledger.drop_result(case_id)
        if dropped := sum(head.outcome != Outcome.BAD_CASE for head in self._stale.values()):
            client.note(
                "\0dropped",
                f"{dropped} results belong to cases that are no longer in {self.setup.selection.cases.name}: they were removed from"
                " paths.jsonl and rejected.jsonl; their replies stay in the ledger",
            )

    def _stored_pending(self, case: Case, position: int, pending: Pending) -> StoredResult:
        reason = Reason.CRASHED if pending.crashed else Reason.CALLS_FAILED
        return _stored(SearchResult(case, self.setup.policy.stop, reason=reason, detail=pending.problem), position)

    def _store(self, result: StoredResult, client: ModelClient) -> None:
        try:
            client.ledger.put_result(result)
        except DiskError as reason:
            client.halt(reason)
        self.progress.count(result)

    async def _derive_now_and_then(self, client: ModelClient) -> None:
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
                client.halt(reason)
                return
            wait = max(_DERIVE_EVERY, 50 * (time.monotonic() - began))

    def summarize(self, summary: JobSummary, client: ModelClient) -> RunSummary:
        """Count the outcomes in the ledger, and add notes."""
        ledger = client.ledger
        counts = counts_by_summary_name(ledger.outcomes())
        scores = ledger.scores()
        waiting = [r.record for r in ledger.results(retained=False) if r.outcome == Outcome.PENDING]
        self._note_results(counts, client)
        return RunSummary(
            **{
                **vars(summary),
                # Cases that were not started because the run stopped are not in the ledger.
                "pending": max(counts["pending"], self.progress.total - counts.total() + counts["pending"]),
                "pending_because": commonest(str(record.get("detail")) for record in waiting),
                "refused": sum(str(record.get("reason")) == Reason.CALLS_REFUSED for record in waiting),
                "crashed": sum(str(record.get("reason")) == Reason.CRASHED for record in waiting),
                "outcomes": {name: number for name, number in counts.items() if name != "pending"},
                "notes": tuple(client.notes.values()),
            },
            mean_score=sum(scores) / len(scores) if scores else None,
        )

    def _note_results(self, counts: Mapping[str, int], client: ModelClient) -> None:
        """Report unjudged cases, cases with missing calls, and cases without a question; and what to do about them."""
        ledger = client.ledger
        if counts["unjudged"]:
            problems = [str(r.record.get("detail")) for r in ledger.results(retained=False) if r.outcome == Outcome.UNJUDGED]
            client.note(
                "\0unjudged",
                f"{len(problems)} cases are unjudged; the most frequent reason: {commonest(problems)}. A rerun reads the same replies:"
                " choose another judge or raise search.max_tokens.judge, and run"
                f" 'chiron replay {self.directory.path}' with that configuration",
            )
        found = [missing for result in ledger.results() if (missing := Missing.of(result.record))]
        if found:
            total = sum(found, Missing())
            client.note(
                "\0missing",
                f"{len(found)} cases ended with missing calls ({total.candidates} candidates, {total.evaluations} evaluations), but above"
                f" the quorum: 'chiron replay {self.directory.path}' with the same configuration repeats only those calls",
            )
        for note in notes_on_paths([endpoint.provider.identity for endpoint in self.endpoints.values()], counts):
            client.note("\0embedded", note)
        unlabeled = sum(r.record.get("detail") == NO_QUESTION for r in ledger.results(retained=False)) if counts["bad"] else 0
        if unlabeled:
            client.note(
                "\0unlabeled",
                f"{unlabeled} cases have no question and were not searched: write questions with 'chiron build questions"
                f" {self.setup.selection.cases} --config FILE --out DIR', and search those",
            )


async def _typical(call: Call) -> Reply:
    """Reply as a model whose reasoning can be read. Half of the interns' answers differ, and half of those are judged right."""
    chance = int(call.key[:8], 16)
    match call.role:
        case "mentor":
            return Reply(REASONING)
        case "judge":
            return Reply("yes" if chance % 2 else "no")
        case _:
            return Reply(f"### The final answer is: {call.key[:8] if chance % 2 else 'unknown'}")


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
