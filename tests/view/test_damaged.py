"""A damaged run is a line with its problem: it stops neither the app nor the pages of the other runs."""

import json
import logging
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chiron.jobs.directory import LEDGER
from chiron.view.library import Library
from chiron.view.search_state import SearchState
from tests.reports.building import a_case, put_calls, retained, stored, write_run
from tests.view.serving import address_of, case_links, settled, visiting
from tests.view.test_home import RECORDED, a_search, metrics


def changed(sql: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        with sqlite3.connect(run / LEDGER) as connection:
            connection.execute(sql)
        connection.close()

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        changed("UPDATE calls SET answered_at = 'abc' WHERE rowid = (SELECT MAX(rowid) FROM calls)"),
        changed("UPDATE calls SET role = x'ff' WHERE rowid = 1"),
        changed("UPDATE calls SET seconds = 9e999"),
        changed("UPDATE failures SET model = x'ff'"),
        changed("UPDATE results SET case_id = x'ff' WHERE rowid = 1"),
        changed("UPDATE results SET mics_score = 'abc' WHERE rowid = 1"),
        changed("UPDATE results SET mics_score = 9e999 WHERE rowid = 1"),
        changed("UPDATE results SET position = 'abc' WHERE rowid = 1"),
    ],
)
def test_a_ledger_with_values_that_cannot_be_is_a_line_with_its_problem(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    run = a_search(tmp_path)
    put_calls(run)
    damage(run)
    shutil.copytree(RECORDED / "recorded_run", tmp_path / "good")
    with visiting(tmp_path) as client:
        home = client.get("/")
        assert home.status_code == 200
        assert "! damaged" in home.text
        assert client.get(address_of(client, "good")).status_code == 200
        answer = client.get(address_of(client, "run"))
        assert answer.status_code == 422
        assert "is damaged" in answer.text


@pytest.mark.parametrize("name", ["a\0b.jsonl", "a" * 5000 + ".jsonl"])
def test_a_name_that_cannot_be_a_file_is_a_problem_of_its_run_only(tmp_path: Path, name: str) -> None:
    run = a_search(tmp_path)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "cases": name, "images": name}))
    with visiting(tmp_path) as client:
        assert client.get("/").status_code == 200
        assert client.get(address_of(client, "run")).status_code == 200


@pytest.mark.parametrize(
    "changes",
    [{"seconds": float("inf")}, {"seconds": float("nan")}, {"tokens": float("inf")}, {"steps": 1e300}, {"total_steps": -1e308}],
)
def test_a_training_counts_lines_with_impossible_numbers_as_unreadable(tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "metrics.jsonl").write_text(metrics(1) + metrics(2, **changes))
    with visiting(tmp_path) as client:
        page = client.get(address_of(client, "training"))
        assert page.status_code == 200
        assert "1 line of" in page.text
        assert client.get("/").status_code == 200


def test_a_training_that_diverged_is_shown(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    losses = (1.0, 1e308, -1e308, float("nan"), float("inf"))
    (tmp_path / "training" / "metrics.jsonl").write_text("".join(metrics(n, loss=loss) for n, loss in enumerate(losses, 1)))
    with visiting(tmp_path) as client:
        page = client.get(address_of(client, "training"))
        assert page.status_code == 200
        assert "5 of 40 steps" in page.text


def test_an_error_that_is_not_foreseen_is_a_line_and_its_words_are_not_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a_search(tmp_path)
    shutil.copytree(RECORDED / "recorded_run", tmp_path / "other" / "recorded_run")
    words = f"the history of patient {tmp_path.name}"

    def failing(state: SearchState, _: float) -> bool:
        if state.path.name == "run":
            raise RuntimeError(words)
        return True

    with caplog.at_level(logging.ERROR), monkeypatch.context() as patched:
        patched.setattr(SearchState, "work", failing)
        library = Library([tmp_path])
        library._work_once()
        assert {line.name.rpartition("/")[2]: line.state for line in library.lines()}["run"] == "damaged"
        patched.setattr(SearchState, "refresh", failing)
        states = {line.name.rpartition("/")[2]: line.state for line in Library([tmp_path]).lines()}
    assert states["run"] == "damaged"
    assert states["recorded_run"] != "damaged"
    assert "RuntimeError" in caplog.text
    assert words not in caplog.text


def test_a_ledger_that_is_restored_is_read_again(tmp_path: Path) -> None:
    run = a_search(tmp_path)
    library = Library([tmp_path])
    changed("UPDATE results SET position = 'abc' WHERE case_id = 'case-2'")(run)
    assert library.lines()[0].state == "damaged"
    changed("UPDATE results SET position = 2 WHERE case_id = 'case-2'")(run)
    line = library.lines()[0]
    assert (line.state, line.done) == ("stopped", 3)


DAMAGED: list[dict[str, Any]] = [
    {"messages": 5},
    {"messages": {"role": "user"}},
    {"messages": [5]},
    {"messages": [{"role": "user"}]},
    {"images": 5},
    {"images": {"a": 1}},
    {"modalities": 5},
    {"provenance": {"models": 5, "calls": 5}},
    {"provenance": {"models": {"a": 1}, "calls": 5}},
    {"id": None, "body_system": ["a"], "part": {}},
]


def test_damaged_rows_are_pages_with_their_problems(tmp_path: Path) -> None:
    shutil.copytree(RECORDED / "recorded_dataset" / "cot", tmp_path / "cot")
    rows = tmp_path / "cot" / "rows.jsonl"
    good = json.loads(rows.read_text().splitlines()[0])
    rows.write_text("".join(json.dumps({**good, "question": "", **damage}) + "\n" for damage in DAMAGED) + "{}\n" + json.dumps(good) + "\n")
    with visiting(tmp_path) as client:
        address = address_of(client, "cot")
        assert "### Step 1" in settled(client, address, "still reading rows")
        for number in range(len(DAMAGED) + 1):
            assert client.get(f"{address}/rows/{number}").status_code in {200, 422}, number
            assert client.get(f"{address}/rows/{number}/images/0").status_code in {200, 404, 422}, number
        problem = client.get(f"{address}/rows/0")
        assert problem.status_code == 422
        assert "row 1 cannot be shown" in problem.text
        assert client.get(f"{address}/rows/{len(DAMAGED) + 1}").status_code == 200


@pytest.mark.parametrize(
    "changes", [{"images": 5}, {"question": 5}, {"provenance": 5}, {"tree": 5}, {"baseline_score": [1]}, {"calls": None}]
)
def test_a_damaged_record_is_a_page_with_its_problem(tmp_path: Path, changes: dict[str, Any]) -> None:
    case = a_case("odd")
    result = stored(retained(case), 0)
    result.record.update(changes)
    write_run(tmp_path, [result])
    with visiting(tmp_path) as client:
        page = case_links(client.get(address_of(client, "run")).text)[0]
        for path in (page, f"{page}/calls", f"{page}/images/0"):
            assert client.get(path).status_code in {200, 404, 422}, path


@pytest.mark.parametrize("path", ["rows/%s", "rows/0/images/%s", "cases/0/images/%s", "answers/%s/images/0"])
def test_a_number_of_thousands_of_digits_is_not_found(tmp_path: Path, path: str) -> None:
    with visiting(tmp_path) as client:
        assert client.get(f"/runs/0/{path % ('9' * 5000)}").status_code == 404
