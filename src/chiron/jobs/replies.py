"""Jobs whose results are rebuilt from replies, on several processes: each one asks the calls of some units."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

from chiron.client.call import Ask, Call, Reply
from chiron.client.client import ModelClient
from chiron.client.failures import CallFailed, RunStopped, UnitAsk
from chiron.errors import InputError
from chiron.jobs.config import JobFile
from chiron.jobs.engine import LocalEngine, OpenJob
from chiron.jobs.job import AnyJob, Job, JobSummary, Resume


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How another process prepares a job whose results are rebuilt from replies (:attr:`Resume.REPLIES`)."""

    kind: str
    """Name of the kind of job in a record."""
    prepare: Callable[..., AnyJob]
    """Returns the job. Takes its directory, its configuration, ``need_keys``, and the ``arguments`` by name."""
    config: JobFile
    arguments: Mapping[str, Any]
    """Strings, numbers, and lists of them, with absolute paths."""

    def __call__(self, directory: Path, workers: int, *, need_keys: bool = True) -> AnyJob:
        """Prepare the job in a directory, with its limits divided by the number of workers."""
        return self.prepare(directory, self.config.for_workers(workers), need_keys=need_keys, **self.arguments)

    def to_record(self) -> dict[str, Any]:
        """Convert to a JSON object.

        Raises:
            InputError: an argument cannot be stored, or a model cannot be asked by several processes.
        """
        self.config.for_workers(1)
        for name, value in self.arguments.items():
            try:
                json.dumps(value)
            except TypeError:
                raise InputError(f"'{name}' of this job cannot be stored for --engine slurm: use --engine ray or local") from None
        return {"kind": self.kind, "config": self.config.model_dump(mode="json"), "arguments": dict(self.arguments)}


@dataclass(frozen=True, kw_only=True)
class RankedPart:
    """Some units of a job whose results are rebuilt from replies."""

    again: Preparation
    data: str
    """Digest of the job's data, its attribute ``data_digest``."""
    ranks: frozenset[int]

    def open(self, directory: Path, workers: int) -> "RepliesJob":
        """Return the job that asks the calls of these units; see :meth:`Part.open`."""
        whole: Any = self.again(directory, workers)
        if whole.data_digest != self.data:
            raise InputError(
                "the cases or benchmarks on this machine differ from those where the job was started: copy them to every machine"
            )
        return RepliesJob.of(whole, self.ranks)

    def to_record(self) -> dict[str, Any]:
        return {**self.again.to_record(), "data": self.data, "ranks": sorted(self.ranks)}

    @classmethod
    def of_record(cls, record: Mapping[str, Any], again: Preparation) -> Self:
        return cls(again=again, data=record["data"], ranks=frozenset(record["ranks"]))


@dataclass(frozen=True, kw_only=True)
class RepliesSummary(JobSummary):
    """Summary of a part whose replies are kept."""

    failures: dict[str, CallFailed]
    """Calls without a reply, by key."""
    answered: frozenset[int]
    """Ranks of the units of which every call got its reply."""


@dataclass(kw_only=True)
class RepliesJob(Job[Any, Any, RepliesSummary]):
    """Ask the calls of some units of another job, and keep only the replies."""

    resume: ClassVar[Resume] = Resume.REPLIES
    whole: AnyJob
    ranks: frozenset[int]
    _failures: dict[str, CallFailed] = field(default_factory=dict, init=False)
    _answered: set[int] = field(default_factory=set, init=False)

    @classmethod
    def of(cls, whole: AnyJob, ranks: frozenset[int]) -> Self:
        """Create a job for the units of ``whole`` that have these ranks."""
        names = ("directory", "identity", "about", "endpoints", "budget_usd", "in_flight", "progress")
        return cls(whole=whole, ranks=ranks, **{name: getattr(whole, name) for name in names})

    def units(self) -> Iterator[tuple[int, Any]]:
        return ((rank, unit) for rank, unit in enumerate(self.whole.units()) if rank in self.ranks)

    def count(self) -> int:
        return len(self.ranks)

    async def work(self, unit: tuple[int, Any], ask: UnitAsk) -> Any:
        rank, failed = unit[0], False
        stopped: RunStopped | None = None

        async def noting_failures(call: Call) -> Reply:
            nonlocal failed, stopped
            try:
                return await ask(call)
            except CallFailed as failure:
                self._failures[call.key], failed = failure, True
                raise
            except RunStopped as reason:
                stopped = reason
                raise

        result = await self.whole.work(unit[1], UnitAsk(noting_failures))
        if stopped is not None:  # a missing extra score does not fail an item, but it is still to be asked for
            raise stopped.with_traceback(None)
        if not failed:
            self._answered.add(rank)
        return result

    def count_result(self, result: Any) -> None:
        self.whole.count_result(result)

    async def process(self, results: AsyncIterator[tuple[Any, Any]], client: ModelClient) -> None:
        """Drop the results, which are rebuilt from the replies of all parts."""
        del client
        async for _ in results:
            pass

    def summarize(self, summary: JobSummary, client: ModelClient) -> RepliesSummary:
        del client
        return RepliesSummary(**vars(summary), failures=self._failures, answered=frozenset(self._answered))


@dataclass(frozen=True)
class KnownCalls:
    """Answers the calls that a job's ledger contains, and that other processes sent in vain."""

    client: ModelClient
    units: Mapping[int, Any] = field(default_factory=dict)
    """Units of the job by rank."""
    failures: dict[str, CallFailed] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)
    """Ranks of the units of which another process got a reply to every call."""
    twice: set[str] = field(default_factory=set)
    """Keys of the calls that several processes paid for. Their units may continue otherwise with the reply that was kept."""
    lacking: RunStopped | None = None
    """Raised for any other call; by default, it is sent."""

    def add(self, failures: Mapping[str, CallFailed], answered: Iterable[int]) -> None:
        self.failures.update(failures)
        self.answered.update(answered)

    def of_unit(self, rank: int) -> Ask:
        """Return what answers the calls of a unit; see :attr:`~chiron.client.client.ModelClient.answers`."""
        is_known = rank in self.answered

        async def ask(call: Call) -> Reply:
            nonlocal is_known
            reply = self.client.ledger.get(call.key)
            if reply is not None:
                is_known = is_known and call.key not in self.twice
                return reply
            if (failure := self.failures.get(call.key)) is not None:
                raise failure.with_traceback(None)
            if is_known and self.client.halted is None:
                raise InputError(self._differing(rank, call))
            if self.lacking is not None and self.client.halted is None:
                raise self.lacking.with_traceback(None)
            return await self.client.ask(call, rank)

        return ask

    def _differing(self, rank: int, call: Call) -> str:
        name = getattr(self.units[rank], "id", None)
        unit = f"unit {rank + 1}{f', {name}' if name else ''}"
        return (
            f"a worker had other images than this machine, or they were changed during the run ({unit}: call {call.key[:12]} to"
            f" {call.model} was not sent there): copy the same images to every machine, then run the same command again"
        )


async def rebuild(
    job: OpenJob, units: Sequence[tuple[int, Any]], work: Callable[[Any], Awaitable[Any]], known: KnownCalls
) -> AsyncGenerator[tuple[Any, Any], None]:
    """Yield every unit in order, with the result that the known replies give; see :meth:`Engine.run`."""
    job.client.answers = replace(known, units=dict(units)).of_unit
    async with aclosing(LocalEngine().run(job, units, work, in_order=True)) as rebuilt:
        async for ended in rebuilt:
            yield ended


async def _look_up(job: OpenJob, unit: tuple[int, Any]) -> tuple[set[str], bool]:
    """Return the keys of a unit's calls that the ledger contains, and whether it contains all of them."""
    keys = set[str]()
    complete = await _run_with_ledger(job, unit[1], keys, RunStopped("the call was not sent yet"))
    if not complete:
        # After a failed call, an earlier run may have continued and paid for others.
        await _run_with_ledger(job, unit[1], keys, CallFailed("the call has no reply yet"))
    return keys, complete


async def _run_with_ledger(job: OpenJob, unit: Any, keys: set[str], lacking: RunStopped | CallFailed) -> bool:
    """Run a unit with the ledger's replies, and add their keys. A call without one raises ``lacking``. Returns whether there was none."""
    ledger, complete = job.client.ledger, True

    async def ask(call: Call) -> Reply:
        nonlocal complete
        reply = ledger.get(call.key)
        if reply is None:
            complete = False
            raise lacking.with_traceback(None)
        keys.add(call.key)
        return reply

    with suppress(Exception):  # a call is lacking; any other error comes again where the unit is run
        await job.work(unit, UnitAsk(ask))
    return complete


async def look_up(job: OpenJob, units: Sequence[Any], *, all_units: bool) -> list[tuple[Any, set[str]]]:
    """Return units with the keys of their calls that the job's ledger contains; none after a halt.

    ``all_units``: also those that lack no call.
    """
    if not job.client.ledger.has_calls():
        return [(unit, set()) for unit in units]
    found = []
    async with aclosing(LocalEngine().run(job, units, partial(_look_up, job), in_order=True)) as looked_up:
        async for unit, (keys, complete) in looked_up:
            if job.client.halted is not None:
                return []
            if all_units or not complete:
                found.append((unit, keys))
    return found
