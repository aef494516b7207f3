"""Connect to a Ray cluster, or start one on this machine."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager

from chiron.errors import InputError
from chiron.jobs.engine import EngineOptions


def first_line(error: BaseException) -> str:
    """Return the type and the first line of one of Ray's errors, which have many lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__


@asynccontextmanager
async def open_cluster(options: EngineOptions) -> AsyncGenerator[int, None]:
    """Connect to the cluster, or start one on this machine. Yields the number of workers."""
    import ray

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with _own_signals():
        try:
            await _reach(options.address)
            if options.address is None:
                # "local": Ray would otherwise join a cluster that somebody else started on this machine.
                ray.init("local", num_cpus=options.workers or 1, include_dashboard=False, log_to_driver=False, configure_logging=False)
            else:
                ray.init(address=options.address, log_to_driver=False, configure_logging=False)
        except Exception as error:  # Ray has no common class for these errors
            raise InputError(
                f"the Ray cluster at {options.address or 'this machine'} cannot be used ({first_line(error)}): start one with"
                " 'ray start --head', join machines with 'ray start --address HOST:6379', and give --address HOST:6379"
            ) from error
    try:
        yield options.workers or sum(node["Alive"] for node in ray.nodes())
    finally:
        ray.shutdown()


async def _reach(address: str | None) -> None:
    """Raise ``OSError`` if nothing listens at the address. Ray itself would try for many minutes."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdecimal():
        _, writer = await asyncio.wait_for(asyncio.open_connection(host.strip("[]"), int(port)), 10)
        writer.close()
        await writer.wait_closed()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's signal handlers, which Ray replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
