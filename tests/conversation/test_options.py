"""Options that replies name, by letter or by text."""

import pytest

from chiron.conversation.short_answers import LETTERS, named_options, option_of_answer
from chiron.evaluation.answers.extraction import read_choice

OPTIONS = ["Rib fracture", "Pneumothorax", "A. fumigatus infection", "Lung cancer"]


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        ("B", {1}), ("b.", {1}), ("(C)", {2}), ("**D**", {3}), ("A, C", {0, 2}), ("A and D", {0, 3}), ("none", set()), ("None.", set()),
        ("The answer is B.", {1}), ("Option A is tempting, but the answer is: **D**", {3}), ("It may be A.\nB", {1}),
        ("B. Pneumothorax", {1}), ("Pneumothorax", {1}), ("### The final answer is: C. A. fumigatus infection", {2}),
        ("<think>A? B?</think> D", {3}), ("A fracture is likely.", None), ("I cannot tell.", None), ("", None), ("E", None),
        ("The right options are A, B and C.", {0, 1, 2}), ("A C", {0, 2}),
    ],
)  # fmt: skip
def test_letters_are_read_and_words_are_not(reply: str, named: set[int] | None) -> None:
    assert named_options(reply, OPTIONS) == named


@pytest.mark.parametrize(
    "reply",
    [
        "B", "b.", "(C)", "**D**", "The answer is B.", "Option A is tempting, but the answer is: **D**", "B. Pneumothorax", "Pneumothorax",
        "### The final answer is: C. A. fumigatus infection", "<think>A? B?</think> D", "I cannot tell.", "",
    ],
)  # fmt: skip
def test_the_reader_of_the_evaluation_names_the_same_option_where_one_was_asked_for(reply: str) -> None:
    named, chosen = named_options(reply, OPTIONS), read_choice(reply, OPTIONS)
    assert ([LETTERS[index] for index in named] if named else [None]) == [chosen]


BACTERIA = ["E. coli", "C. difficile", "B. fragilis", "A. baumannii"]
MANY = [f"Diagnosis {number}" for number in range(12)]


@pytest.mark.parametrize(
    ("reply", "options", "index"),
    [
        ("C. difficile", BACTERIA, 1), ("A. baumannii", BACTERIA, 3), ("C", BACTERIA, 2), ("D.", BACTERIA, 3),
        ("C. B. fragilis", BACTERIA, 2),        ("B", ["B", "A"], 1), ("E", MANY, 4), ("(H)", MANY, 7),
        ("L. Diagnosis 11", MANY, 11), ("h", MANY, 7),
    ],
)  # fmt: skip
def test_the_whole_text_of_an_option_counts_before_a_letter_and_every_option_has_one(reply: str, options: list[str], index: int) -> None:
    assert named_options(reply, options) == frozenset({index})
    assert option_of_answer(reply, options) == options[index]
    assert read_choice(f"### The final answer is: {reply}", options) == LETTERS[index]


def test_letters_beyond_d_are_read_where_there_are_as_many_options() -> None:
    assert named_options("E, F and K", MANY) == frozenset({4, 5, 10})
    assert named_options("I cannot tell.", MANY) is None
    assert named_options("I", MANY) == frozenset({8})
    assert named_options("M", MANY) is None
