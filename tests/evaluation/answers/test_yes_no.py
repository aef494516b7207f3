"""Yes and no: the words themselves, and statements that answer the question."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import chiron
from chiron.evaluation.answers.answer_tags import ReplyFormat
from chiron.evaluation.answers.extraction import extract
from chiron.evaluation.answers.yes_no import yes_no


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Yes, abnormal", True),
        ("nodule present", None),
        ("No, there is no effusion.", False),
        ("Yes, there is no effusion.", True),
        ("There is no evidence of a mass.", None),
        ("No abnormality.", None),
        ("<think>No.</think><answer>Yes</answer>", True),
        ("### The final answer is: No", False),
        ("Yes or no", None),
        ("The answer is not yes.", None),
        ("Not sure, probably yes.", True),
        ("The answer is no. Wait, the answer is yes.", True),
        ("", None),
    ],
)
def test_only_the_words_themselves_count(reply: str, expected: bool | None) -> None:
    assert yes_no(reply) is expected


@given(st.text(), st.sampled_from([None, *ReplyFormat]))
def test_any_text_is_read_without_failing(reply: str, family: ReplyFormat | None) -> None:
    assert yes_no(reply, family=family) in {True, False, None}


def test_steps_without_an_end_say_neither_yes_nor_no() -> None:
    step = "### Step 1: No shift is seen.\n### Step 2: The ventricle is narrow"
    assert yes_no(step) is None
    assert yes_no(f"{step}, so the answer is yes") is True
    assert yes_no(f"{step}.\n\nNo") is False
    assert yes_no(f"{step}: the answer is yes or no") is None


THORAX = "Is there a pneumothorax?"


@pytest.mark.parametrize(
    ("reply", "question", "expected"),
    [
        ("There is no evidence of a pneumothorax.", THORAX, False),
        ("No pneumothorax is seen.", THORAX, False),
        ("There is no consolidation, effusion or pneumothorax.", THORAX, False),
        ("There is a small left pneumothorax.", THORAX, True),
        ("A pneumothorax is present.", THORAX, True),
        ("The film does not show a pneumothorax.", THORAX, False),
        ("There is no tension pneumothorax.", THORAX, None),
        ("A pneumothorax cannot be excluded.", THORAX, None),
        ("There may be a pneumothorax.", THORAX, None),
        ("There is an effusion.", THORAX, None),
        ("There is no longer a pneumothorax.", THORAX, None),
        ("There is mass effect.", "Is there a mass?", None),
        ("There is a mass in the kidney.", "Is there a mass in the liver?", None),
        ("There is no mass in the kidney.", "Is there a mass in the liver?", None),
        ("There is no mass.", "Is there a mass in the liver?", False),
        ("There is a right pneumothorax.", "Is there a pneumothorax on the left?", None),
        ("No evidence of a nodule.", "Is the lung clear?", None),
        ("No other pneumothorax is seen.", THORAX, None),
        ("Is there a pneumothorax?", THORAX, None),
        ("There is edema on the left, no edema on the right.", "Is there edema?", None),
        ("The heart is mildly enlarged.", "Is the heart enlarged?", True),
        ("The heart is not enlarged.", "<image>\nIs the heart enlarged?", False),
        ("The CT shows no hemorrhage.", "Does the CT show hemorrhage?", False),
        ("Probably not.", THORAX, False),
        ("Not really", THORAX, False),
        ("Yes... no wait, No.", THORAX, False),
        ("Nope", THORAX, False),
        ("\u662f\u7684", THORAX, True),
        ("\u5426", THORAX, False),
        ("\u6ca1\u6709", THORAX, False),
        ("Not sure.", THORAX, None),
        ("Yes, there is no pneumothorax.", THORAX, True),
        ("There is no evidence of a pneumothorax.", None, None),
    ],
)
def test_a_yes_or_no_is_read_with_its_question(reply: str, question: str | None, expected: bool | None) -> None:
    assert chiron.read_yes_no(reply, question) is expected


def test_a_statement_chooses_among_yes_and_no() -> None:
    assert extract("No pneumothorax is seen.", ["Yes", "No"], question=THORAX).letter == "B"
    assert extract("No pneumothorax is seen.", ["Yes", "No"]).letter is None
