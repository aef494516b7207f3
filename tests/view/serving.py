"""The app on the runs of a folder: through a test client, or on a real port for a browser."""

import re
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.testclient import TestClient

from chiron.view.access import HOST, Gate, Reviewer
from chiron.view.app import create_app
from chiron.view.library import Library
from chiron.view.review_queue import ReviewSettings
from tests.support.waiting import PATIENCE, wait_until

PORT = 8123


@contextmanager
def visiting(*folders: Path) -> Iterator[TestClient]:
    """Yield a client that has exchanged the token for a cookie. It asks again faster than a person, so no page is kept for it."""
    gate = Gate(PORT)
    with TestClient(create_app(Library(folders), gate, keep=0.0), base_url=f"http://{HOST}:{PORT}") as client:
        assert client.get(gate.link()).status_code == 200
        yield client


@contextmanager
def serving(*folders: Path, reviewers: Sequence[Reviewer] = (), settings: ReviewSettings | None = None) -> Iterator[Gate]:
    """Serve on a real port; yield the gate that knows the address."""
    with socket.create_server((HOST, 0)) as listening:
        gate = Gate(listening.getsockname()[1], reviewers)
        ended = threading.Event()
        app = create_app(Library(folders), gate, closing=ended.is_set, settings=settings)
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            wait_until(lambda: server.started, what="the server")
            yield gate
        finally:
            ended.set()
            server.should_exit = True
            thread.join(PATIENCE)


def address_of(client: TestClient, name: str) -> str:
    """Return the address of a run by the end of its name on the home page."""
    home = client.get("/").text
    found = re.search(rf'<a href="(/runs/\w+)"[^>]*><bdi>[^<]*{re.escape(name)}</bdi>', home)
    assert found is not None, home
    return found[1]


def settled(client: TestClient, address: str, *unfinished: str) -> str:
    """Return a page once none of the notes about unfinished reading is on it."""
    pages: list[str] = []

    def done() -> bool:
        pages.append(client.get(address).text)
        return not any(note in pages[-1] for note in unfinished)

    wait_until(done, what="everything to be read")
    return pages[-1]


def case_links(page: str) -> list[str]:
    """Return the addresses of the cases on a page, in order."""
    return re.findall(r'<a href="(/runs/\w+/cases/\w+)[^"]*" id="case-\w+" data-row>', page)
