"""The home page: every run under the folders, its state and its cost."""

import asyncio
import json
import os
import shutil
import sqlite3
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

import pytest

from chiron.client.call import Call, Message, Reply, TextPart, Usage
from chiron.client.ledger import Ledger
from chiron.io import alone
from chiron.jobs.directory import LEDGER, LOCK
from chiron.reports.shell import environment
from chiron.view import pages
from chiron.view.library import Library
from chiron.view.pages import KeptPages, compile_templates
from chiron.view.states import RunLine
from tests.reports.building import a_case, pending, put_calls, rejected, retained, stored, write_run
from tests.support.evaluations import an_item, write_evaluation
from tests.view.serving import address_of, visiting

RECORDED = Path(__file__).parents[1] / "support"


def line_of(folder: Path, name: str) -> RunLine:
    library = Library([folder])
    library.lines()
    library._work_once()
    return next(line for line in library.lines() if line.name.endswith(name))


def a_search(folder: Path, count: int = 4) -> Path:
    cases = [a_case(f"case-{number}") for number in range(count)]
    (folder / "cases.jsonl").write_text("".join(json.dumps(case.to_record()) + "\n" for case in cases))
    done = [stored((retained if number % 2 else rejected)(case), number) for number, case in enumerate(cases[:3])]
    return write_run(folder, done)


def test_every_kind_of_run_has_a_line(tmp_path: Path) -> None:
    shutil.copytree(RECORDED / "recorded_run", tmp_path / "search")
    shutil.copytree(RECORDED / "recorded_dataset", tmp_path / "dataset")
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "metrics.jsonl").write_text("")
    kinds = {line.name.partition("/")[2]: line.kind for line in Library([tmp_path]).lines()}
    assert kinds == {
        "search": "search",
        "training": "training",
        "dataset/text": "build",
        "dataset/cot": "build",
        "dataset/evaluation": "evaluation",
        "dataset/release": "release",
    }


def test_a_stopped_search_shows_progress_retained_paths_and_known_and_possible_cost(tmp_path: Path) -> None:
    run = a_search(tmp_path)
    put_calls(run)
    with Ledger.open(run / LEDGER) as ledger:
        ledger.begin_attempt(a_call(9), 0.25)
    line = line_of(tmp_path, "run")
    assert (line.state, line.done, line.total, line.retained) == ("stopped", 3, 4, 1)
    assert line.known_usd == 1.0
    assert line.possible_usd == 0.25
    assert line.priced is False
    with visiting(tmp_path) as client:
        home = client.get("/").text
    assert "1 run, cost: at least $1.00, up to $0.2500 more possible" in home
    assert "at least $1.00<small>up to $0.2500 more possible</small>" in home


def test_every_page_says_when_a_cost_is_not_all_or_not_known(tmp_path: Path) -> None:
    replies: dict[str, list[float | None]] = {"one": [0.5, None], "two": [None], "three": [0.25]}
    for name, costs in replies.items():
        write_evaluation(tmp_path / name, name, [an_item(0)])
        with Ledger.open(tmp_path / name / LEDGER) as ledger:
            for sample, cost in enumerate(costs):
                ledger.put(a_call(sample), Reply("text", cost_usd=cost))
    put_calls(a_search(tmp_path))
    words = {"one": ", at least $0.5000<", "two": ", no price<", "three": ", $0.2500<", "run": "<b>at least $1.00</b> <span>spent<"}
    with visiting(tmp_path) as client:
        for name, text in words.items():
            assert text in client.get(address_of(client, name)).text


def a_call(sample: int) -> Call:
    return Call("mentor", "mentor-a", "openai:mentor-a", (Message("user", (TextPart("q"),)),), 1.2, 100, sample)


def test_a_run_is_running_while_a_process_holds_its_lock(tmp_path: Path) -> None:
    run = a_search(tmp_path)
    library = Library([tmp_path])
    with alone(run / LOCK, place="here", busy="busy"):
        assert [line.state for line in library.lines()] == ["running"]
    assert [line.state for line in library.lines()] == ["stopped"]


def test_looking_creates_no_lock_and_changes_no_file(tmp_path: Path) -> None:
    run = a_search(tmp_path)
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with visiting(tmp_path) as client:
        client.get("/")
    after = {path.name: path.read_bytes() for path in run.iterdir() if path.suffix not in {".sqlite-wal", ".sqlite-shm"} and path.is_file()}
    assert {name: data for name, data in after.items() if not name.endswith(("-wal", "-shm"))} == before


def test_results_and_costs_appear_while_another_connection_writes(tmp_path: Path) -> None:
    run = a_search(tmp_path)
    library = Library([tmp_path])
    assert library.lines()[0].done == 3
    with Ledger.open(run / LEDGER) as ledger:
        before = library.signature()
        ledger.put(a_call(1), Reply("text", usage=Usage(10, 10), cost_usd=0.5))
        ledger.put_result(stored(retained(a_case("case-3")), 3))
        ledger.put_result(stored(retained(a_case("case-0")), 0))
        assert library.signature() != before
        line = library.lines()[0]
        assert (line.done, line.retained, line.known_usd) == (4, 3, 0.5)


def test_a_reader_never_blocks_the_writer(tmp_path: Path) -> None:
    run = a_search(tmp_path)
    library = Library([tmp_path])
    with Ledger.open(run / LEDGER) as ledger, sqlite3.connect(run / LEDGER, timeout=0) as impatient:
        for sample in range(50):
            ledger.put(a_call(sample), Reply("text", cost_usd=0.01))
            library.lines()
            impatient.execute("UPDATE results SET position = position")
            impatient.commit()
    assert library.lines()[0].known_usd == pytest.approx(0.5)


def test_the_time_left_follows_from_calls_a_case_and_the_speed_of_the_last_calls(tmp_path: Path) -> None:
    run = a_search(tmp_path)
    with Ledger.open(run / LEDGER) as ledger:
        for sample in range(30):
            ledger.put(a_call(sample), Reply("text"))
    with sqlite3.connect(run / LEDGER) as connection:
        connection.execute("UPDATE calls SET answered_at = answered_at - 60 + rowid * 2")  # one call every two seconds
    connection.close()
    with alone(run / LOCK, place="here", busy="busy"):
        line = line_of(tmp_path, "run")
    assert line.state == "running"
    # 10 calls a finished case, one case left, about half a call a second
    assert line.seconds_left == pytest.approx(20, rel=0.2)


def test_a_case_that_is_searched_again_is_counted_once(tmp_path: Path) -> None:
    run = a_search(tmp_path)
    library = Library([tmp_path])
    library.lines()
    with Ledger.open(run / LEDGER) as ledger:
        ledger.put_result(stored(pending(a_case("case-2")), 2))
        ledger.drop_result("case-1")
    line = library.lines()[0]
    assert (line.done, line.retained) == (1, 0)


def test_a_call_that_a_repair_deletes_and_the_next_run_repeats_is_counted_once(tmp_path: Path) -> None:
    run = a_search(tmp_path)
    library = Library([tmp_path])
    with Ledger.open(run / LEDGER) as ledger:
        for sample in range(3):
            ledger.put(a_call(sample), Reply("text", cost_usd=0.5))
        assert library.lines()[0].known_usd == 1.5
        with sqlite3.connect(run / LEDGER) as connection:
            connection.execute("DELETE FROM calls WHERE key = ?", (bytes.fromhex(a_call(1).key),))
        connection.close()
        ledger.put(a_call(1), Reply("text", cost_usd=0.25))
    assert library.lines()[0].known_usd == 1.25


def test_a_ledger_in_the_place_of_a_damaged_one_is_read_from_its_start(tmp_path: Path) -> None:
    run = a_search(tmp_path)
    with Ledger.open(run / LEDGER) as ledger:
        ledger.put(a_call(1), Reply("text", cost_usd=0.5))
    library = Library([tmp_path])
    assert library.lines()[0].retained == 1
    (tmp_path / "recovered").mkdir()
    with Ledger.open(tmp_path / "recovered" / LEDGER) as ledger:
        ledger.put(a_call(1), Reply("text", cost_usd=0.25))
        for number in range(4):
            ledger.put_result(stored(retained(a_case(f"case-{number}")), number))
    (tmp_path / "recovered" / LEDGER).replace(run / LEDGER)
    line = library.lines()[0]
    assert (line.known_usd, line.retained, line.done) == (0.25, 4, 4)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: (run / "run.json").write_text("{"), "run.json cannot be read"),
        (lambda run: (run / "run.json").write_text("[1]"), "is damaged"),
        (lambda run: (run / "run.json").unlink(), "no run.json"),
        (lambda run: (run / "run.json").write_text('{"something": 1}'), "does not say what the run is"),
        (lambda run: (run / LEDGER).write_bytes(b"not a database" * 100), "ledger"),
        (lambda run: (run / LEDGER).unlink(), "no ledger.sqlite"),
        (lambda run: sqlite3.connect(run / LEDGER).execute("PRAGMA user_version = 99").connection.close(), "another version"),
    ],
)
def test_a_damaged_run_is_a_line_with_its_problem(tmp_path: Path, damage: object, words: str) -> None:
    run = a_search(tmp_path)
    for name in ("-wal", "-shm"):
        (run / f"{LEDGER}{name}").unlink(missing_ok=True)
    damage(run)  # type: ignore[operator]
    (tmp_path / "other").mkdir()
    shutil.copytree(RECORDED / "recorded_run", tmp_path / "other" / "good")
    with visiting(tmp_path) as client:
        home = client.get("/").text
        assert words in home
        assert "! damaged" in home
        assert "good</bdi>" in home
        broken = next(line for line in Library([tmp_path]).lines() if line.state == "damaged")
        page = client.get(f"/runs/{broken.id}")
        assert page.status_code == 422
        assert words in page.text


def test_an_evaluation_shows_answers_and_pending_ones(tmp_path: Path) -> None:
    groups: list[Mapping[str, object]] = [{"benchmark": "vqa_rad", "control": "none", "verdicts": {"right": 3, "pending": 2}}]
    write_evaluation(tmp_path / "eval", "Good-8B", [an_item(number) for number in range(5)], groups)
    line = line_of(tmp_path, "eval")
    assert (line.state, line.done, line.total, line.subject) == ("stopped", 3, 5, "Good-8B: vqa_rad")


def test_a_training_shows_steps_and_time_left_while_it_writes(tmp_path: Path) -> None:
    folder = tmp_path / "training"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(metrics(step) for step in range(1, 11)) + '{"stage": "text", "st')
    line = line_of(tmp_path, "training")
    assert (line.state, line.done, line.total, line.seconds_left) == ("running", 10, 40, 60.0)
    os.utime(folder / "metrics.jsonl", (1, 1))
    assert line_of(tmp_path, "training").state == "stopped"
    (folder / "model").mkdir()
    assert line_of(tmp_path, "training").state == "complete"


def metrics(step: int, stage: str = "text", **changes: object) -> str:
    values = {
        "stage": stage, "step": step, "steps": 40, "total_steps": step, "loss": 5.0 / step, "learning_rate": 1e-4, "gradient_norm": 1.0,
        "tokens": 1000, "trained_tokens": 500, "utilisation": 0.9, "seconds": 2.0, "memory_gib": 1.5,
    }  # fmt: skip
    return json.dumps({**values, **changes}) + "\n"


def test_a_folder_without_runs_says_how_to_make_one(tmp_path: Path) -> None:
    with visiting(tmp_path) as client:
        assert "There is no run in this folder yet" in client.get("/").text


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    a_search(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert len(Library([tmp_path]).lines()) == 1


def test_a_change_is_sent_as_an_event(tmp_path: Path) -> None:
    from chiron.view.app import _changes

    run = a_search(tmp_path)
    library = Library([tmp_path])
    library.lines()

    async def first_events() -> list[str]:
        events = _changes(library, None, library.signature(), KeptPages(0.0), lambda: False)
        found = [await anext(events)]
        with Ledger.open(run / LEDGER) as ledger:
            ledger.put_result(stored(retained(a_case("case-3")), 3))
        found.append(await anext(events))
        await events.aclose()  # type: ignore[attr-defined]
        return found

    assert asyncio.run(first_events()) == ["retry: 2000\n\n", "event: changed\ndata: \n\n"]


def test_two_servers_may_look_at_one_folder(tmp_path: Path) -> None:
    a_search(tmp_path)
    with visiting(tmp_path) as one, visiting(tmp_path) as other:
        assert one.get("/").status_code == other.get("/").status_code == 200


def test_a_run_does_not_change_when_it_is_looked_at(tmp_path: Path) -> None:
    run = a_search(tmp_path)
    for file in run.iterdir():
        os.utime(file, (1_000_000, 1_000_000))
    line_of(tmp_path, run.name)
    assert line_of(tmp_path, run.name).changed == 1_000_000


def test_the_first_visit_of_a_page_compiles_no_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = environment("chiron.view")
    assert env.cache is not None
    env.cache.clear()
    compile_templates()
    monkeypatch.setattr(env, "compile", None)
    with visiting(tmp_path) as client:
        assert client.get("/").status_code == HTTPStatus.OK
    assert len(env.cache) >= len(list(Path(pages.__file__).parent.glob("*.html")))
