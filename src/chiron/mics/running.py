"""The search over many cases: a run that can be stopped, killed and begun again, and pays for nothing twice."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from chiron.cases.case import BadCase, Case
from chiron.cases.images import ImageFolder, ImageProblem, image_folder
from chiron.errors import DiskError
from chiron.mics.config import RunConfig
from chiron.mics.progress import Progress
from chiron.mics.prompts import Prompts, load_prompts
from chiron.mics.result import Outcome, Reason, SearchResult
from chiron.mics.rundir import RunDirectory
from chiron.mics.search import RULES, search
from chiron.mics.selection import Selection
from chiron.mics.team import Policy, Seat, Team
from chiron.models.assembly import build_endpoints
from chiron.models.budget import Budget
from chiron.models.call import Picture, Role
from chiron.models.config import max_tokens_of
from chiron.models.desk import Desk, Endpoint
from chiron.models.failures import CallerFault, Halted
from chiron.models.ledger import Ledger, Spending, StoredResult
from chiron.models.offline.catalogue import Catalogue
from chiron.models.pictures import PictureStore

_DERIVE_EVERY = 30.0
"""Seconds between rewrites of the derived files, at least; longer where writing them takes long."""


@dataclass(frozen=True)
class Setup:
    """Everything that one process needs to search: made once, from configuration and cases."""

    selection: Selection
    images: ImageFolder
    config: RunConfig
    policy: Policy
    team: Team
    prompts: Prompts
    endpoints: dict[str, Endpoint]
    pictures: PictureStore

    @classmethod
    def of(cls, selection: Selection, config: RunConfig, images: Path | None = None, *, need_keys: bool = True) -> Self:
        """Check that everything is there before anything is paid for.

        Raises:
            InputError: cases, image folder, prompts, keys or embedded models are missing.
        """
        folder = image_folder(selection.cases, images)
        prompts = load_prompts({name: Path(path) for name, path in config.search.prompts.items()})
        pictures = PictureStore()
        endpoints = build_endpoints(
            config.team_models(), pictures=pictures, catalogue=lambda: Catalogue.beside(selection.cases), need_keys=need_keys
        )

        def seat(role: Role, name: str) -> Seat:
            limit = max_tokens_of(config.models[name], getattr(config.search.max_tokens, role))
            return Seat(name, endpoints[name].provider.identity, limit)

        team = Team(
            mentors=tuple(seat("mentor", m) for m in config.search.mentors),
            interns=tuple(seat("intern", i) for i in config.search.interns),
            judge=seat("judge", config.search.judge),
        )
        return cls(selection, folder, config, config.search.rules(), team, prompts, endpoints, pictures)

    def identity(self) -> dict[str, Any]:
        """What results depend on. Two runs that differ in it cannot share a directory."""
        rules = self.config.search.model_dump(
            mode="json",
            include={
                "temperatures",
                "mentor_temperature",
                "depth",
                "restarts",
                "policy",
                "baseline",
                "threshold",
                "seed",
                "image_side",
            },
        )
        seats = {
            "mentors": [[s.name, s.identity, s.max_tokens] for s in self.team.mentors],
            "interns": [[s.name, s.identity, s.max_tokens] for s in self.team.interns],
            "judge": [self.team.judge.name, self.team.judge.identity, self.team.judge.max_tokens],
        }
        return {**seats, **rules, "rules": RULES, "prompts": self.prompts.hashes()}

    def pictures_of(self, case: Case, *, hold: bool = True) -> tuple[Picture, ...]:
        """Check a case's images, and hold them encoded until :meth:`PictureStore.release`. Meant for a thread.

        Raises:
            ImageProblem: one cannot be used.
            CallerFault: one went away while it was looked at.
        """
        checked = [self.images.check(name) for name in case.images]
        for image in checked:
            self.pictures.add(image.sha256, image.path)
        pictures = tuple(Picture(image.sha256, self.policy.image_side) for image in checked)
        if hold:
            self.pictures.hold(pictures)
        return pictures


@dataclass(frozen=True)
class RunSummary:
    """How a run ended."""

    run: Path
    total: int
    retained: int
    rejected: int
    unsolved: int
    pending: int
    """Of the cases selected; they go on when the same command is run again."""
    bad: int
    mean_score: float | None
    spending: tuple[Spending, ...]
    spent_usd: float
    seconds: float
    halted: Halted | DiskError | None = None
    """Why it ended early, if it did."""
    pending_because: str | None = None
    """The commonest reason of the pending cases."""
    notes: tuple[str, ...] = ()
    """What a person should know besides."""


@dataclass
class Run:
    """One process's work in one run directory."""

    setup: Setup
    directory: RunDirectory
    progress: Progress = field(default_factory=Progress)
    desk: Desk | None = None
    replayed_from: Path | None = None

    def stop(self) -> None:
        """Send nothing more; what is under way is still received and kept."""
        if self.desk is not None:
            self.desk.stop()

    async def execute(self) -> RunSummary:
        """Search every selected case that has no result yet, and write the derived files.

        Raises:
            InputError: the directory is in use, or holds a run of another configuration.
            DiskError: the derived files cannot be written.
        """
        with self.directory.locked():
            self.directory.write_run(self.setup.identity(), self._about())
            with Ledger.open(self.directory.ledger) as ledger:
                if self.replayed_from is not None:
                    ledger.copy_calls_from(RunDirectory(self.replayed_from).ledger)
                budget = Budget(self.setup.config.search.budget_usd, spent=ledger.spent_usd())
                self.desk = Desk(self.setup.endpoints, ledger, budget)
                try:
                    await self._search_all(self.desk)
                    await self.desk.drain()
                finally:
                    await self.desk.close()
                    self.directory.write_derived(ledger)
                return self._summary(ledger)

    async def _search_all(self, desk: Desk) -> None:
        self.progress.total = self.setup.selection.count()
        desk.ledger.drop_results(Outcome.BAD_CASE)
        known = desk.ledger.result_heads()
        places = asyncio.Semaphore(self.setup.config.search.cases_in_flight)
        derive = asyncio.create_task(self._derive_now_and_then(desk))
        self.progress.began = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                for rank, (position, case) in enumerate(self.setup.selection):
                    if isinstance(case, BadCase):
                        self._record_bad(desk, position, case.label, case)
                        continue
                    head = known.pop(case.id, None)
                    if head is not None and head.position != position:
                        desk.ledger.move_result(case.id, position)
                    if head is not None and head.fingerprint == case.fingerprint and head.outcome != Outcome.PENDING:
                        self.progress.known(head)
                        continue
                    await places.acquire()
                    if desk.halted is not None:
                        break
                    self.progress.in_flight += 1
                    task = group.create_task(self._search_one(desk, case, position, rank))
                    task.add_done_callback(lambda _: places.release())
            if desk.halted is None and self.setup.selection.is_whole:
                for gone in known:
                    desk.ledger.drop_result(gone)
        except ExceptionGroup as group_error:
            # Cases fail alone; what comes out here is a bug or a full disk, and the first of them tells it.
            raise group_error.exceptions[0] from None
        finally:
            derive.cancel()
            await asyncio.gather(derive, return_exceptions=True)

    async def _search_one(self, desk: Desk, case: Case, position: int, rank: int) -> None:
        setup = self.setup
        pictures: tuple[Picture, ...] = ()
        try:
            pictures = await asyncio.to_thread(setup.pictures_of, case)
            result = await search(case, setup.team, desk.line(rank), setup.policy, prompts=setup.prompts, pictures=pictures)
            self.progress.ended(result)
        except (ImageProblem, CallerFault) as problem:
            self._record_bad(desk, position, case.id, BadCase(case.line, case.id, str(problem)))
            return
        except Halted as reason:
            result = SearchResult(case, setup.policy.stop, reason=Reason.CALLS_FAILED, detail=str(reason))
        except DiskError as reason:
            desk.halt(reason)
            return
        finally:
            self.progress.in_flight -= 1
            setup.pictures.release(pictures)
        self._record(desk, result, position)

    def _record(self, desk: Desk, result: SearchResult, position: int) -> None:
        stored = StoredResult(
            result.case.id,
            position,
            result.case.fingerprint,
            result.outcome,
            result.retained,
            result.mics_score,
            result.to_record(),
        )
        try:
            desk.ledger.put_result(stored)
        except DiskError as reason:
            desk.halt(reason)

    def _record_bad(self, desk: Desk, position: int, label: str, bad: BadCase) -> None:
        record = {
            "case_id": bad.id,
            "line": bad.line,
            "outcome": Outcome.BAD_CASE.value,
            "reason": Reason.BAD_CASE.value,
            "detail": bad.problem,
        }
        try:
            desk.ledger.put_result(StoredResult(label, position, "", Outcome.BAD_CASE, retained=False, mics_score=None, record=record))
        except DiskError as reason:
            desk.halt(reason)
        self.progress.ended_badly()

    async def _derive_now_and_then(self, desk: Desk) -> None:
        wait = _DERIVE_EVERY
        while True:
            await asyncio.sleep(wait)
            began = time.monotonic()
            try:
                # In a thread, on a connection of its own: at sixty thousand cases it takes many seconds, and calls are waiting.
                await asyncio.to_thread(_derive, self.directory)
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
        counts = ledger.outcomes()
        scores = ledger.scores()
        done = sum(n for (outcome, _), n in counts.items() if outcome not in {Outcome.PENDING, Outcome.BAD_CASE})
        bad = counts.get((Outcome.BAD_CASE, False), 0)
        assert self.desk is not None  # noqa: S101 - set before this is called
        return RunSummary(
            run=self.directory.path,
            total=self.progress.total,
            retained=sum(n for (_, retained), n in counts.items() if retained),
            rejected=sum(n for (o, retained), n in counts.items() if not retained and o in {Outcome.FULL_SCORE, Outcome.DEPTH}),
            unsolved=counts.get((Outcome.UNSOLVED, False), 0),
            pending=max(counts.get((Outcome.PENDING, False), 0), self.progress.total - done - bad),
            bad=bad,
            mean_score=sum(scores) / len(scores) if scores else None,
            spending=tuple(ledger.spending()),
            spent_usd=ledger.spent_usd(),
            seconds=time.monotonic() - self.progress.began,
            halted=self.desk.halted,
            pending_because=_commonest(str(r.record.get("detail")) for r in ledger.results(retained=False) if r.outcome == Outcome.PENDING),
            notes=tuple(self.desk.notes.values()),
        )


def _derive(directory: RunDirectory) -> None:
    with Ledger.read(directory.ledger) as ledger:
        directory.write_derived(ledger)


def _commonest(texts: Iterable[str]) -> str | None:
    found = Counter(texts).most_common(1)
    return found[0][0] if found else None
