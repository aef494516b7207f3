"""Run the server on a random port of the loopback address until it is stopped."""

import signal
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import uvicorn

from chiron.view.access import HOST, Gate, Reviewer
from chiron.view.app import create_app
from chiron.view.library import Library
from chiron.view.pages import compile_templates
from chiron.view.review_queue import ReviewSettings


class _Server(uvicorn.Server):
    """A uvicorn server that calls ``ready`` when it listens."""

    ready: Callable[[], None] = staticmethod(lambda: None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready()


def serve(
    folders: Sequence[Path], ready: Callable[[Gate], None], *, reviewers: Sequence[Reviewer] = (), settings: ReviewSettings | None = None
) -> None:
    """Serve the runs under the folders. Blocks until a signal stops it.

    Args:
        folders: folders to look for runs in.
        ready: called once the server listens, with the gate that knows its address.
        reviewers: persons who may write reviews, each through a link of their own. Without them the server only reads.
        settings: which paths they review.

    Raises:
        InputError: a folder does not exist.
        KeyboardInterrupt: the user stopped it.
    """
    library = Library(folders)
    # uvicorn raises the signal again at its end. A shell starts background processes with SIGINT ignored, which would end as a success.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    with socket.create_server((HOST, 0)) as listening:
        gate = Gate(listening.getsockname()[1], reviewers)
        server = _Server(uvicorn.Config("", log_level="critical", access_log=False, timeout_graceful_shutdown=2, server_header=False))
        server.config.app = create_app(library, gate, closing=lambda: server.should_exit, settings=settings)

        def started() -> None:
            ready(gate)
            threading.Thread(target=compile_templates, name="chiron-view-templates", daemon=True).start()

        server.ready = started
        server.run(sockets=[listening])


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
