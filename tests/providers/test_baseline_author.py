"""The embedded author and reader read the same messages as any endpoint, and the whole build runs on them."""

import asyncio
import json
from pathlib import Path

import pytest

from chiron.cases.case import Case
from chiron.cases.reader import AnswerPool, read_cases, read_textbook
from chiron.client.call import Call, Message
from chiron.mmrp.authoring import MultipleChoice, read_asked, read_choices
from chiron.mmrp.config import BuildFile, BuildPrompts
from chiron.mmrp.questions import build_questions
from chiron.mmrp.text import build_text
from chiron.phantom.sample import Sample, write_sample
from chiron.providers.baselines.provider import Offline
from tests.mmrp.building import lines
from tests.support.cases import a_case

PROMPTS = BuildPrompts.load()
OFFLINE = {
    "models": {name: {"provider": "offline", "model": f"{name}/rules"} for name in ("author", "reader")},
    "build": {"author": "author", "reader": "reader"},
}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return write_sample(tmp_path_factory.mktemp("sample"), count=36, size=32)


def ask(kind: str, catalogue: AnswerPool, messages: tuple[Message, ...], draw: int = 0) -> str:
    provider = Offline("x", f"{kind}/rules", catalogue)
    return asyncio.run(provider.complete(Call(kind, "x", provider.identity, messages, 0.7, 512, draw))).text


def test_the_author_goes_through_the_attributes_and_the_reader_finds_the_rule(sample: Sample) -> None:
    catalogue = AnswerPool.of_cases(sample.cases)
    rules = {(e.answer, tuple(e.attributes.values())) for e in read_textbook(sample.textbook)}
    for case in read_cases(sample.cases):
        assert isinstance(case, Case)
        (choice,) = read_choices(ask("author", catalogue, PROMPTS.author(case, 1)), 1)
        assert isinstance(choice, MultipleChoice)
        assert choice.options[choice.right()] == case.answer
        truth = case.meta["attributes"]
        assert choice.reasoning == tuple(f"The {name} is {value}." for name, value in truth.items())
        assert (case.answer, tuple(truth.values())) in rules
        read = ask("reader", catalogue, PROMPTS.reader_all(case, choice.question, choice.options))
        assert read == "ABCD"[choice.right()]


def test_without_the_case_the_reader_guesses(sample: Sample) -> None:
    catalogue = AnswerPool.of_cases(sample.cases)
    options = catalogue.answers[:4]
    guesses = {ask("reader", catalogue, PROMPTS.reader_blind("Which?", options), draw) for draw in range(40)}
    assert guesses == {"A", "B", "C", "D"}


def test_without_a_textbook_sentences_are_the_steps_and_words_the_evidence() -> None:
    catalogue = AnswerPool.of(["Rib fracture", "Pneumothorax", "Pericardial effusion", "Gout"])
    case = a_case(answer="Rib fracture", findings=("A fracture of the seventh rib.", "No effusion."))
    (choice,) = read_choices(ask("author", catalogue, PROMPTS.author(case, 1)), 1)
    assert isinstance(choice, MultipleChoice)
    assert choice.reasoning == case.findings
    assert set(choice.options) == set(catalogue.answers)
    assert ask("reader", catalogue, PROMPTS.reader(case, "Which?", ["Gout", "Rib fracture", "Pneumothorax", "x"])) == "B"


def test_too_few_answers_are_not_made_up() -> None:
    written = read_choices(ask("author", AnswerPool.of(["Rib fracture", "Gout"]), PROMPTS.author(a_case(answer="Gout"), 1)), 1)
    assert [getattr(item, "reason", None) for item in written] == ["not four options"]


def test_it_asks_in_each_manner(sample: Sample) -> None:
    catalogue = AnswerPool.of_cases(sample.cases)
    asked = [read_asked(ask("author", catalogue, PROMPTS.question(a_case(), m, ()))).question for m in ("doctor", "student", "patient")]
    assert [q.split(" ")[0] in {"Teacher,", "Doctor,"} for q in asked] == [False, True, True]


@pytest.mark.slow
def test_the_whole_build_runs_offline_and_twice_alike(tmp_path: Path, sample: Sample) -> None:
    config = BuildFile.check(OFFLINE, origin=tmp_path / "build.yaml")
    summary = build_text(sample.cases, config, tmp_path / "text")
    assert summary.kept + sum(summary.dropped.values()) == 36
    assert summary.kept >= 30
    assert set(summary.dropped) <= {"answered without the case"}
    build_text(sample.cases, config, tmp_path / "again")
    assert [r["messages"] for r in lines(tmp_path / "again" / "rows.jsonl")] == [
        r["messages"] for r in lines(tmp_path / "text" / "rows.jsonl")
    ]
    assert build_questions(sample.cases, config, tmp_path / "questions").kept == 3 * 36
    record = json.loads((tmp_path / "questions" / "cases.jsonl").read_text().splitlines()[0])
    assert record["id"] == "phantom-000000-doctor"
