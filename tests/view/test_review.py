"""Reviews through the app: queues, blind double review, adjudication, and who may write."""

import html
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from chiron.client.ledger import Ledger
from chiron.jobs.directory import LEDGER
from chiron.reviews.store import ReviewStore
from chiron.view.access import CSRF, HOST, Gate, Reviewer
from chiron.view.app import create_app
from chiron.view.library import Library
from chiron.view.review_queue import ReviewSettings
from tests.reports.building import a_case, rejected, retained, stored, unsolved, write_run

PORT = 8123
ORIGIN = {"Origin": f"http://{HOST}:{PORT}", "Sec-Fetch-Site": "same-origin"}
ACCEPT = {"verdict": "accept", "reason": "", "note": "", "text": ""}
REJECT = {"verdict": "reject", "reason": "unsupported", "note": "why?", "text": ""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four retained paths, a rejected one with score 0.25, and a case without a path."""
    made = [*(retained(a_case(name)) for name in ("alpha", "beta", "gamma", "delta")), rejected(a_case("low")), unsolved(a_case("none"))]
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(result.case.to_record()) + "\n" for result in made))
    write_run(tmp_path, [stored(result, n) for n, result in enumerate(made)])
    return tmp_path


class Desk:
    """A person at a browser."""

    def __init__(self, client: TestClient, person: Reviewer) -> None:
        self.client, self.person = client, person

    def page(self, address: str) -> str:
        answer = self.client.get(address, headers={"Cookie": f"chiron-view-{PORT}={self.person.session}"})
        assert answer.status_code == 200, answer.text
        return answer.text

    def next(self, task: str = "review") -> str:
        """Return the address of the next path."""
        run = re.search(r"/runs/(\w+)/" + task, self.page("/review"))
        if run is None:
            return "/review"
        answer = self.client.get(
            f"/runs/{run[1]}/{task}", headers={"Cookie": f"chiron-view-{PORT}={self.person.session}"}, follow_redirects=False
        )
        return str(answer.headers["location"])

    def send(self, address: str, do: str = "submit", *steps: dict[str, str], headers: dict[str, str] | None = None, **more: Any) -> Any:
        sha = re.search(r'data-path="(\w+)"', self.page(address))
        assert sha is not None
        review = {"steps": list(steps) or [ACCEPT] * 4, "final": ACCEPT, "note": ""}
        usual = {**ORIGIN, CSRF: self.person.csrf, "Cookie": f"chiron-view-{PORT}={self.person.session}"}
        sent = {"do": do, "path_sha256": sha[1], "review": review, **more}
        return self.client.post(address, json=sent, headers=usual | (headers or {}))


@contextmanager
def desks(folder: Path, **settings: Any) -> Iterator[dict[str, Desk]]:
    people = [Reviewer("anna"), Reviewer("ben"), Reviewer("cleo", reviews=False, adjudicates=True)]
    gate = Gate(PORT, people)
    app = create_app(Library([folder]), gate, settings=ReviewSettings(("anna", "ben"), **settings))
    with TestClient(app, base_url=f"http://{HOST}:{PORT}") as client:
        yield {person.name: Desk(client, person) for person in people}


def title(page: str) -> str:
    found = re.search(r"<h1>\w+ <bdi>([^<]*)</bdi>", page)
    assert found is not None, page
    return html.unescape(found[1])


def work_off(desk: Desk, task: str = "review") -> list[str]:
    """Accept everything that waits; return the ids in order."""
    address, done = desk.next(task), []
    while address != "/review":
        done.append(title(desk.page(address)))
        address = desk.send(address).json()["next"]
    return done


def test_each_path_is_reviewed_once_by_one_of_the_reviewers(folder: Path) -> None:
    with desks(folder) as people:
        first = people["anna"].next()
        people["anna"].send(first)
        assert title(people["anna"].page(first)) not in work_off(people["ben"])
        assert "No path waits" in people["anna"].page("/review")
    events = ReviewStore(folder / "run").events()
    assert sorted(event["case_id"] for event in events) == ["alpha", "beta", "delta", "gamma"]
    assert {event["reviewer"] for event in events} == {"anna", "ben"}


def test_two_reviewers_begin_with_different_paths(folder: Path) -> None:
    with desks(folder) as people:
        assert people["anna"].next() != people["ben"].next()


def test_rejected_paths_near_the_threshold_are_reviewed_on_request(folder: Path) -> None:
    with desks(folder, min_score=0.25) as people:
        assert sorted(work_off(people["anna"])) == ["alpha", "beta", "delta", "gamma", "low"]
    with desks(folder, min_score=0.26) as people:
        assert people["anna"].next() == "/review"


def test_double_review_is_blind_and_disagreements_are_adjudicated(folder: Path) -> None:
    with desks(folder, double=1.0) as people:
        anna, ben, cleo = people.values()
        address = anna.next()
        answer = anna.send(address, "submit", ACCEPT, REJECT, ACCEPT, {**ACCEPT, "verdict": "edit", "text": "Secret words."})
        assert answer.status_code == 200, answer.text
        case_id = title(anna.page(address))
        assert "why?" not in ben.page(address)
        assert "Secret words" not in ben.page(address)
        assert "No reviews disagree" in cleo.page("/review")
        assert sorted(work_off(ben)) == ["alpha", "beta", "delta", "gamma"]
        work_off(anna)
        overview = cleo.page("/review")
        assert "Adjudicate 1 path" in overview
        assert "Krippendorff's alpha" in overview
        dispute = cleo.next("adjudicate")
        page = cleo.page(dispute)
        assert title(page) == case_id
        assert "why?" in page
        assert "Secret words." in page
        assert ben.client.get(dispute, headers={"Cookie": f"chiron-view-{PORT}={ben.person.session}"}).status_code == 403
        assert cleo.send(dispute).json() == {"next": "/review"}
    decision = {case: d for (case, _), d in ReviewStore(folder / "run").decisions().items()}[case_id]
    assert (decision.status, decision.adjudicated, decision.reviewers) == ("accepted", True, 2)


def test_a_share_of_the_paths_is_reviewed_twice() -> None:
    names = [f"case-{n}" for n in range(2000)]
    fifth = {name for name in names if ReviewSettings(double=0.2).needed(name) == 2}
    assert 340 < len(fifth) < 460
    assert fifth < {name for name in names if ReviewSettings(double=0.5).needed(name) == 2}


def test_skipped_paths_leave_the_queue_and_can_be_opened_again(folder: Path) -> None:
    with desks(folder) as people:
        anna = people["anna"]
        address = anna.next()
        assert anna.send(address, "skip").json()["next"] != address
        assert f'href="{address}"' in anna.page("/review")
        anna.send(address)
        assert f'href="{address}"' not in anna.page("/review")
        following = anna.next()
        assert f'href="{address}"' in anna.page(following)  # back


def test_a_draft_is_there_again_after_a_restart(folder: Path) -> None:
    with desks(folder) as people:
        address = people["anna"].next()
        steps = [ACCEPT, {**REJECT, "note": "half a sent"}, {"verdict": "", "reason": "", "note": "", "text": ""}, ACCEPT]
        assert people["anna"].send(address, "draft", *steps).status_code == 200
    with desks(folder) as people:
        assert people["anna"].next() == address
        page = people["anna"].page(address)
        assert "half a sent" in page
        assert page.count(" checked") == 4
        assert "half a sent" not in people["ben"].page(address)
        people["anna"].send(address)
        assert "half a sent" not in people["anna"].page(address)


def test_an_incomplete_review_says_what_is_missing(folder: Path) -> None:
    with desks(folder) as people:
        address = people["anna"].next()
        answer = people["anna"].send(address, "submit", ACCEPT, {**REJECT, "reason": ""}, ACCEPT, ACCEPT)
        assert (answer.status_code, answer.json()["error"]) == (422, "step 2 is rejected without a reason: choose one")
        for wrong in ({"path_sha256": "0"}, {"do": "destroy"}, {"review": [1]}):
            assert people["anna"].send(address, **wrong).status_code == 422
        assert people["anna"].send(address, note="x" * 5_000_000).status_code == 413
    assert ReviewStore(folder / "run").events() == []


@pytest.mark.parametrize(
    "headers",
    [
        {CSRF: ""},
        {CSRF: "wrong"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
        {"Host": "evil.example:8123"},
        {"Cookie": "chiron-view-8123=wrong"},
    ],
)
def test_a_review_from_elsewhere_is_refused(folder: Path, headers: dict[str, str]) -> None:
    with desks(folder) as people:
        answer = people["anna"].send(people["anna"].next(), headers=headers)
        assert answer.status_code == 403
    assert ReviewStore(folder / "run").events() == []


def test_one_reviewer_cannot_write_with_the_secrets_of_another_or_without_an_origin(folder: Path) -> None:
    with desks(folder) as people:
        anna, ben = people["anna"], people["ben"]
        address = anna.next()
        assert anna.send(address, headers={CSRF: ben.person.csrf}).status_code == 403
        cookie = {"Cookie": f"chiron-view-{PORT}={anna.person.session}"}
        assert anna.client.post(address, json={}, headers={CSRF: anna.person.csrf, **cookie}).status_code == 403
        assert anna.client.put(address, json={}, headers={CSRF: anna.person.csrf, **cookie, **ORIGIN}).status_code == 405


def test_the_plain_link_reads_and_a_reviewers_link_opens_the_queue(folder: Path) -> None:
    gate = Gate(PORT, [Reviewer("anna")])
    with TestClient(create_app(Library([folder]), gate), base_url=f"http://{HOST}:{PORT}") as client:
        assert client.get(gate.link()).status_code == 200
        assert client.get("/review").status_code == 403
        assert client.post("/", headers=ORIGIN).status_code == 403
        opened = client.get(gate.link(reviewer=gate.reviewers[0]))
        assert opened.url.path == "/review"
        assert "anna" in client.get("/").text


def test_without_reviewers_there_is_no_queue(folder: Path) -> None:
    gate = Gate(PORT)
    with TestClient(create_app(Library([folder]), gate), base_url=f"http://{HOST}:{PORT}") as client:
        client.get(gate.link())
        assert client.get("/review").status_code == 404


def test_a_path_that_changed_is_reviewed_again(folder: Path) -> None:
    with desks(folder) as people:
        people["anna"].send(people["anna"].next())
        before = len(work_off(people["anna"]))
        assert before == 3
    with Ledger.open(folder / "run" / LEDGER) as ledger:
        ledger.put_result(stored(retained(a_case("alpha"), step="Another step."), 0))
    with desks(folder) as people:
        assert work_off(people["anna"]) == ["alpha"]


def test_a_damaged_record_does_not_block_the_queue(folder: Path) -> None:
    db = sqlite3.connect(folder / "run" / LEDGER)
    db.execute("UPDATE results SET record = x'00' WHERE case_id IN ('alpha', 'beta')")
    db.commit()
    db.close()
    with desks(folder) as people:
        assert sorted(work_off(people["anna"])) == ["delta", "gamma"]


def test_a_full_disk_is_reported_to_the_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect

    def full(*arguments: Any, **more: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = connect(*arguments, **more)
        db.execute("PRAGMA max_page_count=1")  # what SQLite answers on a full disk, without filling one
        return db

    with desks(folder) as people:
        address = people["anna"].next()
        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", full)
            answer = people["anna"].send(address)
        assert answer.status_code == 422
        assert "free space on its disk" in answer.json()["error"]
    assert ReviewStore(folder / "run").events() == []


def test_a_share_outside_of_0_and_1_is_refused() -> None:
    for wrong in ({"double": 1.2}, {"double": -0.1}, {"min_score": float("nan")}):
        with pytest.raises(Exception, match="must be between 0 and 1"):
            ReviewSettings(("anna",), **wrong)


def test_cases_are_filtered_by_the_verdict_of_reviewers_and_verdicts_stay_hidden_from_those_who_review(folder: Path) -> None:
    def shown(desk: Desk, review: str) -> list[str]:
        run = re.search(r'href="(/runs/\w+)" id="run-', desk.page("/"))
        assert run is not None
        return re.findall(r"data-row><bdi>([^<]*)</bdi>", desk.page(f"{run[1]}?review={review}"))

    with desks(folder, double=1.0) as people:
        first = people["anna"].next()
        case = title(people["anna"].page(first))
        assert shown(people["cleo"], "none") == ["alpha", "beta", "gamma", "delta", "low"]
        people["anna"].send(first)
        assert shown(people["cleo"], "accepted") == [case]
        assert case not in shown(people["cleo"], "none")
        people["ben"].send(first, "submit", REJECT, ACCEPT, ACCEPT, ACCEPT)
        assert shown(people["cleo"], "disputed") == [case]
        assert shown(people["cleo"], "accepted") == []
        people["ben"].send(first, "skip")
        assert shown(people["cleo"], "accepted") == [case]
        people["anna"].send(first, "skip")
        assert shown(people["cleo"], "accepted") == []
        people["anna"].send(first)
        everything = ["alpha", "beta", "gamma", "delta", "low", "none"]
        assert shown(people["ben"], "accepted") == everything
        run = first.partition("/review")[0]
        assert "accepted by reviewers" in people["cleo"].page(run)
        assert "by reviewers" not in people["ben"].page(run)
