"""Who the server answers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from chiron.view.access import Gate
from chiron.view.app import create_app
from chiron.view.library import Library

GATE_PORT = 8123


@pytest.fixture
def gate() -> Gate:
    return Gate(GATE_PORT)


@pytest.fixture
def stranger(gate: Gate, tmp_path: Path) -> Iterator[TestClient]:
    """A browser that knows only the port."""
    with TestClient(create_app(Library([tmp_path]), gate), base_url=f"http://127.0.0.1:{GATE_PORT}") as client:
        yield client


def test_the_token_is_exchanged_for_a_cookie_that_scripts_and_other_sites_cannot_use(stranger: TestClient, gate: Gate) -> None:
    answer = stranger.get(gate.link(), follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert gate.token not in answer.headers["set-cookie"]
    assert stranger.get("/").status_code == 200


@pytest.mark.parametrize("path", ["/", "/?token=", "/?token=wrong", "/?token=%F0%9F%92%A9", "/events", "/runs/abc", "/compare"])
def test_without_the_right_token_there_is_a_plain_page_and_nothing_else(stranger: TestClient, path: str) -> None:
    answer = stranger.get(path)
    assert answer.status_code == 403
    assert "chiron view" in answer.text
    assert "<script" not in answer.text


def test_the_token_of_the_opened_browser_works_once(stranger: TestClient, gate: Gate) -> None:
    link = gate.link(once=True)
    assert stranger.get(link).status_code == 200
    stranger.cookies.clear()
    assert stranger.get(link).status_code == 403
    assert stranger.get(gate.link()).status_code == 200


def test_a_wrong_cookie_is_no_cookie(stranger: TestClient, gate: Gate) -> None:
    assert stranger.get("/", headers={"Cookie": f"{gate.cookie}=wrong"}).status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8123", "127.0.0.1", "127.0.0.1:80", "0.0.0.0:8123"])
def test_another_host_name_is_refused_because_it_may_be_a_rebound_name(stranger: TestClient, gate: Gate, host: str) -> None:
    stranger.get(gate.link())
    assert stranger.get("/", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "https://127.0.0.1:8123"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
    ],
)
def test_requests_of_other_sites_are_refused_even_with_the_cookie(stranger: TestClient, gate: Gate, headers: dict[str, str]) -> None:
    stranger.get(gate.link())
    assert stranger.get("/", headers=headers).status_code == 403


def test_requests_of_its_own_pages_are_answered(stranger: TestClient, gate: Gate) -> None:
    stranger.get(gate.link())
    own = {"Origin": f"http://127.0.0.1:{GATE_PORT}", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    assert stranger.get("/", headers=own).status_code == 200
    assert stranger.get("/", headers={"Host": f"localhost:{GATE_PORT}"}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_it_only_reads(stranger: TestClient, gate: Gate, method: str) -> None:
    stranger.get(gate.link())
    assert stranger.request(method, "/").status_code == 405


def test_every_response_forbids_frames_caches_and_foreign_content(stranger: TestClient, gate: Gate) -> None:
    stranger.get(gate.link())
    for answer in (stranger.get("/"), stranger.get("/nothing")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src 'sha256-" in answer.text.replace("&#39;", "'")


@pytest.mark.parametrize(
    "path", ["/runs/../../etc/passwd", "/runs/%2e%2e%2fetc", "/runs/x/cases/..%2f..%2fetc/images/0", "/static/../app.py"]
)
def test_addresses_never_become_paths(stranger: TestClient, gate: Gate, path: str) -> None:
    stranger.get(gate.link())
    assert stranger.get(path).status_code == 404
