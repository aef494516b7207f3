"""Questions for the search: three manners, checked, and cases that a search takes."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiron.cases.case import Case
from chiron.cases.reader import read_cases
from chiron.client.prompts import read_section
from chiron.mmrp.authoring import OpenQuestion, Refused
from chiron.mmrp.questions import build_questions, check_question
from tests.mmrp.building import build_config, lines
from tests.support.cases import a_case, write_cases, write_png
from tests.support.endpoint import Endpoint
from tests.support.runs import config_of, execute, team
from tests.support.simulation import Simulation, prompt_of

GOOD = "Which injury explains the pain after the fall?"


class Author:
    """Asks what it is given in each manner; counts what it is asked."""

    def __init__(self, *replies: str, verdict: str = "yes") -> None:
        self.replies, self.verdict, self.seen = replies, verdict, dict[str, int]()

    def answer(self, body: dict[str, Any]) -> str:
        prompt = prompt_of(body)
        if body["model"] == "reader":
            return self.verdict
        nth = self.seen[prompt] = self.seen.get(prompt, 0) + 1
        if self.replies:
            return self.replies[min(nth, len(self.replies)) - 1]
        manner = read_section(prompt, "manner") or ""
        address = next((f"{word}, " for word in ("Teacher", "Doctor") if f'"{word},"' in manner), "")
        return asked(f"{address}{GOOD}", "Rib fracture")


def asked(question: str, answer: str) -> str:
    return "```json\n" + json.dumps({"question": question, "answer": answer}) + "\n```"


def build(author: Author, cases: Path, out: Path, **config: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    with Endpoint(author.answer) as endpoint:
        build_questions(cases, build_config(endpoint.base_url, **config), out)
    return lines(out / "cases.jsonl"), lines(out / "dropped.jsonl")


@pytest.mark.slow
def test_three_manners_a_case_that_a_search_takes(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 2)
    made, dropped = build(Author(), cases, tmp_path / "out")
    assert dropped == []
    assert [c["id"] for c in made] == [f"case-0000{n}-{m}" for n in range(2) for m in ("doctor", "student", "patient")]
    assert [c["question"] for c in made[:3]] == [GOOD, f"Teacher, {GOOD}", f"Doctor, {GOOD}"]
    first, source = made[0], json.loads(cases.read_text().splitlines()[0])
    assert {k: first[k] for k in ("images", "history", "findings", "age", "sex")} == {
        k: source[k] for k in ("images", "history", "findings", "age", "sex")
    }
    assert first["made_from"] == first["patient"] == "case-00000"
    assert first["first_answer"] == source["answer"]
    with Endpoint(Simulation({c["question"]: c["answer"] for c in made}, skill=1.0).reply) as endpoint:
        config = config_of(team(endpoint.base_url))
        (tmp_path / "out" / "images").symlink_to(tmp_path / "images")
        assert execute(tmp_path / "out" / "cases.jsonl", config, tmp_path / "run").retained == 6


def test_material_without_a_question_gets_one(tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    record = {k: v for k, v in a_case(title="Rib fracture").to_record().items() if k not in {"question", "answer"}}
    cases.write_text(json.dumps(record))
    made, dropped = build(Author(), cases, tmp_path / "out", personas=["doctor"])
    assert [c["question"] for c in made] == [GOOD]
    assert "first_question" not in made[0]
    assert dropped == []
    assert all(isinstance(case, Case) for case in read_cases(tmp_path / "out" / "cases.jsonl"))


def test_material_of_images_alone_needs_to_be_shown(tmp_path: Path) -> None:
    write_png(tmp_path / "images" / "c1" / "0.png")
    cases = tmp_path / "cases.jsonl"
    cases.write_text(json.dumps({"id": "c1", "images": ["c1/0.png"]}) + "\n" + json.dumps({"id": "c2", "images": ["c2/0.png"]}))
    made, dropped = build(Author(), cases, tmp_path / "blind", personas=["doctor"])
    assert made == []
    assert [d["reason"] for d in dropped] == ["no text", "no text"]
    assert "show_images" in dropped[0]["detail"]
    author = Author()
    with Endpoint(author.answer) as endpoint:
        build_questions(cases, build_config(endpoint.base_url, show_images=True, personas=["doctor"]), tmp_path / "seen")
        assert [part["type"] for part in endpoint.seen.bodies[0]["messages"][1]["content"]] == ["image_url", "text"]
    assert [c["answer"] for c in lines(tmp_path / "seen" / "cases.jsonl")] == ["Rib fracture"]
    assert [(d["case_id"], d["reason"]) for d in lines(tmp_path / "seen" / "dropped.jsonl")] == [("c2", "bad image")]


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ("no JSON here", "broken reply"),
        ('{"question": 7, "answer": "x"}', "broken reply"),
        (asked("How does a rib fracture look?", "Rib fracture"), "answer in the question"),
        (asked(GOOD, "Pneumonia"), "answer not in the case"),
        (asked(GOOD, "yes"), "answer not in the case"),
        (asked(GOOD, " "), "empty answer"),
        (asked("One line\nand another?", "Rib fracture"), "several lines"),
        (asked("Why? " * 300, "Rib fracture"), "too long"),
    ],
)
def test_a_bad_question_is_asked_for_once_more_and_then_dropped(tmp_path: Path, first: str, reason: str) -> None:
    cases = write_cases(tmp_path, 1)
    made, dropped = build(Author(first, first), cases, tmp_path / "twice", personas=["student"])
    assert made == []
    assert [d["reason"] for d in dropped] == [reason]
    made, dropped = build(Author(first, asked(GOOD, "Rib fracture")), cases, tmp_path / "once", personas=["student"])
    assert len(made) == 1
    assert dropped == []


def test_a_reader_may_look_them_over(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 1)
    made, dropped = build(Author(verdict="No, it does not."), cases, tmp_path / "no", read_questions=True, personas=["doctor"])
    assert made == []
    assert [d["reason"] for d in dropped] == ["the reader disagrees"]
    made, _ = build(Author(verdict="Yes."), cases, tmp_path / "yes", read_questions=True, personas=["doctor"])
    assert len(made[0]["made_by"]["calls"]) == 2


@given(st.text(max_size=80), st.text(max_size=80))
def test_what_passes_is_one_line_and_gives_nothing_away(question: str, answer: str) -> None:
    case = a_case()
    found = check_question(case, OpenQuestion(question=question, answer=answer))
    if isinstance(found, Refused):
        return
    assert len(found.question.splitlines()) == len(found.answer.splitlines()) == 1
    assert found.answer.lower() not in found.question.lower()
