"""What the small model learns from: true to the world, free of what must stay unseen, and in the form in which an intern is asked."""

from pathlib import Path

import pytest

from chiron.conversation.reasoning import parse_reasoning
from chiron.demo.data import is_pure
from chiron.demo.stage_rows import (
    ATTRIBUTES,
    DESCRIBE,
    answer_row,
    build_annotated,
    build_looks,
    build_stage_1,
    chain,
    described,
    rule_cases,
    steps_of,
)
from chiron.mics.prompts import load_prompts
from chiron.phantom.sample import generate_case, write_textbook
from chiron.phantom.world import COMBINATIONS, DIAGNOSES, World, split

WORLD = World(3)
PROMPTS = load_prompts()


@pytest.mark.slow
def test_stage_1_says_every_rule_and_shows_no_image(tmp_path: Path) -> None:
    write_textbook(WORLD, tmp_path / "textbook.jsonl")
    rows = build_stage_1(rule_cases(WORLD, copies=2, seed=0), tmp_path, PROMPTS, seed=0)
    assert len({row["id"] for row in rows}) == len(rows)
    assert len(rows) > 0.7 * 2 * 108 * 6  # the reader, which guesses without the case, is right too often now and then
    seen = set()
    for row in rows:
        assert row["images"] == []
        *told, said = (turn["content"] for turn in row["messages"])
        known = " ".join(told) + said
        (matching,) = (a for a in COMBINATIONS if all(step in known for step in steps_of(a)))
        assert parse_reasoning(said).answer == WORLD.diagnose(matching)
        seen.add(matching)
    assert seen == set(COMBINATIONS)


def test_stage_2_names_no_diagnosis(tmp_path: Path) -> None:
    castings = [generate_case(WORLD, index, seed=0, size=64) for index in range(72)]
    rows = build_looks(map(described, castings), tmp_path, "looks", PROMPTS, seed=0)
    for casting, row in zip(castings, rows, strict=True):
        text = " ".join(turn["content"] for turn in row["messages"])
        assert not any(diagnosis in text for diagnosis in DIAGNOSES)
        assert DESCRIBE in text
        assert all(step in text for step in steps_of(casting.attributes))
        assert row["messages"][-2]["content"].count("<image>") == len(casting.case.images) == len(row["images"])
    begun = sum(not row["messages"][-1]["content"].startswith("### Step 1:") for row in rows)
    assert 0.1 < begun / len(rows) < 0.4


def test_the_interns_rows_continue_an_annotated_case_from_every_length_to_its_diagnosis(tmp_path: Path) -> None:
    annotated = [generate_case(WORLD, index, seed=1, size=64, among=split(WORLD).seen, name="annotated") for index in range(6)]
    rows = build_annotated(map(described, annotated), tmp_path, PROMPTS, seed=0)
    assert len(rows) == len(annotated) * (len(ATTRIBUTES) + 1)
    cases = {casting.case.id: casting for casting in annotated}
    for row in rows:
        casting = cases[row["case_id"]]
        asked, reply = (turn["content"] for turn in row["messages"][-2:])
        assert parse_reasoning(reply).answer == casting.case.answer
        assert casting.case.answer not in asked
        for step in steps_of(casting.attributes):
            assert (step in asked) != (step in reply)


def test_stage_3_asks_as_an_intern_is_asked() -> None:
    casting = generate_case(WORLD, 5, seed=0, size=64)
    said = chain(casting.attributes, casting.case.answer)
    row = answer_row(casting.case, PROMPTS, said)
    asked = PROMPTS.intern(casting.case, (), ())
    assert row["messages"][-2]["content"].removeprefix("<image>\n" * len(casting.case.images)) == asked[-1].text
    assert row["messages"][-1] == {"role": "assistant", "content": said}
    assert casting.case.answer not in row["messages"][-2]["content"]


def test_a_path_is_pure_if_all_of_it_is_true_and_nothing_is_missing() -> None:
    casting = generate_case(WORLD, 5, seed=0, size=64)
    truth = set(steps_of(casting.attributes))
    said = chain(casting.attributes, "X")
    assert is_pure(said, truth)
    assert not is_pure(said.replace(casting.attributes.side, "up"), truth)
    assert not is_pure("\n".join(said.splitlines()[1:]), truth)
