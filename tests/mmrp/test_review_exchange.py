"""Paths go to Argilla and Label Studio, and reviews come back."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from chiron.client.ledger import Ledger
from chiron.errors import InputError
from chiron.jobs.directory import LEDGER
from chiron.mmrp.review_exchange import Tool, export_tasks, import_reviews
from chiron.reviews.records import current_reviews, hash_path
from chiron.reviews.store import ReviewStore, read_reviews
from tests.reports.building import a_case, rejected, retained, stored, write_run
from tests.support.cases import write_png
from tests.support.command import chiron

Answers = dict[str, dict[str, str]]
"""What a person answers, by part of a path."""
NAMES = {"text": "edited"}
GOOD: Answers = {part: {"verdict": "accept"} for part in ("1", "2", "3", "4", "final")}
MIXED: Answers = {
    **GOOD,
    "2": {"verdict": "reject", "reason": "unsupported", "note": "Where?"},
    "3": {"verdict": "edit", "text": "The cortex is interrupted."},
    "final": {"verdict": "edit", "text": "Rib fracture, left"},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    made = [retained(a_case("alpha", images=("a.png",))), rejected(a_case("beta", images=()))]
    run = write_run(tmp_path, [stored(result, number) for number, result in enumerate(made)])
    write_png(tmp_path / "images" / "a.png")
    return run


def in_argilla(folder: Path, people: dict[str, Answers]) -> Path:
    """Answer the exported records as people do in Argilla, and export them from there."""
    records = json.loads((folder / "records.json").read_text())
    for record in records:
        for person, answers in people.items():
            for name, value in answers.get(record["metadata"]["part"], {}).items():
                record["responses"].setdefault(NAMES.get(name, name), []).append({"value": value, "user_id": person})
    return written(folder / "back.json", records)


def in_label_studio(folder: Path, people: dict[str, Answers]) -> Path:
    """Annotate the exported tasks as people do in Label Studio, and export them from there."""
    tasks = json.loads((folder / "tasks.json").read_text())
    for task in tasks:
        task["annotations"] = [
            {"completed_by": person, "was_cancelled": False, "created_at": "2026-01-01", "result": regions(answers)}
            for person, answers in ((person, given.get(task["data"]["chiron"]["part"])) for person, given in people.items())
            if answers
        ]
    return written(folder / "back.json", tasks)


def regions(answers: dict[str, str]) -> list[dict[str, Any]]:
    kinds = {"verdict": "choices", "reason": "choices", "text": "textarea", "note": "textarea"}
    return [
        {
            "from_name": NAMES.get(name, name),
            "to_name": "text",
            "type": kinds[name],
            "value": {"text" if kinds[name] == "textarea" else "choices": [value]},
        }
        for name, value in answers.items()
    ]


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


TOOLS = [("argilla", in_argilla), ("label-studio", in_label_studio)]


@pytest.mark.parametrize(("tool", "answered"), TOOLS)
def test_reviews_of_another_tool_come_back_with_verdicts_texts_and_names(run: Path, tool: Tool, answered: Any) -> None:
    back = answered(export_tasks(run, tool), {"7": MIXED, "ben@example.org": GOOD})
    done = import_reviews(run, back, tool, {"7": "Dr. Anna"})
    assert (done.reviews, done.incomplete) == (2, 0)
    anna, ben = sorted(read_reviews(run), key=lambda event: event["reviewer"])
    assert (anna["reviewer"], ben["reviewer"]) == ("Dr. Anna", "ben@example.org")
    assert [step["verdict"] for step in anna["steps"]] == ["accept", "reject", "edit", "accept"]
    assert (anna["steps"][1]["reason"], anna["steps"][1]["note"]) == ("unsupported", "Where?")
    assert anna["steps"][2]["text"] == "The cortex is interrupted."
    assert anna["final"] is not None
    assert anna["final"]["text"] == "Rib fracture, left"
    with Ledger.read(run / LEDGER) as ledger:
        result = ledger.result("alpha")
    assert result is not None
    assert anna["path_sha256"] == hash_path(result.record["reasoning"])
    assert import_reviews(run, back, tool, {"7": "Dr. Anna"}).known == 2
    assert len(read_reviews(run)) == 2


def test_an_export_that_label_studio_wrote_is_read(run: Path) -> None:
    """The file is an export of Label Studio 1.23.2, whose pages a browser filled in for the tasks of this run with ``min_score=0``."""
    done = import_reviews(run, Path(__file__).parents[1] / "support" / "label_studio_export.json", "label-studio", {"1": "Dr. Anna"})
    assert (done.reviews, done.incomplete) == (2, 0)
    alpha, beta = sorted(read_reviews(run), key=lambda event: event["case_id"])
    assert [step["verdict"] for step in alpha["steps"]] == ["accept", "reject", "edit", "accept"]
    assert alpha["steps"][1] == {"verdict": "reject", "reason": "hallucinated_finding", "note": "Where?", "text": None}
    assert alpha["steps"][2]["text"] == "The cortex is interrupted."
    assert alpha["final"] == {"verdict": "edit", "reason": None, "note": "", "text": "Rib fracture, left"}
    assert beta["final"] is not None
    assert {part["verdict"] for part in (*beta["steps"], beta["final"])} == {"accept"}
    assert {alpha["reviewer"], beta["reviewer"]} == {"Dr. Anna"}


@pytest.mark.parametrize(("tool", "answered"), TOOLS)
def test_an_old_export_does_not_replace_a_newer_review(run: Path, tool: Tool, answered: Any) -> None:
    back = answered(export_tasks(run, tool), {"anna": GOOD})
    import_reviews(run, back, tool)
    (first,) = read_reviews(run)
    assert first["final"] is not None
    changed: Any = {"steps": first["steps"], "final": {**first["final"], "verdict": "reject", "reason": "unsupported"}, "note": ""}
    ReviewStore(run).add("review", "anna", first["case_id"], first["path_sha256"], changed)
    assert import_reviews(run, back, tool).known == 1
    assert current_reviews(read_reviews(run))["anna"]["final"] == changed["final"]


@pytest.mark.parametrize(("tool", "answered"), TOOLS)
def test_a_path_that_the_run_does_not_have_is_refused_and_nothing_is_added(run: Path, tool: Tool, answered: Any) -> None:
    back = answered(export_tasks(run, tool, min_score=0.0), {"7": GOOD})
    import_reviews(run, back, tool)
    sha = {event["path_sha256"] for event in read_reviews(run)}
    changed = written(back.with_name("changed.json"), json.loads(back.read_text().replace(max(sha), "0" * 64)))
    before = read_reviews(run)
    with pytest.raises(InputError, match="does not have"):
        import_reviews(run, changed, tool, {"7": "another"})
    assert read_reviews(run) == before


@pytest.mark.parametrize(("tool", "answered"), TOOLS)
def test_unfinished_and_wrong_answers_are_not_reviews(run: Path, tool: Tool, answered: Any) -> None:
    folder = export_tasks(run, tool)
    assert import_reviews(run, answered(folder, {"7": {"1": {"verdict": "accept"}}}), tool).incomplete == 1
    with pytest.raises(InputError, match=r"case 'alpha', reviewer '7': step 1 is rejected without a reason"):
        import_reviews(run, answered(folder, {"7": {**GOOD, "1": {"verdict": "reject"}}}), tool)
    with pytest.raises(InputError, match="is not a JSON export"):
        import_reviews(run, written(folder / "other.json", [{"data": {}, "metadata": {}, "annotations": [1], "responses": [1]}]), tool)
    assert not (run / "reviews.sqlite").exists()


def test_tasks_have_the_case_its_images_and_each_part_of_the_path(run: Path) -> None:
    tasks = json.loads((export_tasks(run, "label-studio") / "tasks.json").read_text())
    assert [task["data"]["chiron"]["part"] for task in tasks] == ["1", "2", "3", "4", "final"]
    assert tasks[0]["data"]["question"] == "What does alpha show?"
    assert tasks[0]["data"]["images"][0].startswith("data:image/")
    assert len(json.loads((export_tasks(run, "argilla", min_score=0.0) / "records.json").read_text())) == 10


def test_a_case_without_images_has_one_to_show_if_others_have_images(run: Path) -> None:
    # Label Studio 1.23 never opens a task whose list of images is empty.
    tasks = json.loads((export_tasks(run, "label-studio", min_score=0.0) / "tasks.json").read_text())
    assert [task["data"]["chiron"]["case_id"] for task in tasks] == ["alpha"] * 5 + ["beta"] * 5
    assert all(len(task["data"]["images"]) == 1 for task in tasks)
    assert tasks[0]["data"]["images"] != tasks[5]["data"]["images"]


def test_images_that_cannot_be_shown_are_counted(run: Path) -> None:
    (run.parent / "images" / "a.png").write_bytes(b"broken")
    tasks = json.loads((export_tasks(run, "label-studio") / "tasks.json").read_text())
    assert tasks[0]["data"]["question"] == "What does alpha show?\n(1 of 1 images of this case are not shown here.)"
    assert "<Image" not in (run / "label-studio" / "config.xml").read_text()


def test_a_damaged_case_that_is_not_exported_does_not_matter(run: Path) -> None:
    with sqlite3.connect(run / LEDGER) as database:
        database.execute("UPDATE results SET record = x'00' WHERE case_id = 'beta'")
    assert len(json.loads((export_tasks(run, "argilla", min_score=2.0) / "records.json").read_text())) == 5


def test_a_folder_that_cannot_be_created_is_refused(run: Path) -> None:
    (run / "taken").touch()
    with pytest.raises(InputError, match="taken cannot be created"):
        export_tasks(run, "argilla", run / "taken")


@pytest.mark.slow
def test_the_command_writes_tasks_and_reads_the_answers(run: Path) -> None:
    assert chiron("review", "export", str(run), "--to", "argilla").stdout.strip() == str(run / "argilla")
    back = in_argilla(run / "argilla", {"7": GOOD})
    done = chiron("review", "import", str(run), str(back), "--from", "argilla", "--name", "7=Dr. Anna")
    assert done.stdout == "reviews added: 1; known already: 0; incomplete and not added: 0\n"
    assert read_reviews(run)[0]["reviewer"] == "Dr. Anna"
    assert chiron("review", "export", str(run), "--to", "paper").returncode == 2
