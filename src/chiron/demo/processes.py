"""Run jobs in parallel processes that send messages to the parent. If one fails or the user interrupts, all of them are terminated.

The model is too small to benefit from threads, so the work is split over processes. On Linux, they are forked from a server process, which
imports torch and transformers once for all of them. Forking this process could hang, because it may have used torch's threads.
"""

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from chiron import ChironError

Say = Callable[[Any], None]
"""Function that sends a picklable message to the parent process."""


@dataclass(frozen=True)
class Job:
    """An importable module-level function and its arguments, called as ``work(say, *arguments)``."""

    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    after: tuple[int, ...] = ()
    """Indices of the jobs that must be complete first; they come earlier in the list."""


@dataclass(frozen=True)
class _Message:
    kind: Literal["news", "done", "failed", "crashed"]
    content: Any


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(jobs: Sequence[Job], *, at_once: int, hear: Callable[[int, Any], None] = lambda _number, _news: None) -> list[Any]:
    """Run each job in its own process, ``at_once`` of them in parallel, and return the results in the order of the jobs.

    If ``at_once`` is 1, jobs run in this process, one after the other. ``hear`` is called here with a job's index and its message.

    Raises:
        ChironError: Raised by a job. As with every error, the other processes are terminated first.
        RuntimeError: A job crashed (the message contains its traceback), or its process was killed.
    """
    if at_once < 2:
        return [job.work(lambda news, number=number: hear(number, news), *job.arguments) for number, job in enumerate(jobs)]
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
                if message.kind == "news":
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


_IMPORTED = ["chiron.demo.demonstration", "chiron.training.session", "transformers.models.internvl.modeling_internvl"]
"""Modules that jobs need and that take seconds to import."""
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TORCH_CPP_LOG_LEVEL": "ERROR"}
"""Read when torch is imported. Several processes with several threads each would slow each other down."""


def _started(job: Job) -> tuple[Connection, BaseProcess]:
    # Windows has no such server, and on macOS it is not safe to fork after torch was imported.
    context = get_context("forkserver") if sys.platform == "linux" else get_context("spawn")
    context.set_forkserver_preload(_IMPORTED)
    ours, theirs = context.Pipe(duplex=False)
    # Daemons are terminated when this process exits normally. If it is killed, _end_with_parent ends them.
    process = context.Process(target=_do, args=(job, theirs), daemon=True)
    resource_tracker.ensure_running()  # it is started with the server otherwise, and lets the interrupt through again
    with _no_interrupt(), _environment():
        process.start()
    theirs.close()
    return ours, process


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Start processes that ignore Ctrl-C, which a terminal sends to all of them; this process terminates them instead."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Set the variables of :data:`_ENVIRONMENT`: the first process that starts also starts the server."""
    before = dict(os.environ)
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name in _ENVIRONMENT:
            del os.environ[name]
        os.environ.update({name: before[name] for name in _ENVIRONMENT if name in before})


def _received(pipe: Connection, process: BaseProcess) -> _Message:
    try:
        message: _Message = pipe.recv()
    except EOFError:
        process.join()
        return _Message(
            "crashed",
            f"a process of this run was killed (exit code {process.exitcode}); if memory ran out, stop other programs, then run the same"
            " command again",
        )
    return message


def _do(job: Job, pipe: Connection) -> None:
    """Run a job in the child process and send its result."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        message = _Message("done", job.work(lambda news: pipe.send(_Message("news", news)), *job.arguments))
    except ChironError as error:
        message = _Message("failed", error)
    except BaseException:  # noqa: BLE001 - the parent must be informed of every error
        message = _Message("crashed", traceback.format_exc())
    with contextlib.suppress(BrokenPipeError):  # the parent has exited
        pipe.send(message)


def _end_with_parent() -> None:
    """Exit when the parent exits, because a killed parent cannot terminate its children."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
