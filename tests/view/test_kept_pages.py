"""Pages that are sent again for a moment."""

import asyncio
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Message

from chiron.view.access import CSRF, HOST, Gate, Guard, Reviewer
from chiron.view.app import create_app
from chiron.view.library import Library
from chiron.view.pages import KeptPages
from tests.support.waiting import wait_until
from tests.view.serving import PORT


class Counted(NamedTuple):
    """A page that says how often it was made, and is kept for an hour."""

    client: TestClient
    gate: Gate
    pages: KeptPages


@pytest.fixture
def counted() -> Iterator[Counted]:
    made: list[str] = []
    pages = KeptPages(3600.0)

    def make(request: Request) -> Response:
        made.append(request.url.query)
        return HTMLResponse(f"page {len(made)}", HTTPStatus.SERVICE_UNAVAILABLE if request.url.query == "busy" else HTTPStatus.OK)

    async def write(_: Request) -> Response:
        return HTMLResponse("written")

    gate = Gate(PORT, [Reviewer("anna"), Reviewer("bert")])
    routes = [Route("/", pages.keeping(make)), Route("/write", write, methods=["POST"])]
    app = Starlette(routes=routes, middleware=[Middleware(Guard, gate=gate, written=pages.forget)])
    with TestClient(app, base_url=f"http://{HOST}:{PORT}", follow_redirects=False) as client:
        client.get(gate.link(reviewer=gate.reviewers[0]))
        yield Counted(client, gate, pages)


def test_many_requests_for_a_page_make_it_once(counted: Counted) -> None:
    assert {counted.client.get("/").text for _ in range(5)} == {"page 1"}
    assert counted.client.get("/?sort=score").text == "page 2"
    assert counted.client.get("/").text == "page 1"


def test_a_page_that_is_not_ready_is_asked_for_again(counted: Counted) -> None:
    assert [counted.client.get("/?busy").text for _ in range(2)] == ["page 1", "page 2"]


def test_nobody_gets_the_page_of_another_person(counted: Counted) -> None:
    client, (anna, bert) = counted.client, counted.gate.reviewers
    assert client.get("/").text == "page 1"
    client.cookies.clear()
    assert client.get("/").status_code == HTTPStatus.FORBIDDEN
    client.get(counted.gate.link(reviewer=bert))
    assert client.get("/").text == "page 2"
    client.cookies.clear()
    client.get(counted.gate.link(reviewer=anna))
    assert client.get("/").text == "page 1"


def test_a_write_is_followed_by_a_new_page(counted: Counted) -> None:
    client = counted.client
    assert client.get("/").text == "page 1"
    headers = {"Origin": f"http://{HOST}:{PORT}", CSRF: counted.gate.reviewers[0].csrf}
    assert client.post("/write", headers=headers).text == "written"
    assert client.get("/").text == "page 2"


@pytest.mark.slow
def test_a_page_that_begins_to_listen_gets_a_new_page(tmp_path: Path) -> None:
    """What changed after the page was made and before its stream opened is in no event."""
    gate = Gate(PORT)
    app = create_app(Library([tmp_path]), gate, closing=lambda: True, keep=3600.0)
    with TestClient(app, base_url=f"http://{HOST}:{PORT}") as client:
        assert "training" not in client.get(gate.link()).text
        (tmp_path / "training").mkdir()
        (tmp_path / "training" / "metrics.jsonl").write_text("")
        assert "training" not in client.get("/").text
        wait_until(lambda: client.get("/events").text == "retry: 2000\n\n" and "/training</bdi>" in client.get("/").text)


def test_a_page_is_forgotten_before_its_stream_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The browser's stream is open when the headers arrive. The page then asks for itself again."""
    order: list[str] = []
    monkeypatch.setattr(KeptPages, "forget", lambda _: order.append("forgotten"))
    gate = Gate(PORT)
    headers = {"host": f"{HOST}:{PORT}", "cookie": f"{gate.cookie}={gate.session}"}
    scope = {"type": "http", "method": "GET", "path": "/events", "query_string": b"", "scheme": "http", "server": (HOST, PORT)}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def receive() -> Message:
        await asyncio.sleep(3600)
        raise AssertionError

    async def send(message: Message) -> None:
        order.append(message["type"])

    asyncio.run(create_app(Library([tmp_path]), gate, closing=lambda: True)(scope, receive, send))
    assert order[:2] == ["forgotten", "http.response.start"]


def test_a_page_that_was_being_made_when_something_changed_is_not_kept(counted: Counted) -> None:
    pages, made = counted.pages, list[str]()

    def make(_: Request) -> Response:
        made.append("page")
        if len(made) == 1:
            pages.forget()
        return HTMLResponse(f"page {len(made)}")

    app = Starlette(routes=[Route("/", pages.keeping(make))], middleware=[Middleware(Guard, gate=counted.gate)])
    with TestClient(app, base_url=f"http://{HOST}:{PORT}", cookies=counted.client.cookies) as client:
        assert [client.get("/").text for _ in range(3)] == ["page 1", "page 2", "page 2"]
