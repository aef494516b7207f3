"""Work in several processes at once: what they tell arrives here, and all of them end when one fails or a person stops them.

The model is so small that a second thread only waits for the first; a second process does half of the work. Processes are spawned, since a
fork of one that has used torch's threads may hang.
"""

import contextlib
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from chiron.errors import ChironError

Say = Callable[[Any], None]
"""Sends something that can be pickled to whoever waits."""


@dataclass(frozen=True)
class Job:
    """A function of a module, which another process can import, and its arguments: called as ``work(say, *arguments)``."""

    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    after: tuple[int, ...] = ()
    """Numbers of the jobs that must be done before; they stand before it."""


@dataclass(frozen=True)
class _Message:
    kind: Literal["said", "done", "failed", "crashed"]
    content: Any


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(jobs: Sequence[Job], *, at_once: int, hear: Callable[[int, Any], None] = lambda _number, _said: None) -> list[Any]:
    """Do all jobs, so many at once, each in a process of its own; their results, in the jobs' order.

    With one at a time they are done here, one after the other.

    Args:
        jobs: what is to be done.
        at_once: processes at one time, at least 1.
        hear: called here with a job's number and what it said.

    Raises:
        ChironError: as a job raised it; the others are ended first, as with every error.
        RuntimeError: a job crashed (its traceback is in the message), or its process was killed.
    """
    if at_once < 2:
        return [job.work(lambda said, number=number: hear(number, said), *job.arguments) for number, job in enumerate(jobs)]
    results: list[Any] = [None] * len(jobs)
    waiting, done = dict(enumerate(jobs)), set[int]()
    running: dict[Connection, tuple[int, BaseProcess]] = {}
    try:
        while waiting or running:
            ready = [number for number, job in waiting.items() if done.issuperset(job.after)]
            for number in ready[: at_once - len(running)]:
                pipe, process = _started(waiting.pop(number))
                running[pipe] = (number, process)
            for pipe in [pipe for pipe in wait(list(running)) if isinstance(pipe, Connection)]:
                number, process = running[pipe]
                message = _received(pipe, process)
                if message.kind == "said":
                    hear(number, message.content)
                    continue
                if message.kind == "failed":
                    raise message.content
                if message.kind == "crashed":
                    raise RuntimeError(message.content)
                results[number] = message.content
                done.add(number)
                del running[pipe]
                process.join()
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()
    return results


def _started(job: Job) -> tuple[Connection, BaseProcess]:
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    # Daemons end with this process, however it ends, as long as it ends by itself; for the rest they watch it.
    process = context.Process(target=_do, args=(job, theirs), daemon=True)
    with _no_interrupt():
        process.start()
    theirs.close()
    return ours, process


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Processes that are started here never get Ctrl-C, which a terminal sends to all of them: it is for this one to end them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _received(pipe: Connection, process: BaseProcess) -> _Message:
    try:
        message: _Message = pipe.recv()
    except EOFError:
        process.join()
        return _Message(
            "crashed", f"a process of this run was killed (exit code {process.exitcode}); if memory ran out, run less beside it"
        )
    return message


def _do(job: Job, pipe: Connection) -> None:
    """In the other process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Several processes of several threads each would wait for one another.
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    try:
        message = _Message("done", job.work(lambda said: pipe.send(_Message("said", said)), *job.arguments))
    except ChironError as error:
        message = _Message("failed", error)
    except BaseException:  # noqa: BLE001 - whatever it is, the process that waits must hear of it
        message = _Message("crashed", traceback.format_exc())
    with contextlib.suppress(BrokenPipeError):  # nobody waits any more
        pipe.send(message)


def _end_with_parent() -> None:
    """A parent that was killed ends nobody."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
