"""Engine that runs parts of a job on the machines of a Ray cluster (extra ``ray``)."""

import asyncio
import logging
import tempfile
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from chiron.client.broker import Broker
from chiron.client.client import Count
from chiron.client.failures import RunStopped
from chiron.client.lease import Leases
from chiron.client.ledger_merge import MergingLedger
from chiron.errors import InputError
from chiron.extras import need
from chiron.jobs.engine import EngineOptions, OpenJob
from chiron.jobs.parts import PartEnd, PartRunner, PartTask, WorkerState, check_worker, divide, pass_on, store_remains
from chiron.jobs.ray_cluster import first_line, open_cluster
from chiron.jobs.replies import KnownCalls, RepliesSummary, look_up, rebuild
from chiron.jobs.storage import COPIES, LEASES, PROBE, Storage, attempt_of, begin_parts, merge_part, part_of, recover_parts, spent_in_copy

_log = logging.getLogger(__name__)
_PARTS = 8
"""Parts for each worker, so that a slow worker does not hold up the others at the end."""
_LOOK_EVERY = 0.25
"""Seconds between looks at the workers."""
_START_WITHIN = 120.0
"""Seconds in which a worker must start."""
_REMAINS_WITHIN = 30.0
"""Seconds to wait for the ledger of a lost worker, whose machine may be lost too."""
_LOSSES = 5
"""Workers that may be lost with the same part before the run stops."""


class RemoteLeases(Leases):
    """A worker's connection to the broker actor."""

    def __init__(self, broker: Any, holder: str) -> None:
        """``broker``: handle of the actor."""
        self._broker, self._holder = broker, holder

    async def _ask(self, method: str, *values: Any) -> Any:
        try:
            return await getattr(self._broker, method).remote(self._holder, *values)
        except Exception as error:  # the actor or its machine is gone
            raise RunStopped(f"the broker of the budget does not answer ({type(error).__name__}): run the same command again") from error


class RayWorker:
    """Actor that runs one part after the other."""

    def __init__(self) -> None:
        self._runner: PartRunner | None = None

    async def check(self, *about: Any) -> str | None:
        return await asyncio.to_thread(check_worker, *about)

    async def node(self) -> str:
        import ray

        return str(ray.get_runtime_context().get_node_id())

    async def run(self, task: PartTask, broker: Any) -> PartEnd:
        self._runner = PartRunner(task, RemoteLeases(broker, task.name))
        return await self._runner.run()

    async def state(self) -> WorkerState:
        return WorkerState() if self._runner is None else self._runner.state()

    async def stop(self) -> None:
        """Stop the part after the calls in flight."""
        if self._runner is not None:
            self._runner.stop()


@dataclass
class _Attempt:
    """One part, and the attempts to run it."""

    task: PartTask
    units: list[Any]
    losses: int = 0
    lost: str | None = None
    """Name of the attempt before, whose worker was lost."""
    node: str = ""
    """ID of the machine that ran it, or the attempt before."""
    worker: Any = None
    state: WorkerState = field(default_factory=WorkerState)


class RayEngine:
    """Run parts of a job on a Ray cluster."""

    def __init__(self, options: EngineOptions) -> None:
        """Create an engine.

        Raises:
            InputError: Ray is not installed.
        """
        need("ray", "--engine ray", "ray")
        if (options.address or "").startswith("ray://"):
            raise InputError(f"--address {options.address} is a Ray client address: run the command on a machine of the cluster instead")
        self.options = options

    def run(
        self, job: OpenJob, units: Iterable[Any], work: Callable[[Any], Awaitable[Any]], *, in_order: bool
    ) -> AsyncGenerator[tuple[Any, Any], None]:
        session = _Session(job, self.options, rebuilt=in_order)
        return session.rebuild(list(units), work) if in_order else session.run(units)


class _Session:
    """One job on a cluster."""

    def __init__(self, job: OpenJob, options: EngineOptions, *, rebuilt: bool) -> None:
        """``rebuilt``: whether this process rebuilds the results from the replies, instead of reading them from the parts' ledgers."""
        self._job, self._options, self._rebuilt = job, options, rebuilt
        self._client = job.client
        self._storage = Storage(options.storage or str((job.directory.path / COPIES).resolve()))
        self._leases = job.directory.path / LEASES
        self._waiting: deque[_Attempt] = deque()
        self._running: dict[str, _Attempt] = {}
        self._ended: asyncio.Queue[tuple[_Attempt, PartEnd] | BaseException | None] = asyncio.Queue()
        self._broker: Any = None
        self._spent = 0.0
        """USD in the run's ledger."""
        self._over: list[_Attempt] = []
        self._known = KnownCalls(self._client)
        """What the workers asked, if results are rebuilt."""

    async def rebuild(self, units: list[Any], work: Callable[[Any], Awaitable[Any]]) -> AsyncGenerator[tuple[Any, Any], None]:
        """Distribute the units, and yield each one in order, with the result that the replies of all workers give."""
        async with aclosing(self.run(units)) as none:
            async for _ in none:
                pass
        for attempt in self._over:
            self._see(attempt, replace(attempt.state, progress=None))
        async with aclosing(rebuild(self._job, units, work, self._known)) as rebuilt:
            async for ended in rebuilt:
                yield ended

    async def run(self, units: Iterable[Any]) -> AsyncGenerator[tuple[Any, Any], None]:
        """Distribute the units, and yield each one whose result is stored."""
        self._spent = self._client.ledger.spent_usd()
        left = await look_up(self._job, list(units), all_units=not self._rebuilt)
        if not left or self._client.halted is not None:
            return
        run = await asyncio.to_thread(begin_parts, self._job.directory.path, self._storage)
        try:
            async with open_cluster(self._options) as workers:
                await asyncio.to_thread(self._divide, run, left, workers)
                await self._open_broker(workers)
                async for attempt, end in self._ends(min(workers, len(self._waiting)), run):
                    for unit in await self._collect(attempt, end):
                        yield unit, self._job.stored_result(unit)
        finally:
            self._storage.remove(run + PROBE)
        # Parts that were not continued because the run stopped.
        await asyncio.to_thread(recover_parts, self._job.directory)
        self._client.budget.spent = self._client.ledger.spent_usd()

    def _divide(self, run: str, left: list[tuple[Any, set[str]]], workers: int) -> None:
        limit = self._client.budget.limit
        for task, units in divide(self._job, left, self._storage, self._options, workers, run=run, parts=_PARTS, budget_usd=limit):
            self._waiting.append(_Attempt(replace(task, name=f"{task.name}-{0 if task.resumes is None else 1}"), units))

    async def _open_broker(self, workers: int) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(Broker).options(num_cpus=0, scheduling_strategy=here)
        self._broker = actor.remote(self._client.budget.limit, self._spent, workers, self._leases.resolve())

    async def _ends(self, workers: int, run: str) -> AsyncGenerator[tuple[_Attempt, PartEnd], None]:
        """Yield each part when it has ended. At the end, or after an error, no worker is left."""
        slots = [asyncio.create_task(self._slot(run)) for _ in range(workers)]
        looking = asyncio.create_task(self._look())
        left = len(slots)
        try:
            while left:
                ended = await self._ended.get()
                if ended is None:
                    left -= 1
                elif isinstance(ended, BaseException):
                    raise ended
                else:
                    yield ended
        finally:
            for task in (*slots, looking):
                task.cancel()
            await asyncio.gather(*slots, looking, return_exceptions=True)

    async def _slot(self, run: str) -> None:
        """Keep one worker busy until no part is left."""
        worker = None
        try:
            while self._waiting and self._client.halted is None:
                attempt = self._waiting.popleft()
                worker = worker or await self._start_worker(attempt, run)
                if not await self._run_attempt(attempt, worker):
                    worker = None
        except Exception as error:  # noqa: BLE001 - raised again where the results are awaited
            self._ended.put_nowait(error)
        self._ended.put_nowait(None)

    async def _start_worker(self, attempt: _Attempt, run: str) -> Any:
        """Start a worker and check that it has what the job needs.

        Raises:
            InputError: the cluster has no place for it, or it differs from this process.
        """
        import ray

        worker = ray.remote(RayWorker).options(num_cpus=1, scheduling_strategy="SPREAD").remote()
        about = (version("chiron-med"), self._job.identity)
        checking = worker.check.remote(attempt.task.part, about, self._storage.url, run, str(Path.cwd()))
        try:
            problem = await asyncio.wait_for(checking, _START_WITHIN)
        except TimeoutError:
            raise InputError(
                f"the Ray cluster has no free CPU for a worker ({_START_WITHIN:.0f} s): wait for other jobs, or use fewer --workers"
            ) from None
        except ray.exceptions.RayError as error:
            raise InputError(
                f"a worker cannot start ({first_line(error)}): install the same versions of chiron-med, Python and Ray on every machine"
            ) from error
        if problem is not None:
            raise InputError(f"a worker cannot run this job: {problem}")
        return worker

    async def _run_attempt(self, attempt: _Attempt, worker: Any) -> bool:
        """Run a part. Returns whether the worker is still alive; otherwise the part waits for another one."""
        import ray

        name, booked = attempt.task.name, 0.0
        if attempt.lost is not None:
            await self._store_remains(attempt.lost, attempt.node)
            # The lost attempt may have stored no copy yet.
            copies = await asyncio.to_thread(self._storage.copies_of, part_of(name))
            attempt.task = replace(attempt.task, resumes=copies[-1] if copies else None)
            booked = await asyncio.to_thread(spent_in_copy, self._storage, attempt.task.resumes)
        await self._broker.open.remote(name, booked)
        if attempt.lost is not None:
            await self._write_off(attempt.lost, booked)
        attempt.worker, self._running[name] = worker, attempt
        try:
            attempt.node = await worker.node.remote()
            end = await worker.run.remote(attempt.task, self._broker)
        except ray.exceptions.RayTaskError:
            raise  # a bug: another worker would meet it too
        except ray.exceptions.RayError as error:
            self._lose(attempt, error)
            return False
        finally:
            self._running.pop(name, None)
        self._ended.put_nowait((attempt, end))
        return True

    def _lose(self, attempt: _Attempt, error: Exception) -> None:
        """Queue a part whose worker was lost, with the last copy of its ledger."""
        import ray

        ray.kill(attempt.worker)  # it may only be out of reach; its lease is closed, so that it cannot spend more
        counts = {key: replace(count, in_flight=0) for key, count in attempt.state.counts.items()}
        self._see(attempt, WorkerState(counts=counts))
        losses = attempt.losses + 1
        self._client.note("\0lost workers", f"a worker was lost ({first_line(error)}); its part was continued by another one")
        task = replace(attempt.task, name=f"{part_of(attempt.task.name)}-{attempt_of(attempt.task.name) + 1}")
        self._waiting.appendleft(_Attempt(task, attempt.units, losses, attempt.task.name, attempt.node))
        if losses >= _LOSSES:
            self._client.halt(
                RunStopped(
                    f"{losses} workers in a row were lost with the same {len(attempt.units)} units, most recently: {first_line(error)}"
                )
            )

    async def _store_remains(self, lost: str, node: str) -> None:
        """Store what a lost worker left on its machine, if that machine is still there. Otherwise its last copy has to do."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node, soft=False)
        task = ray.remote(store_remains).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
        try:
            await asyncio.wait_for(task.remote(lost, self._storage.url), _REMAINS_WITHIN)
        except (TimeoutError, ray.exceptions.RayError) as error:
            _log.warning("what the lost worker %s left cannot be used (%s); its last copy is used", lost, first_line(error))

    async def _write_off(self, lost: str, booked: float) -> None:
        """Count what a lost worker was granted and its last copy does not contain."""
        usd = max(0.0, await self._broker.granted.remote(lost) - booked)
        self._client.ledger.book_lost(lost, usd)
        await self._broker.close.remote(lost, usd)
        self._spent += usd

    async def _collect(self, attempt: _Attempt, end: PartEnd) -> list[Any]:
        """Merge the ledger of a part. Returns its units that have a result."""
        if end.problem is not None:
            raise InputError(f"a worker cannot run its part of the job: {end.problem}")
        name = attempt.task.name
        # Stored results are counted again by the job as it gets them, others when they are rebuilt.
        self._see(attempt, end.state if self._rebuilt else replace(end.state, progress=None))
        self._over.append(attempt)
        if isinstance(end.summary, RepliesSummary):
            self._known.add(end.summary.failures, end.summary.answered)
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / "ledger.sqlite"
            if await asyncio.to_thread(self._storage.get_ledger, name, local):
                booked, twice = await asyncio.to_thread(_merge_into, self._job.directory.ledger, local)
                self._known.twice.update(twice)
                await self._broker.close.remote(name, booked)
                for copy in await asyncio.to_thread(self._storage.copies_of, part_of(name)):
                    await asyncio.to_thread(self._storage.delete, copy)
        attempt.state = replace(attempt.state, spent_usd=0.0)
        self._spent = self._client.ledger.spent_usd()
        pass_on(end, self._job)
        return [unit for unit in attempt.units if self._job.stored_result(unit) is not None]

    async def _look(self) -> None:
        """Show the workers' progress as this job's, and pass on the end of the run."""
        stopped: set[str] = set()
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            for name, attempt in list(self._running.items()):
                if self._client.halted is not None and name not in stopped:
                    stopped.add(name)
                    attempt.worker.stop.remote()
                try:
                    state = await asyncio.wait_for(attempt.worker.state.remote(), 10 * _LOOK_EVERY)
                except Exception:  # noqa: BLE001, S112 - a lost worker is noticed where its part is awaited
                    continue
                if name in self._running:
                    self._see(attempt, state)

    def _see(self, attempt: _Attempt, state: WorkerState) -> None:
        """Replace the last known progress of a part in the job's progress and counts."""
        before, attempt.state = attempt.state, state
        if before.progress is not None:
            self._job.progress.add(before.progress, -1)
        if state.progress is not None:
            self._job.progress.add(state.progress)
        for key in before.counts.keys() | state.counts.keys():
            count, old, new = self._client.counts[key], before.counts.get(key, Count()), state.counts.get(key, Count())
            for name in ("asked", "free", "in_flight", "retries", "failed"):
                setattr(count, name, getattr(count, name) + getattr(new, name) - getattr(old, name))
        live = [other.state for other in self._running.values()]
        for name, endpoint in self._client.endpoints.items():
            if found := [other.allowed[name] for other in live if name in other.allowed]:
                endpoint.limiter.allowed = min(float(endpoint.limiter.ceiling), sum(found))
        self._client.budget.spent = self._spent + sum(other.spent_usd for other in live)


def _merge_into(run: Path, part: Path) -> tuple[float, frozenset[str]]:
    # In a thread, so with a connection of its own.
    with MergingLedger.open(run) as into:
        return merge_part(part, into)
