"""A damaged run is a line with its problem: it stops neither the app nor the pages of the other runs."""

import json
import logging
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from chiron.jobs.directory import LEDGER
from chiron.view.library import Library
from chiron.view.search_state import SearchState
from tests.reports.building import put_calls
from tests.view.serving import address_of, visiting
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
def test_a_training_counts_lines_with_impossible_numbers_as_unreadable(tmp_path: Path, changes: dict[str, float]) -> None:
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
